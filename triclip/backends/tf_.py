"""The tools' backend in TensorFlow: see `triclip.backends.Backend`.

A model's two methods are traced once, for any batch and length.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from clip_tf.modeling import TFCLIPModel
from clip_tf.shortcuts import settings, untouched

from ..prefixes import pad_rows_of_ids
from . import PairAttentions, no_such_device


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> TFCLIPModel:
    """A TFCLIPModel; `device` is a name such as "cuda" or "/GPU:0"."""
    if device is not None and not device.startswith("/"):
        device = find_device(device)[0]
    with tf.device(device):
        return TFCLIPModel.from_pretrained(name_or_path, dtype=dtype, **kwargs)


def find_device(name: str) -> tuple[str, str]:
    """See `Backend.find_device`."""
    gpus = [f"cuda:{number}" for number in range(len(tf.config.list_logical_devices("GPU")))]
    wanted = (gpus or ["cpu"])[0] if name == "auto" else "cuda:0" if name in ("cuda", "gpu", "mps") else name
    if wanted not in (*gpus, "cpu"):
        raise no_such_device(name, [*gpus, "cpu"])
    return ("/CPU:0" if wanted == "cpu" else f"/GPU:{wanted.partition(':')[2]}"), wanted


def text_features(model: TFCLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    return _run(model, "get_text_features", "input_ids", tf.constant(input_ids, tf.int32))


def row_features(model: TFCLIPModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Of texts' ids, each up to its end token."""
    return text_features(model, pad_rows_of_ids(rows))


def image_features(model: TFCLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return _run(model, "get_image_features", "pixel_values", tf.constant(pixel_values, tf.float32))


def logit_scale(model: TFCLIPModel) -> float:
    """The stored logarithm."""
    return float(np.asarray(model.logit_scale).reshape(()))


def _run(model: TFCLIPModel, method: str, input_name: str, values: tf.Tensor) -> np.ndarray:
    run = getattr(model, method)
    if untouched(model):
        run = _graph(model, method, input_name)
    return np.asarray(tf.cast(run(values), tf.float32))


def _graph(model: TFCLIPModel, method: str, input_name: str) -> Any:
    """A method as a graph, kept with its model: several times as fast as eager layers on small batches.

    A graph keeps the layers and settings of its tracing; if they changed, it is traced again.
    """
    graphs = vars(model).setdefault("_pipeline_graphs", {})
    state, graph = graphs.get(method, ((), None))
    now = settings(model)
    if graph is None or len(state) != len(now) or any(a is not b for a, b in zip(state, now, strict=True)):
        run = getattr(model, method)
        signature = [model.input_signature[input_name]]
        graph = tf.function(lambda x: tf.cast(run(x), tf.float32), input_signature=signature)
        graphs[method] = (now, graph)
    return graph


def separate_cores(model: TFCLIPModel) -> int:
    """1: TensorFlow's threads belong to the process."""
    return 1


def one_core_workers(count: int) -> Executor:
    """One thread: see `separate_cores`."""
    return ThreadPoolExecutor(1)


def pair_attentions(
    model: TFCLIPModel, pixel_values: np.ndarray, input_ids: np.ndarray, gradients: bool
) -> PairAttentions:
    """float32 [1, C, H, W] and int64 [1, S] -> attention weights and, if asked for, the logit's gradients."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if gradients:
            for variable in model.variables:  # frozen ones too: else nothing is recorded
                tape.watch(variable.value)
        out = model(
            input_ids=tf.constant(input_ids, tf.int32),
            pixel_values=tf.constant(pixel_values, tf.float32),
            output_attentions=True,
        )
        logit = out.logits_per_image[0, 0]
    vision, text = out.vision_model_output.attentions, out.text_model_output.attentions
    slopes = tape.gradient(logit, [*vision, *text]) if gradients else []
    return PairAttentions(
        _stacked(vision),
        _stacked(text),
        _stacked(slopes[: len(vision)]) if gradients else None,
        _stacked(slopes[len(vision) :]) if gradients else None,
        float(logit),
    )


def _stacked(layers: Sequence[tf.Tensor]) -> np.ndarray:
    """L of [1, H, N, N] -> float32 [L, H, N, N]."""
    return tf.cast(tf.concat(layers, 0), tf.float32).numpy()
