"""Linen layers with CLIP's initialisation and arithmetic."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clip_core.config import CLIPConfig, CLIPTextConfig
from clip_core.errors import InputError
from clip_core.init import deviation
from clip_core.interpolate import bicubic_matrix

from . import shortcuts

CHECKPOINT_POLICIES = (
    "nothing_saveable",
    "everything_saveable",
    "dots_saveable",
    "checkpoint_dots",
    "dots_with_no_batch_dims_saveable",
    "checkpoint_dots_with_no_batch_dims",
)


def quick_gelu(x: jax.Array) -> jax.Array:
    """OpenAI's sigmoid approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh approximation of GELU, `gelu_new` in configs."""
    return nn.gelu(x, approximate=True)


ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": nn.relu,
    "selu": nn.selu,
    "silu": nn.silu,
    "swish": nn.silu,
}


def normal(config: Any, name: str) -> nn.initializers.Initializer:
    """The initialiser of one weight, by v4.37's rule (`clip_core.init`). `name` is canonical, without its prefix."""
    tower = "text" if isinstance(config, CLIPTextConfig) else "vision"
    return nn.initializers.normal(config.initializer_factor * deviation(name, tower, config))


def with_factor(own: Any, config: CLIPConfig) -> Any:
    """A tower's config inside the full model, whose `initializer_factor` applies to its towers."""
    own = copy.copy(own)
    own.initializer_factor = config.initializer_factor
    return own


def projection(config: Any, name: str, features: int, dtype: Any) -> nn.Dense:
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=normal(config, f"{name}.weight"))


def layer_norm(config: Any, dtype: Any) -> LayerNorm:
    return LayerNorm(config.layer_norm_eps, dtype)


class LayerNorm(nn.LayerNorm):
    """x [..., D] -> [..., D] of zero mean and unit variance along D, scaled and shifted; in float32 at least.

    Not Flax's arithmetic, which either loses digits for states with a large mean (the variance as E[x^2] - E[x]^2, its
    default), or differentiates into sums that XLA's CPU backend recomputes in every layer.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", self.scale_init, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", self.bias_init, x.shape[-1:], self.param_dtype)
        scale, bias = (part.reshape((1,) * (x.ndim - 1) + part.shape) for part in (scale, bias))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (standardized(x, self.epsilon) * scale + bias).astype(self.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def standardized(x: jax.Array, epsilon: float) -> jax.Array:
    """x [..., D] with zero mean and unit variance along D; `epsilon` is added to the variance."""
    return _standardized(x, epsilon)[0]


@standardized.defjvp
def _(epsilon: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y, factor = _standardized(*primals, epsilon)
    scaled = tangents[0] * factor
    return y, scaled - scaled.mean(-1, keepdims=True) - y * (y * scaled).mean(-1, keepdims=True)


def _standardized(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    centred = x - x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    return centred * factor, factor


def patch_conv(config: Any, init: Any, dtype: Any) -> PatchConv:
    patch = (config.patch_size, config.patch_size)
    return PatchConv(config.hidden_size, patch, patch, "VALID", use_bias=False, dtype=dtype, kernel_init=init)


class PatchConv(nn.Conv):
    """x [B, H, W, C] -> [B, H // patch, W // patch, features], without overlap; remainders are cut off.

    A convolution with strides equal to its kernel size, as one matrix product: XLA's takes twice the time on CPUs.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (rows, columns), channels = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (rows, columns, channels, self.features), self.param_dtype)
        batch, height, width = x.shape[0], x.shape[1] // rows, x.shape[2] // columns
        x = x[:, : height * rows, : width * columns].reshape(batch, height, rows, width, columns, channels)
        squares = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, rows * columns * channels)
        return jnp.matmul(squares.astype(self.dtype), kernel.reshape(-1, self.features).astype(self.dtype))


def resampled(weight: jax.Array, grid: int, height: int, width: int) -> jax.Array:
    """Positions [1 + grid^2, D] -> [1 + height * width, D], bicubic; the class token's is unchanged."""
    if (height, width) == (grid, grid):
        return weight
    square = weight[1:].reshape(grid, grid, weight.shape[1])
    rows, columns = bicubic_matrix(grid, height), bicubic_matrix(grid, width)
    square = jnp.einsum("hg,gkd,wk->hwd", rows, square, columns, precision="highest")
    return jnp.concatenate([weight[:1], square.reshape(height * width, weight.shape[1])])


def checkpoint_policy(name: bool | str) -> Any:
    """The policy of recomputed layers: True keeps only their inputs, a string is a name in jax.checkpoint_policies."""
    if isinstance(name, bool):
        return None
    if name not in CHECKPOINT_POLICIES:
        wanted = ", ".join(CHECKPOINT_POLICIES)
        raise InputError(f"gradient_checkpointing: wanted True, False or one of {wanted}, found {name!r}")
    return getattr(jax.checkpoint_policies, name)


shortcuts.remember(globals())


def beyond(module: Any) -> dict[str, Any]:
    """What a part is told besides config and dtype, where there is something to tell: a class written for v4.37 that
    was put in a part's place has those two fields alone."""
    fields = {name: getattr(module, name, None) for name in ("gradient_checkpointing", "layer")}
    return {name: value for name, value in fields.items() if value is not None and value is not False}
