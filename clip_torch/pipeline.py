"""What `clip_core.pipeline.Clip` asks of a backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clip_core.prefixes import Prefixes

from .modeling import CLIPModel
from .prefixes import features


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
    return features(model, prefixes).float().cpu().numpy()


@torch.inference_mode()
def image_features(model: CLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return model.get_image_features(torch.from_numpy(pixel_values).to(model.device)).float().cpu().numpy()


def logit_scale(model: CLIPModel) -> float:
    """The stored logarithm."""
    return float(model.logit_scale.detach())
