"""Attention masks as penalties on the scores."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from .layers import at_least_float32, sizes


def one_token(x: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """The token at position `rows` [B] of every sequence: x [B, S, D] -> [B, 1, D]."""
    return tf.gather(x, rows[:, None], batch_dims=1)


def layer_arguments(
    count: int, x: tf.Tensor, attention_mask: tf.Tensor | None, causal: bool, rows: tf.Tensor | None
) -> list[dict[str, Any]]:
    """The keywords of each of `count` layers on x [B, S, D]: its penalty; with `rows`, for the last layer these tokens
    and their penalty."""
    masked = attention_mask is not None or causal
    plans: list[dict] = [{"penalty": attention_penalty(x, attention_mask, causal) if masked else None}] * count
    if rows is not None and plans:
        plans[-1] = {"penalty": attention_penalty(x, attention_mask, causal, rows) if masked else None, "rows": rows}
    return plans


def attention_penalty(
    x: tf.Tensor, attention_mask: tf.Tensor | None, causal: bool, rows: tf.Tensor | None = None
) -> tf.Tensor:
    """The attention mask as a penalty on the scores [B, 1, S, S] (or [1, 1, S, S]); for the tokens `rows` [B, 1, 1, S].

    Hidden tokens and future tokens have float32's greatest finite value, those that are both have inf: exactly v4.37's
    sum of two biases in PyTorch. A query without visible tokens thus attends uniformly to those that are only one of
    the two; with inf throughout it would give NaN.

    It is subtracted, because TensorFlow 2.21 fuses a matrix product and an *added* broadcast bias, on CPUs in graphs,
    into a oneDNN kernel that takes 200 times as long.
    """
    dtype, positions = at_least_float32(x[:0]).dtype, tf.range(sizes(x)[1])
    asking = positions[None] if rows is None else rows[:, None]  # [1, S] or [B, 1]
    penalty = tf.zeros((1, 1, sizes(asking)[1], sizes(x)[1]), dtype)
    if causal:
        penalty = tf.where(positions > asking[:, None, :, None], dtype.max, penalty)
    if attention_mask is not None:
        hidden = (tf.cast(attention_mask, tf.float32) != 1)[:, None, None, :]  # [B, 1, 1, S]
        both = tf.where(penalty > 0, tf.constant(float("inf"), dtype), dtype.max)
        penalty = tf.where(hidden, both, penalty)
    return penalty
