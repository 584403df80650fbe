"""Who sees whom, as attention takes it."""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import can_look


def one_token(x: Tensor, rows: Tensor) -> Tensor:
    """Of every sequence the token that `rows` [B] names: x [B, S, D] -> [B, 1, D]."""
    return x[torch.arange(x.shape[0], device=x.device), rows][:, None]


def compute_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def beyond_sdpa(x: Tensor, attention_mask: Tensor | None) -> bool:
    """Whether a mask asks more of attention than the fused kernels give."""
    if attention_mask is None:
        return False
    if compute_dtype(x) == torch.float16:  # has no value low enough to drown every score
        return True
    if not (torch.is_grad_enabled() and x.requires_grad):
        return False
    # Their backward passes need log(sum(exp(scores))), which rounding ruins for a query that may see nothing. There is
    # none when every first token is visible.
    return not (can_look(attention_mask) and bool((attention_mask[:, 0] == 1).all()))


def attention_bias(
    x: Tensor, attention_mask: Tensor | None, causal: bool, eager: bool, rows: Tensor | None = None
) -> Tensor:
    """Who sees whom, as one additive bias [B, 1, S, S] (or [1, 1, S, S]); what the tokens `rows` see: [B, 1, 1, S].

    A hidden token and the future are the dtype's lowest finite value, what is both is -inf: v4.37's sum of two such
    biases, to the bit. A query that may see nothing thus attends uniformly to what is only one of the two, where -inf
    alone would give NaN. Eager attention adds in float32 at least, so that the lowest value drowns every score.
    Without a mask every token sees itself, and the future is -inf, as the fused kernels have it.
    """
    dtype = torch.promote_types(x.dtype, torch.float32) if eager else compute_dtype(x)
    lowest = torch.finfo(dtype).min
    positions = torch.arange(x.shape[1], device=x.device)
    asking = positions[None] if rows is None else rows[:, None]  # [1, S] or [B, 1]
    # Sizes are those of `x`, never a len(): that would fix them in an exported program.
    bias = torch.zeros(1, 1, asking.shape[1], x.shape[1], dtype=dtype, device=x.device)
    if causal:
        future = positions > asking[:, None, :, None]  # [1, 1, S, S] or [B, 1, 1, S]
        bias = bias.masked_fill(future, float("-inf") if attention_mask is None else lowest)
    if attention_mask is not None:
        hidden = (attention_mask != 1)[:, None, None, :]  # [B, 1, 1, S]
        bias = torch.where(hidden, torch.where(bias < 0, float("-inf"), bias.new_tensor(lowest)), bias)
    return bias
