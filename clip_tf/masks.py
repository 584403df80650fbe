"""Attention masks as penalties on the scores."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import tensorflow as tf

from .layers import at_least_float32, sizes


def one_token(x: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """The token at position `rows` [B] of every sequence: x [B, S, D] -> [B, 1, D]."""
    return tf.gather(x, rows[:, None], batch_dims=1)


def text_masks(attention_mask: tf.Tensor | None, x: tf.Tensor) -> dict[str, tf.Tensor | None]:
    """The masks of a text encoder as keywords, from a mask [B, S] (1 keeps) and tokens x [B, S, D].

    [1 or B, 1, S, S], float32's lowest value for the future, and for what is hidden. What is both is -inf in their sum,
    as in v4.37's PyTorch, to the bit: a query that may see nothing attends uniformly to what is only one of the two,
    where -inf alone would give NaN.
    """
    dtype, positions = at_least_float32(x[:0]).dtype, tf.range(sizes(x)[1])
    future = positions[None] > positions[:, None]
    causal = tf.where(future, dtype.min, tf.zeros((), dtype))[None, None]
    padding = None
    if attention_mask is not None:
        hidden = (tf.cast(attention_mask, tf.float32) != 1)[:, None, None, :]
        padding = tf.where(hidden, dtype.min, tf.zeros((1, 1, sizes(x)[1], 1), dtype))
    return {"attention_mask": padding, "causal_attention_mask": causal}


def masked(scores: tf.Tensor, *masks: tf.Tensor | None) -> tf.Tensor:
    """Scores [B, H, S, S] and the masks that are added to them.

    Their sum is subtracted, times -1, because TensorFlow 2.21 fuses a product of matrices and an *added* broadcast
    bias, on CPUs and in graphs, into a oneDNN kernel that takes 200 times as long.
    """
    present = [tf.cast(mask, scores.dtype) for mask in masks if mask is not None]
    return scores - -1.0 * sum(present[1:], present[0]) if present else scores


def layer_arguments(
    count: int, attention_mask: tf.Tensor | None, causal: tf.Tensor | None, rows: tf.Tensor | None
) -> list[dict[str, Any]]:
    """Keywords for each of `count` layers. With rows [B], the last layer computes only these tokens and gets their
    masks [B, 1, 1, S]."""
    plans: list[dict[str, Any]] = [{"attention_mask": attention_mask, "causal_attention_mask": causal}] * count
    if rows is not None and plans:
        masks = {name: of_rows(mask, rows) for name, mask in plans[-1].items()}
        plans[-1] = {**masks, "rows": rows}
    return plans


def of_rows(mask: tf.Tensor | None, rows: tf.Tensor) -> tf.Tensor | None:
    """The mask's rows of the tokens `rows` [B]: [B or 1, 1, S, S] -> [B, 1, 1, S]."""
    if mask is None:
        return None
    if mask.shape[0] == 1:
        return tf.gather(mask[0, 0], rows)[:, None, None, :]
    return one_token(mask[:, 0], rows)[:, None]


def given(**options: Any) -> dict[str, Any]:
    """Those that say something: a layer written for v4.37 doesn't know them."""
    return {name: value for name, value in options.items() if value is not None}


def flag(layer: Any, output_attentions: bool | None) -> dict[str, Any]:
    """The flag, for a layer that takes it by name: in a wrapper's **kwargs Keras mixes no flags and tensors."""
    call = getattr(layer.call, "__func__", layer.call)
    return {"output_attentions": output_attentions} if "output_attentions" in _parameters(call) else {}


@lru_cache(maxsize=256)
def _parameters(call: Any) -> Any:
    return inspect.signature(call).parameters
