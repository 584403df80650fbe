"""Keras layers that know their input sizes, so that a model has its weights as soon as it exists.

Weights start as zeros: the model draws them all at once (`clip_core.init`), or a checkpoint fills them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


class Layer(keras.layers.Layer):
    """A layer made of layers. Its float inputs stay as they are: what computes in another dtype casts by itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self._allow_non_tensor_positional_args = True

    def build(self, input_shape: Any = None) -> None:
        build_children(self)


@keras.saving.register_keras_serializable("clip_tf")
class Linear(keras.layers.Dense):
    """x [..., in_features] -> [..., out_features]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **kwargs: Any) -> None:
        super().__init__(out_features, use_bias=bias, kernel_initializer="zeros", **kwargs)
        self.in_features = in_features

    def build(self, input_shape: Any = None) -> None:
        super().build((None, self.in_features))

    def get_config(self) -> dict[str, Any]:
        base = {key: value for key, value in super().get_config().items() if key in ("name", "trainable", "dtype")}
        return {**base, "in_features": self.in_features, "out_features": self.units, "bias": self.use_bias}


class PatchConv(keras.layers.Conv2D):
    """x [B, H, W, C] -> [B, H // patch, W // patch, out_channels], without overlap; what is left over is cut off."""

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__(
            out_channels,
            patch,
            patch,
            padding="valid",
            data_format="channels_last",
            use_bias=False,
            kernel_initializer="zeros",
        )
        self.in_channels = in_channels

    def build(self, input_shape: Any = None) -> None:
        super().build((None, None, None, self.in_channels))


class Embedding(keras.layers.Embedding):
    """ids [...] -> [..., width]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width, embeddings_initializer="zeros")

    def replace(self, rows: tf.Tensor) -> None:
        """Put another table, of any number of rows, in the place of this one."""
        old = self.embeddings
        self._tracker.unlock()  # a built layer otherwise refuses new variables
        self._untrack_variable(old)
        self.input_dim = int(rows.shape[0])
        self._embeddings = self.add_weight(
            shape=rows.shape, initializer="zeros", name="embeddings", trainable=old.trainable
        )
        self._tracker.lock()
        self._embeddings.assign(rows)


class LayerNorm(keras.layers.LayerNormalization):
    """Normalises the last axis, in float32 at least."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(epsilon=eps)
        self.width = width

    def build(self, input_shape: Any = None) -> None:
        super().build((None, self.width))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # Keras takes E[x^2] - E[x]^2 for the variance, which loses digits where a state has a large mean.
        y = at_least_float32(x)
        y = y - tf.reduce_mean(y, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(y), axis=-1, keepdims=True)
        gamma, beta = tf.cast(self.gamma, y.dtype), tf.cast(self.beta, y.dtype)
        return tf.cast(y * tf.math.rsqrt(variance + self.epsilon) * gamma + beta, self.compute_dtype)


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Half precision widened; anything else as it is."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


@contextmanager
def dtype_of(layer: keras.layers.Layer) -> Iterator[None]:
    """Layers made inside get the dtype policy of `layer`, as if it had been passed to each of them."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(layer.dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_children(layer: keras.layers.Layer) -> None:
    """Build every layer held in an attribute, under the attribute's name: variable paths then are canonical names."""
    for name, value in list(vars(layer).items()):
        if name.startswith("_"):  # Keras' own lists of the same layers
            continue
        if isinstance(value, list | tuple):
            named = [(f"{name}_{i}", item) for i, item in enumerate(value)]
        else:
            named = [(name, value)]
        for child_name, child in named:
            if isinstance(child, keras.layers.Layer) and not child.built:
                child.name = child_name
                child.build()
