"""What `triclip.pipeline.Clip` asks of a backend. Batches are padded to few shapes, since each one compiles."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from clip_flax.modeling import FlaxCLIPModel

from ..pipeline import pad_columns, pad_rows


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> FlaxCLIPModel:
    """A FlaxCLIPModel; `device` is a jax.Device or a platform's name."""
    model = FlaxCLIPModel.from_pretrained(name_or_path, dtype=dtype or "float32", **kwargs)
    if device is not None:
        model.params = jax.device_put(model.params, jax.devices(device)[0] if isinstance(device, str) else device)
    return model


def text_features(model: FlaxCLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    padded = pad_rows(pad_columns(input_ids, model.config.text_config.max_position_embeddings))
    return np.asarray(model.get_text_features(padded.astype(np.int32)), np.float32)[: len(input_ids)]


def image_features(model: FlaxCLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return np.asarray(model.get_image_features(pad_rows(pixel_values)), np.float32)[: len(pixel_values)]


def logit_scale(model: FlaxCLIPModel) -> float:
    """The stored logarithm."""
    return float(model.params["logit_scale"])
