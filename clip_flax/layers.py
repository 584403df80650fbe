"""Linen's layers as CLIP draws and wraps them."""

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

CHECKPOINT_POLICIES = (
    "nothing_saveable",
    "everything_saveable",
    "dots_saveable",
    "checkpoint_dots",
    "dots_with_no_batch_dims_saveable",
    "checkpoint_dots_with_no_batch_dims",
)


def normal(config: Any, name: str) -> nn.initializers.Initializer:
    """The initialiser of one weight, by v4.37's rule (`clip_core.init`). `name` is canonical, without its prefix."""
    tower = "text" if isinstance(config, CLIPTextConfig) else "vision"
    return nn.initializers.normal(config.initializer_factor * deviation(name, tower, config))


def with_factor(own: Any, config: CLIPConfig) -> Any:
    """A tower's config for initialisation inside the full model, whose `initializer_factor` holds for its towers."""
    own = copy.copy(own)
    own.initializer_factor = config.initializer_factor
    return own


def projection(config: Any, name: str, features: int, dtype: Any) -> nn.Dense:
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=normal(config, f"{name}.weight"))


def layer_norm(config: Any, dtype: Any) -> LayerNorm:
    return LayerNorm(config.layer_norm_eps, dtype)


class LayerNorm(nn.Module):
    """x [..., D] -> [..., D] of zero mean and unit variance along D, scaled and shifted; in float32 at least.

    Its own, because Flax's `nn.LayerNorm` either loses digits where a state has a large mean (the variance as
    E[x^2] - E[x]^2, its default), or differentiates into sums that XLA's CPU backend computes again in every layer.
    """

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
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


class PatchConv(nn.Module):
    """x [B, H, W, C] -> [B, H // patch, W // patch, features], without overlap; what is left over is cut off.

    A convolution's parameter, computed as one product: XLA's convolutions take twice the time on CPUs.
    """

    features: int
    patch: int
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        patch, channels = self.patch, x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (patch, patch, channels, self.features))
        batch, height, width = x.shape[0], x.shape[1] // patch, x.shape[2] // patch
        x = x[:, : height * patch, : width * patch].reshape(batch, height, patch, width, patch, channels)
        squares = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)  # [B, h, w, p * p * C]
        return jnp.matmul(squares.astype(self.dtype), kernel.reshape(-1, self.features).astype(self.dtype))


def checkpoint_policy(name: bool | str) -> Any:
    """What a recomputed layer keeps: True keeps its input only, a string is a name in jax.checkpoint_policies."""
    if isinstance(name, bool):
        return None
    if name not in CHECKPOINT_POLICIES:
        wanted = ", ".join(CHECKPOINT_POLICIES)
        raise InputError(f"gradient_checkpointing: wanted True, False or one of {wanted}, found {name!r}")
    return getattr(jax.checkpoint_policies, name)
