"""`pooler_output` alone: the last layer is computed for the pooled token only. See `shortcuts.pooled` for when."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from .inputs import check_chosen, check_text
from .masks import text_masks

LAST_STATE_ONLY = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


def pooled_text(
    tower: Any,
    input_ids: tf.Tensor,
    attention_mask: tf.Tensor | None = None,
    position_ids: tf.Tensor | None = None,
    training: bool = False,
) -> tf.Tensor:
    """A text tower's `pooler_output` [B, D]: the last layer for the end-of-text token."""
    input_ids = check_text(tower.embeddings, input_ids, attention_mask, position_ids)
    x = tower.embeddings(input_ids, position_ids)  # [B, S, D]
    rows = tower.end_of_text(input_ids)
    encoded = tower.encoder(x, **text_masks(attention_mask, x), **LAST_STATE_ONLY, training=training, rows=rows)
    return tower.final_layer_norm(encoded.last_hidden_state[:, 0])


def pooled_image(
    tower: Any,
    pixel_values: tf.Tensor,
    interpolate_pos_encoding: bool = False,
    patches: tf.Tensor | None = None,
    training: bool = False,
) -> tf.Tensor:
    """A vision tower's `pooler_output` [B, D]: the last layer for the class token.

    patches: int [B, K], the patches to compute, numbered from 0 in row order (FLIP); default all.
    """
    x = tower.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, patches=patches)
    x = tower.pre_layrnorm(x)  # [B, N, D]
    first = tf.zeros(tf.shape(x)[:1], tf.int32)
    encoded = tower.encoder(x, **LAST_STATE_ONLY, training=training, rows=first)
    return tower.post_layernorm(encoded.last_hidden_state[:, 0])


def chosen_tokens(x: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
    """The class token and the chosen patches [B, K] of the tokens x [B, N, D]: [B, K + 1, D]."""
    check_chosen(patches, x.shape[0], x.shape[1] - 1)
    chosen = tf.pad(tf.cast(patches, tf.int32) + 1, ((0, 0), (1, 0)))  # [B, K + 1], the class token first
    return tf.gather(x, chosen, batch_dims=1)
