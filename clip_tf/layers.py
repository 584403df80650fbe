"""Keras layers with given input sizes, so that a model has its weights from construction.

Weights start as zeros: the model draws them all at once (`clip_core.init`), or a checkpoint fills them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from typing import Any

import keras
import tensorflow as tf

from clip_core.interpolate import bicubic_matrix


class Layer(keras.layers.Layer):
    """A layer made of layers. Its float inputs are not cast; the layers that compute cast them.

    Its layers may be replaced or wrapped at any time, also after the weights exist.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self._allow_non_tensor_positional_args = True  # without it Keras accepts flags only as keywords

    def build(self, input_shape: Any = None) -> None:
        build_children(self)

    def _lock_state(self) -> None:
        """Called by Keras after `build` to refuse new layers, which are allowed here. Another Keras may refuse."""

    def __setattr__(self, name: str, value: Any) -> None:
        forget_layers(self, vars(self).get(name))
        super().__setattr__(name, value)


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

        Keras keeps x's axes between the product and the bias; with two axes a graph computes both in one kernel.
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


class Conv(keras.layers.Conv2D):
    """x [B, H, W, C] -> [B, H', W', out_channels]. edge: rows and columns of zeros on every side."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1, edge: int = 0) -> None:
        super().__init__(
            out_channels,
            size,
            stride,
            padding="valid",
            data_format="channels_last",
            use_bias=False,
            kernel_initializer="zeros",
        )
        self.in_channels, self.edge = in_channels, edge

    def build(self, input_shape: Any = None) -> None:
        super().build((None, None, None, self.in_channels))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # Keras' "same" puts more zeros behind than before, where a stride leaves a choice.
        sides = (self.edge, self.edge)
        return super().call(tf.pad(x, ((0, 0), sides, sides, (0, 0))) if self.edge else x)


class PatchConv(Conv):
    """x [B, H, W, C] -> [B, H // patch, W // patch, out_channels], without overlap; what is left over is cut off."""

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__(in_channels, out_channels, patch, patch)


class BatchNorm(Layer):
    """Normalises each channel of [B, H, W, C], in float32 at least, by PyTorch's rule, which is not Keras'.

    In training by the batch's own mean and biased variance; the running ones move towards them, the unbiased variance,
    by `momentum`. Frozen (`trainable = False`) it is as in inference.
    """

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.channels, self.epsilon, self.momentum = channels, eps, momentum

    def build(self, input_shape: Any = None) -> None:
        shape, fixed = (self.channels,), {"trainable": False, "autocast": False}
        self.gamma = self.add_weight(shape, "zeros", name="gamma")
        self.beta = self.add_weight(shape, "zeros", name="beta")
        self.moving_mean = self.add_weight(shape, "zeros", name="moving_mean", **fixed)
        self.moving_variance = self.add_weight(shape, "zeros", name="moving_variance", **fixed)
        self.count = self.add_weight((), "zeros", "int64", name="num_batches_tracked", **fixed)
        super().build()

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        y = at_least_float32(x)
        mean, variance = (tf.cast(value, y.dtype) for value in (self.moving_mean, self.moving_variance))
        if training and self.trainable:
            running, count = (mean, variance), tf.cast(tf.size(y) // self.channels, y.dtype)
            mean, variance = tf.nn.moments(y, (0, 1, 2))
            self.follow(running, (mean, variance * count / tf.maximum(count - 1, 1)))
        gamma, beta = tf.cast(self.gamma, y.dtype), tf.cast(self.beta, y.dtype)
        return tf.cast(tf.nn.batch_normalization(y, mean, variance, beta, gamma, self.epsilon), x.dtype)

    def follow(self, running: tuple[tf.Tensor, ...], found: tuple[tf.Tensor, ...]) -> None:
        for variable, old, new in zip((self.moving_mean, self.moving_variance), running, found, strict=True):
            moved = old + self.momentum * (tf.stop_gradient(new) - old)
            variable.assign(tf.cast(moved, variable.dtype))
        self.count.assign_add(1)


class Embedding(keras.layers.Embedding):
    """ids [...] -> [..., width]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width, embeddings_initializer="zeros")

    @classmethod
    def of(cls, table: tf.Tensor, owner: keras.layers.Layer) -> Embedding:
        """A built layer with a table [rows, width] and the dtype policy of its future owner."""
        with dtype_of(owner):
            layer = cls(*map(int, table.shape))
        layer.build()
        layer.embeddings.assign(table)
        return layer


class LayerNorm(keras.layers.LayerNormalization):
    """Normalises the last axis, in float32 at least."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(epsilon=eps)
        self.width = width

    def build(self, input_shape: Any = None) -> None:
        super().build((None, self.width))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # Keras computes the variance as E[x^2] - E[x]^2, which loses digits for states with a large mean.
        y = at_least_float32(x)
        y = y - tf.reduce_mean(y, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(y), axis=-1, keepdims=True)
        gamma, beta = tf.cast(self.gamma, y.dtype), tf.cast(self.beta, y.dtype)
        return tf.cast(y * tf.math.rsqrt(variance + self.epsilon) * gamma + beta, self.compute_dtype)


def quick_gelu(x: tf.Tensor) -> tf.Tensor:
    """OpenAI's sigmoid approximation of GELU."""
    return x * tf.sigmoid(1.702 * x)


def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """The tanh approximation of GELU, `gelu_new` in configs."""
    return tf.nn.gelu(x, approximate=True)


ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": tf.nn.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": tf.nn.relu,
    "selu": tf.nn.selu,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
}


def sizes(x: tf.Tensor) -> list[Any]:
    """The sizes of the axes: numbers if known, else scalar tensors."""
    return [tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape)]


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Half precision as float32; other dtypes unchanged."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


