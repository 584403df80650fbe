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

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.product(x)

    def product(self, x: tf.Tensor, before: float = 1.0, after: float = 1.0) -> tf.Tensor:
        """before * (after * x @ kernel + bias).

        Keras keeps x's axes between the product and the bias; with two axes, a graph computes both in one kernel.
        """
        kernel = tf.cast(self.kernel, x.dtype)
        rows = tf.reshape(x if before == 1.0 else before * x, (-1, x.shape[-1]))
        rows = tf.matmul(rows, kernel)
        rows = rows if after == 1.0 else after * rows
        if self.bias is not None:
            bias = tf.cast(self.bias, x.dtype)
            rows = tf.nn.bias_add(rows, bias if before == 1.0 else before * bias)
        return tf.reshape(rows, (*sizes(x)[:-1], self.units))

    def get_config(self) -> dict[str, Any]:
        base = {key: value for key, value in super().get_config().items() if key in ("name", "trainable", "dtype")}
        return {**base, "in_features": self.in_features, "out_features": self.units, "bias": self.use_bias}


def mlp(fc1: keras.layers.Layer, act: str | None, fc2: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor | None:
    """fc2(quick_gelu(fc1(x))) with fewer passes over the wide array; None where that can't be had.

    A graph computes z * sigmoid(z) in one kernel on CPUs, and z = 1.702 * fc1(x) costs nothing where x is narrow.
    """
    plain = all(type(fc) is Linear and not fc.quantization_mode and fc.compute_dtype == x.dtype for fc in (fc1, fc2))
    if act != "quick_gelu" or x.dtype not in (tf.float32, tf.float64) or not plain:
        return None
    z = fc1.product(x, before=1.702)
    return fc2.product(z * tf.sigmoid(z), after=1 / 1.702)


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


def sizes(x: tf.Tensor) -> list[Any]:
    """The sizes of the axes: numbers where they are known, scalar tensors where not."""
    return [tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape)]


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
