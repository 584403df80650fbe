"""What `triclip.pipeline.Clip` asks of a backend. A model's two methods are traced once, for any batch and length."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from clip_tf.modeling import TFCLIPModel


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> TFCLIPModel:
    """A TFCLIPModel; `device` is a name such as "/GPU:0"."""
    with tf.device(device):
        return TFCLIPModel.from_pretrained(name_or_path, dtype=dtype, **kwargs)


def text_features(model: TFCLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    return _graph(model, "get_text_features", "input_ids")(tf.constant(input_ids, tf.int32)).numpy()


def image_features(model: TFCLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return _graph(model, "get_image_features", "pixel_values")(tf.constant(pixel_values, tf.float32)).numpy()


def logit_scale(model: TFCLIPModel) -> float:
    """The stored logarithm."""
    return float(np.asarray(model.logit_scale).reshape(()))


def _graph(model: TFCLIPModel, method: str, input_name: str) -> Any:
    """A method as a graph, kept with its model: several times as fast as eager layers on small batches."""
    graphs = vars(model).setdefault("_pipeline_graphs", {})
    if method not in graphs:
        run = getattr(model, method)
        signature = [model.input_signature[input_name]]
        graphs[method] = tf.function(lambda x: tf.cast(run(x), tf.float32), input_signature=signature)
    return graphs[method]
