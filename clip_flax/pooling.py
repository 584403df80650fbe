"""`pooler_output` alone: the last layer is computed for the pooled token only. See `shortcuts.allowed` for when."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .inputs import as_rows, check_chosen
from .shortcuts import allowed


def text_features(
    module: Any,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    deterministic: bool = True,
) -> jax.Array:
    """Text embeddings [B, P], not normalised, of any module with `text_model` and `text_projection`."""
    return module.text_projection(
        pooled(
            module.text_model,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            deterministic=deterministic,
        )
    )


def image_features(
    module: Any, pixel_values: jax.Array, deterministic: bool = True, interpolate_pos_encoding: bool = False
) -> jax.Array:
    """Image embeddings [B, P], not normalised, of any module with `vision_model` and `visual_projection`."""
    options = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}  # v4.37's towers lack it
    return module.visual_projection(
        pooled(module.vision_model, pixel_values=pixel_values, deterministic=deterministic, **options)
    )


def pooled(tower: Any, **inputs: Any) -> jax.Array:
    """A tower's `pooler_output` [B, D]: by its `pooled` if nothing was changed, else by a whole call."""
    return tower.pooled(**inputs) if allowed(tower) else tower(**inputs)[1]


def pooled_text(
    tower: Any,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    deterministic: bool = True,
) -> jax.Array:
    """A text tower's `pooler_output` [B, D]: the last layer for the end-of-text token."""
    input_ids, attention_mask = as_rows(input_ids, attention_mask)
    x = tower.embeddings(input_ids, position_ids)  # [B, S, D]
    encoded = tower.encoder(x, attention_mask, deterministic, rows=tower.end_of_text(input_ids))
    return tower.final_layer_norm(encoded.last_hidden_state[:, 0])


def pooled_image(
    tower: Any,
    pixel_values: jax.Array,
    interpolate_pos_encoding: bool = False,
    patches: jax.Array | None = None,
    deterministic: bool = True,
) -> jax.Array:
    """A vision tower's `pooler_output` [B, D]: the last layer for the class token.

    patches: int [B, K], the patches to compute, numbered from 0 in row order (FLIP); default all.
    """
    x = tower.pre_layrnorm(tower.embeddings(pixel_values, interpolate_pos_encoding, patches))  # [B, N, D]
    first = jnp.zeros(x.shape[0], jnp.int32)
    encoded = tower.encoder(x, None, deterministic, rows=first)
    return tower.post_layernorm(encoded.last_hidden_state[:, 0])


def chosen_tokens(x: jax.Array, patches: jax.Array) -> jax.Array:
    """The class token and the chosen patches [B, K] of the tokens x [B, N, D]: [B, K + 1, D]."""
    check_chosen(patches, x.shape[0], x.shape[1] - 1)
    chosen = jnp.pad(patches.astype(jnp.int32) + 1, ((0, 0), (1, 0)))  # [B, K + 1], the class token first
    return jnp.take_along_axis(x, chosen[..., None], axis=1)
