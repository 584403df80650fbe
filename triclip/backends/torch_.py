"""The tools' backend in PyTorch: see `triclip.backends.Backend`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from clip_core import machine
from clip_torch.int8 import is_int8, quantize
from clip_torch.modeling import CLIPModel

from ..prefixes import pad_rows_of_ids, shared_prefixes
from . import PairAttentions, no_such_device
from .torch_prefixes import features, may_share


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> CLIPModel:
    """A CLIPModel in evaluation mode; of dtype "int8" with int8 encoders (`clip_torch.int8`), on the CPU."""
    small = dtype in ("int8", torch.int8)
    if isinstance(device, str):
        device = find_device("cpu" if small and device == "auto" else device)[0]
    if small:
        return quantize(CLIPModel.from_pretrained(name_or_path, device_map=device, **kwargs))
    return CLIPModel.from_pretrained(name_or_path, dtype=dtype, device_map=device, **kwargs)


def find_device(name: str) -> tuple[torch.device, str]:
    """See `Backend.find_device`."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    gpus += ["mps"] if torch.backends.mps.is_available() else []
    wanted = (gpus or ["cpu"])[0] if name == "auto" else "cuda:0" if name == "cuda" else name
    if wanted.partition(":")[0] in ("cuda", "mps") and wanted not in gpus:
        raise no_such_device(name, [*gpus, "cpu"])
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise no_such_device(name, [*gpus, "cpu"]) from error
    return device, f"{wanted} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else wanted


@torch.inference_mode()
def text_features(model: CLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    return model.get_text_features(torch.from_numpy(input_ids).to(model.device)).float().cpu().numpy()


@torch.inference_mode()
def row_features(model: CLIPModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Of texts' ids, each up to its end token. Shared prefixes are computed once if the model is unchanged."""
    if not may_share(model):
        return text_features(model, pad_rows_of_ids(rows))
    return features(model, shared_prefixes(rows)).float().cpu().numpy()


@torch.inference_mode()
def image_features(model: CLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return model.get_image_features(torch.from_numpy(pixel_values).to(model.device)).float().cpu().numpy()


def separate_cores(model: CLIPModel) -> int:
    """How many cores may compute a batch each (`one_core_workers`); 1 off the CPU, and in ONNX Runtime, whose
    threads are the process's."""
    if is_int8(model):
        return 1
    return min(torch.get_num_threads(), machine.usable_cpus()) if model.device.type == "cpu" else 1


_changing_threads = threading.Lock()


def one_core_workers(count: int) -> Executor:
    """`count` threads whose products stay on one core each."""
    started = threading.Barrier(count)
    with _changing_threads:
        own = torch.get_num_threads()
        # Setting the number of threads also sets the default of later threads, which is restored here.
        workers = ThreadPoolExecutor(count, "triclip-core", _use_one_core)
        list(workers.map(lambda _: started.wait(), range(count)))
        torch.set_num_threads(own)
    return workers


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread's first query sets its number to the default
    torch.set_num_threads(1)


def logit_scale(model: CLIPModel) -> float:
    """The stored logarithm."""
    return float(model.logit_scale.detach())


def pair_attentions(
    model: CLIPModel, pixel_values: np.ndarray, input_ids: np.ndarray, gradients: bool
) -> PairAttentions:
    """float32 [1, C, H, W] and int64 [1, S] -> attention weights and, if asked for, the logit's gradients."""
    towers = (model.vision_model, model.text_model)
    # With all parameters frozen, the graph begins at the embedded tokens.
    hooks = [tower.embeddings.register_forward_hook(lambda _m, _i, x: x.requires_grad_()) for tower in towers]
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            out = model(
                input_ids=torch.from_numpy(input_ids).to(model.device),
                pixel_values=torch.from_numpy(pixel_values).to(model.device),
                output_attentions=True,
            )
            logit = out.logits_per_image[0, 0]
            vision, text = out.vision_model_output.attentions, out.text_model_output.attentions
            slopes = torch.autograd.grad(logit, (*vision, *text)) if gradients else ()
    finally:
        for hook in hooks:
            hook.remove()
    return PairAttentions(
        _stacked(vision),
        _stacked(text),
        _stacked(slopes[: len(vision)]) if gradients else None,
        _stacked(slopes[len(vision) :]) if gradients else None,
        float(logit.detach()),
    )


def _stacked(layers: tuple[torch.Tensor, ...]) -> np.ndarray:
    """L of [1, H, N, N] -> float32 [L, H, N, N]."""
    return torch.cat([layer.detach() for layer in layers]).float().cpu().numpy()