def resampled_positions(table: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The learned positions [1 + g * g, D], resampled (bicubic) to another grid: [1 + height * width, D]."""
    side = isqrt(table.shape[0] - 1)
    if (height, width) == (side, side) or height * width + 1 == table.shape[0] != side * side + 1:
        return table
    grid = tf.reshape(at_least_float32(table[1:]), (side, side, -1))  # [g, g, D]
    rows, columns = (tf.cast(bicubic_matrix(side, size), grid.dtype) for size in (height, width))
    grid = tf.einsum("hg,gkd,wk->hwd", rows, grid, columns)
    return tf.concat([table[:1], tf.cast(tf.reshape(grid, (height * width, -1)), table.dtype)], axis=0)


@contextmanager
def dtype_of(layer: keras.layers.Layer) -> Iterator[None]:
    """Layers made in the block get the dtype policy of `layer`, as if it was passed to each of them."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(layer.dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def children(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers in a layer's attributes, by attribute; those in a list or dict by "attribute.number" or ".key"."""
    attributes = dict(vars(layer))
    if isinstance(layer, keras.Sequential):
        attributes = dict(enumerate(layer.layers))
    for name, value in attributes.items():
        if str(name).startswith("_"):  # Keras' own lists of the same layers
            continue
        items = {str(name): value}
        if isinstance(value, list | tuple):
            items = {f"{name}.{i}": item for i, item in enumerate(value)}
        elif isinstance(value, dict):
            items = {f"{name}.{key}": item for key, item in value.items()}
        yield from ((path, item) for path, item in items.items() if isinstance(item, keras.layers.Layer))


def build_children(layer: keras.layers.Layer) -> None:
    """Build every layer in an attribute under the attribute's name, so that variable paths are canonical names.

    Other kinds of layers, which a subclass may have, learn their sizes when they are called.
    """
    for name, child in children(layer):
        if isinstance(child, Layer | Linear | Conv | Embedding | LayerNorm) and not child.built:
            child.name = name.replace(".", "_")
            child.build()


def forget_layers(owner: keras.layers.Layer, old: Any) -> None:
    """Untrack the weights of an attribute's layers, which are about to be replaced.

    Keras does not do this. Without a tracker, unused weights stay in `owner.weights`.
    """
    tracker = getattr(owner, "_tracker", None)
    for item in old if isinstance(old, list | tuple) else (old,):
        if isinstance(item, keras.layers.Layer) and hasattr(tracker, "untrack"):
            tracker.untrack(item)
