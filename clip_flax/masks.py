"""Who sees whom, as attention takes it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def one_token(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Of every sequence the token that `rows` [B] names: x [B, S, D] -> [B, 1, D]."""
    return x[jnp.arange(x.shape[0]), rows][:, None]


def attention_bias(
    x: jax.Array, attention_mask: jax.Array | None, causal: bool, rows: jax.Array | None = None
) -> jax.Array:
    """Who sees whom, as one additive bias [B, 1, S, S] (or [1, 1, S, S]); what the tokens `rows` see: [B, 1, 1, S].

    A hidden token and the future are the dtype's lowest finite value, what is both is -inf: v4.37's sum of two such
    biases in PyTorch, to the bit. A query that may see nothing thus attends uniformly to what is only one of the two,
    where -inf alone would give NaN.
    """
    dtype, positions = score_dtype(x.dtype), jnp.arange(x.shape[1])  # NumPy's takes no symbolic size
    lowest = jnp.finfo(dtype).min
    asking = positions[None] if rows is None else rows[:, None]  # [1, S] or [B, 1]
    bias = jnp.zeros((1, 1, asking.shape[1], x.shape[1]), dtype)
    if causal:
        bias = jnp.where(positions > asking[:, None, :, None], lowest, bias)
    if attention_mask is not None:
        hidden = (attention_mask != 1)[:, None, None, :]  # [B, 1, 1, S]
        bias = jnp.where(hidden, jnp.where(bias < 0, -jnp.inf, lowest), bias)
    return bias


def score_dtype(dtype: Any) -> Any:
    """What attention scores are computed in: float32, or wider when the computation is."""
    return jnp.promote_types(dtype, jnp.float32)
