"""What `triclip.pipeline.Clip` asks of a backend."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from clip_core import machine
from clip_torch.modeling import CLIPModel

from ..prefixes import Prefixes
from .torch_prefixes import features, may_share


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> CLIPModel:
    """A CLIPModel in evaluation mode."""
    return CLIPModel.from_pretrained(name_or_path, dtype=dtype, device_map=device, **kwargs)


@torch.inference_mode()
def text_features(model: CLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    return model.get_text_features(torch.from_numpy(input_ids).to(model.device)).float().cpu().numpy()


@torch.inference_mode()
def prefix_features(model: CLIPModel, prefixes: Prefixes) -> np.ndarray:
    """As `text_features`, of texts that share beginnings."""
    if not may_share(model):
        return text_features(model, _whole(prefixes))
    return features(model, prefixes).float().cpu().numpy()


def _whole(prefixes: Prefixes) -> np.ndarray:
    """The texts [B, S] again; behind its end each has its end token, which is not the first one there."""
    columns = np.minimum(np.arange(prefixes.paths.shape[1]), prefixes.ends[:, None])
    return prefixes.tokens[np.take_along_axis(prefixes.paths, columns, axis=1)]


@torch.inference_mode()
def image_features(model: CLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return model.get_image_features(torch.from_numpy(pixel_values).to(model.device)).float().cpu().numpy()


def separate_cores(model: CLIPModel) -> int:
    """How many cores may compute a batch each (`one_core_workers`); 1 where they can't: off the CPU."""
    return min(torch.get_num_threads(), machine.usable_cpus()) if model.device.type == "cpu" else 1


_changing_threads = threading.Lock()


def one_core_workers(count: int) -> Executor:
    """`count` threads whose products stay on one core each."""
    started = threading.Barrier(count)
    with _changing_threads:
        own = torch.get_num_threads()
        # The number is of the thread that sets it, and what later threads begin with: this is put back.
        workers = ThreadPoolExecutor(count, "triclip-core", _use_one_core)
        list(workers.map(lambda _: started.wait(), range(count)))
        torch.set_num_threads(own)
    return workers


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread's first question sets its number to the common one
    torch.set_num_threads(1)


def logit_scale(model: CLIPModel) -> float:
    """The stored logarithm."""
    return float(model.logit_scale.detach())
