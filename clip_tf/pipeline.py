"""What `clip_core.pipeline.Clip` asks of a backend."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .modeling import TFCLIPModel


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> TFCLIPModel:
    """A TFCLIPModel whose variables live on `device`, e.g. "CPU:0" or "/GPU:0"."""
    with tf.device(device) if device else nullcontext():
        return TFCLIPModel.from_pretrained(name_or_path, dtype=dtype, **kwargs)


def text_features(model: TFCLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    return _float32(_compiled(model, "get_text_features")(tf.convert_to_tensor(input_ids, tf.int32)))


def image_features(model: TFCLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return _float32(_compiled(model, "get_image_features")(tf.convert_to_tensor(pixel_values)))


def logit_scale(model: TFCLIPModel) -> float:
    """The stored logarithm."""
    return float(keras.ops.convert_to_numpy(model.logit_scale))


def _compiled(model: TFCLIPModel, method: str) -> Any:
    """A method as a graph, traced once per model; the batch size is left open."""
    graphs = vars(model).setdefault("_pipeline_graphs", {})
    if method not in graphs:
        graphs[method] = tf.function(getattr(model, method), reduce_retracing=True)
    return graphs[method]


def _float32(x: tf.Tensor) -> np.ndarray:
    return tf.cast(x, tf.float32).numpy()
