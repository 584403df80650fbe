"""What `clip_core.pipeline.Clip` asks of a backend. Batches are padded to few shapes, since each one is traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from clip_core.pipeline import pad_columns, pad_rows

from .modeling import TFCLIPModel


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> TFCLIPModel:
    """A TFCLIPModel; `device` is a name such as "/GPU:0"."""
    with tf.device(device):
        return TFCLIPModel.from_pretrained(name_or_path, dtype=dtype, **kwargs)


def text_features(model: TFCLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    padded = pad_rows(pad_columns(input_ids, model.config.text_config.max_position_embeddings))
    return tf.cast(model.get_text_features(padded), tf.float32).numpy()[: len(input_ids)]


def image_features(model: TFCLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return tf.cast(model.get_image_features(pad_rows(pixel_values)), tf.float32).numpy()[: len(pixel_values)]


def logit_scale(model: TFCLIPModel) -> float:
    """The stored logarithm."""
    return float(np.asarray(model.logit_scale).reshape(()))
