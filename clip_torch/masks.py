"""Attention masks as additive biases, in the form in which v4.37's encoder and layers take and pass them on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .inputs import can_look, check_visible
from .shortcuts import watched


def one_token(x: Tensor, rows: Tensor) -> Tensor:
    """The token at position `rows` [B] of every sequence: x [B, S, D] -> [B, 1, D]."""
    return x[torch.arange(x.shape[0], device=x.device), rows][:, None]


def causal_mask(x: Tensor) -> Tensor:
    """The causal mask, the dtype's lowest value for future tokens: x [B, S, D] -> [1, 1, S, S]."""
    positions = torch.arange(x.shape[1], device=x.device)  # the size of x, not len(), which an export would fix
    future = positions[None] > positions[:, None]
    bias = torch.zeros(1, 1, x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
    return bias.masked_fill(future[None, None], torch.finfo(x.dtype).min)


def padding_mask(attention_mask: Tensor, x: Tensor) -> Tensor:
    """The padding mask, the dtype's lowest value where `attention_mask` is not 1: [B, S] -> [B, 1, S, S]."""
    hidden = (attention_mask != 1)[:, None, None, :].expand(-1, 1, x.shape[1], -1)
    bias = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device)
    return bias.masked_fill(hidden, torch.finfo(x.dtype).min)


def both(attention_mask: Tensor | None, causal_attention_mask: Tensor | None) -> Tensor | None:
    """The sum of both masks. Tokens hidden by both are -inf, exactly v4.37's sum of two lowest values: a query without
    visible tokens attends uniformly to those hidden by only one; with -inf throughout it would give NaN."""
    if attention_mask is None or causal_attention_mask is None:
        return causal_attention_mask if attention_mask is None else attention_mask
    return attention_mask + causal_attention_mask


def text_masks(attention_mask: Tensor | None, x: Tensor) -> dict[str, Tensor | None]:
    """The masks of a text encoder as keywords, from a mask [B, S] (1 keeps) and tokens x [B, S, D]."""
    check_visible(attention_mask, x)
    padding = None if attention_mask is None else padding_mask(attention_mask, x)
    return {"attention_mask": padding, "causal_attention_mask": causal_mask(x)}


def layer_arguments(
    count: int, attention_mask: Tensor | None, causal: Tensor | None, output_attentions: bool, rows: Tensor | None
) -> list[tuple[Any, ...]]:
    """The arguments behind the states for each of `count` layers. With rows [B], the last layer computes only these
    tokens and gets their masks [B, 1, 1, S]."""
    plans: list[tuple[Any, ...]] = [(attention_mask, causal, output_attentions)] * count
    if rows is not None and plans:
        plans[-1] = (of_rows(attention_mask, rows), of_rows(causal, rows), output_attentions, rows)
    return plans


def of_rows(bias: Tensor | None, rows: Tensor) -> Tensor | None:
    """The mask's rows of the tokens `rows` [B]: [B or 1, 1, S, S] -> [B, 1, 1, S]."""
    if bias is None:
        return None
    return one_token(bias[:, 0].expand(rows.shape[0], -1, -1), rows)[:, None]


def in_dtype(bias: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    """The bias in another dtype (None: float32 at least). The lowest value becomes the new dtype's lowest, so that it
    exceeds every score."""
    if bias is None or isinstance(bias, torch.fx.Proxy) or not bias.is_floating_point():
        return bias
    dtype = torch.promote_types(bias.dtype, torch.float32) if dtype is None else dtype
    if bias.dtype == dtype:
        return bias
    lowest = bias == torch.finfo(bias.dtype).min
    return bias.to(dtype).masked_fill(lowest, torch.finfo(dtype).min)


def beyond_sdpa(q: Tensor, attention_mask: Tensor | None, bias: Tensor | None) -> bool:
    """Whether attention needs more than the fused kernels support."""
    if watched(q) and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        return True  # forward-mode derivatives, functional transforms and FLOP counters, which they don't support
    if attention_mask is None:
        return False
    # float16 has no value low enough to exceed every score; a trace is used for any mask, with or without gradients.
    if q.dtype == torch.float16 or torch.jit.is_tracing():
        return True
    if not (torch.is_grad_enabled() and q.requires_grad):
        return False
    # Their backward passes use log(sum(exp(scores))), which is inaccurate for a query without visible tokens.
    return not can_look(bias) or bool((bias.amax(-1) <= torch.finfo(bias.dtype).min).any())
