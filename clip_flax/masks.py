"""Attention masks as additive biases, and dropout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def one_token(x: jax.Array, rows: jax.Array) -> jax.Array:
    """The token at position `rows` [B] of every sequence: x [B, S, D] -> [B, 1, D]."""
    return x[jnp.arange(x.shape[0]), rows][:, None]


def attention_bias(
    attention_mask: jax.Array | None, length: int, causal: bool, dtype: Any, rows: jax.Array | None = None
) -> jax.Array | None:
    """A mask [B, S] (0 hides, 1 and more shows) and causality as one additive bias [B, 1, S, S]; only for the tokens
    `rows` [B], [B, 1, 1, S]. The batch may be 1; None if everything is visible.

    Hidden tokens and future tokens have the dtype's lowest finite value, those that are both have -inf: exactly v4.37's
    sum of two such biases in PyTorch. A query without visible tokens thus attends uniformly to those that are only one
    of the two; with -inf throughout it would give NaN.
    """
    if attention_mask is None and not causal:
        return None
    lowest = jnp.finfo(dtype).min
    positions = jnp.arange(length)  # NumPy's does not accept symbolic sizes
    asking = (positions[None] if rows is None else rows[:, None])[:, None, :, None]  # [1, 1, S, 1] or [B, 1, 1, 1]
    future = positions[None, None, None] > asking if causal else jnp.zeros((1, 1, 1, 1), bool)
    bias = jnp.where(future, lowest, jnp.zeros((), dtype))
    if attention_mask is None:
        return bias
    # In v4.37's Flax, values other than 0 are visible with causality, values above 0 without.
    hidden = (attention_mask == 0 if causal else ~(attention_mask > 0))[:, None, None, :]  # [B, 1, 1, S]
    return jnp.where(hidden, jnp.where(future, -jnp.inf, lowest), bias)


def dropout(weights: jax.Array, key: jax.Array, rate: float, rows: jax.Array | None) -> jax.Array:
    """Dropout of attention weights [B, H, S, S], or [B, H, 1, S] of the tokens `rows` [B].

    Exactly v4.37's draw: one mask [S, S] for all heads of the whole batch.
    """
    length = weights.shape[-1]
    kept = jax.random.bernoulli(key, 1.0 - rate, (1, 1, length, length))
    if rows is not None:
        kept = kept[0, 0][rows][:, None, None, :]  # [B, 1, 1, S]
    return weights * (kept.astype(weights.dtype) / jnp.asarray(1.0 - rate, weights.dtype))


def score_dtype(dtype: Any) -> Any:
    """The dtype of attention scores: float32, or the computation's if that is wider."""
    return jnp.promote_types(dtype, jnp.float32)
