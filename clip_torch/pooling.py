"""`pooler_output` alone: the last layer is computed for the pooled token only. See `shortcuts.may_pool` for when."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import check_chosen, check_text
from .masks import text_masks
from .shortcuts import may_pool

LAST_STATE_ONLY = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


def pooled(tower: Any, *inputs: Tensor | None, **options: Any) -> Tensor:
    """A tower's `pooler_output` [B, D]: by its `pooled` if nothing that it skips was changed, else by a whole call."""
    if may_pool(tower):
        return tower.pooled(*inputs, **options)
    return tower(*inputs, **options, **LAST_STATE_ONLY)[1]


def pooled_text(
    tower: Any, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """A text tower's `pooler_output` [B, D]: the last layer for the end-of-text token."""
    input_ids = check_text(input_ids, attention_mask, position_ids)
    x = tower.embeddings(input_ids=input_ids, position_ids=position_ids)  # [B, S, D]
    masks, rows = text_masks(attention_mask, x), tower.end_of_text(input_ids)
    encoded = tower.encoder(x, **masks, **LAST_STATE_ONLY, rows=rows)
    return tower.final_layer_norm(encoded[0][:, 0])


def pooled_image(
    tower: Any, pixel_values: Tensor, interpolate_pos_encoding: bool = False, patches: Tensor | None = None
) -> Tensor:
    """A vision tower's `pooler_output` [B, D]: the last layer for the class token.

    patches: int [B, K], the patches to compute, numbered from 0 in row order (FLIP); default all.
    """
    x = embed_image(tower.embeddings, pixel_values, interpolate_pos_encoding, patches=patches)
    x = tower.pre_layrnorm(x)  # [B, N, D]
    rows = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
    encoded = tower.encoder(x, **LAST_STATE_ONLY, rows=rows)
    return tower.post_layernorm(encoded[0][:, 0])


def embed_image(
    embeddings: Any, pixel_values: Tensor | None, interpolate: bool, patches: Tensor | None = None
) -> Tensor:
    """Tokens [B, N, D]. A user's own embeddings are passed the pixels, and options only when they are set."""
    options: dict[str, Any] = {} if patches is None else {"patches": patches}
    if interpolate:
        options["interpolate_pos_encoding"] = True
    return embeddings(pixel_values, **options)


def chosen_tokens(x: Tensor, patches: Tensor) -> Tensor:
    """The class token and the chosen patches [B, K] of the tokens x [B, N, D]: [B, K + 1, D]."""
    check_chosen(patches, x.shape[0], x.shape[1] - 1)
    chosen = F.pad(patches.long() + 1, (1, 0))  # [B, K + 1], the class token first
    return x.take_along_dim(chosen[..., None], dim=1)
