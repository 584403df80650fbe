"""The contrastive losses of CLIP (softmax) and SigLIP (sigmoid): dense, chunked, or as a ring; and the anchors'.

All forms are equal up to rounding. With several processes each one passes its rows and gets the loss over all of them;
its gradients are its share, so that the sum over the processes (not the mean) is the whole gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from clip_core.errors import ConfigError

from .streaming import Plan, Streamed, gathered, home

KINDS = ("softmax", "sigmoid")
MODES = ("dense", "chunked", "ring")


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    kind: str = "softmax",
    mode: str = "dense",
    chunk: int = 1024,
    label_smoothing: float = 0.0,
    group: Any = None,
) -> Tensor:
    """The mean loss over all N pairs of the group.

    Args:
        images, texts: this process's pairs, unit rows [n, P], the same number in every process. bfloat16 and float16
            are computed in float32.
        logit_scale: logarithm of the scale, a scalar.
        logit_bias: added to every logit, a scalar; only with "sigmoid".
        kind: "softmax": cross-entropy of the matching pair, the mean of both directions; "sigmoid": a binary
            classification of every pair, the sum over the pairs divided by N.
        mode: "dense": logits of n x N; "chunked": tiles of `chunk` x `chunk`, with the texts of all processes; "ring":
            tiles, with n texts at a time.
        label_smoothing: share of the target spread over all N; softmax and dense only.
        group: process group; None for all processes, or only this one without a group.

    Returns the loss, a scalar equal in all processes. Gradients with respect to images and texts are whole, those with
    respect to the scalars are this process's share.
    """
    if kind not in KINDS or mode not in MODES:
        wanted = f"loss.kind of {', '.join(KINDS)} and loss.mode of {', '.join(MODES)}"
        raise ConfigError(f"wanted {wanted}, found {kind!r} and {mode!r}")
    if label_smoothing and (kind, mode) != ("softmax", "dense"):
        raise ConfigError(f"loss.label_smoothing: wanted 0 with {kind} and {mode}, found {label_smoothing}")
    if images.shape != texts.shape or images.dim() != 2:
        raise ValueError(f"images and texts: wanted one shape [n, P], found {list(images.shape)}, {list(texts.shape)}")
    group, rank, world = members(group)
    plan = Plan(kind, chunk, mode == "ring", group, rank, world)
    wide = torch.promote_types(images.dtype, torch.float32)
    x, y, t = images.to(wide), texts.to(wide), logit_scale.to(wide)
    b = None if logit_bias is None else logit_bias.to(wide)
    with torch.autocast(x.device.type, enabled=False):
        if mode != "dense":
            share = Streamed.apply(x, y, t, b, plan)
        elif kind == "softmax":
            share = dense_softmax(x, y, t, plan, label_smoothing)
        else:
            share = dense_sigmoid(x, y, t, b, plan)
    return whole(share, plan.group)


def members(group: Any = None) -> tuple[Any, int, int]:
    """(group, rank in it, its size); (None, 0, 1) without a group."""
    if not (dist.is_available() and dist.is_initialized()):
        return None, 0, 1
    group = dist.group.WORLD if group is None else group
    return group, dist.get_rank(group), dist.get_world_size(group)


def dense_softmax(x: Tensor, y: Tensor, t: Tensor, plan: Plan, smoothing: float) -> Tensor:
    n, x = len(x), x * t.exp()
    target = torch.arange(plan.rank * n, (plan.rank + 1) * n, device=x.device)
    share = x.new_zeros(())
    for rows, columns in ((x, y), (y, x)):
        logits = rows @ Gather.apply(columns, plan).T  # [n, N]
        share = share + F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
    return share / (2 * n * plan.world)


def dense_sigmoid(x: Tensor, y: Tensor, t: Tensor, b: Tensor | None, plan: Plan) -> Tensor:
    logits = t.exp() * x @ Gather.apply(y, plan).T + (0 if b is None else b)  # [n, N]
    match = torch.zeros_like(logits)
    match.diagonal(plan.rank * len(x)).fill_(1)
    return -F.logsigmoid((2 * match - 1) * logits).sum() / (len(x) * plan.world)


def anchor_loss(rows: Tensor, anchors: Tensor, sample: Tensor, scale: float, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each row's sample among the anchors of all samples, the mean over all processes.

    Args:
        rows: unit rows [n, P]; anchors: unit rows [samples, P]; sample: each row's anchor, [n].

    Returns as `contrastive_loss` does.
    """
    group, _, world = members()
    wide = torch.promote_types(rows.dtype, torch.float32)
    with torch.autocast(rows.device.type, enabled=False):
        logits = rows.to(wide) @ (scale * anchors.to(wide)).T  # [n, samples]
        share = F.cross_entropy(logits, sample, reduction="sum", label_smoothing=label_smoothing)
    return whole(share / (len(sample) * world), group)


def whole(share: Tensor, group: Any) -> Tensor:
    """The sum over the processes; each process's gradient is that of its own share."""
    return share if group is None else Sum.apply(share, group)


class Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor, group: Any) -> Tensor:
        total = share.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Gather(torch.autograd.Function):
    """The rows of all processes, in order; a row's gradients from all processes are summed in its own process."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        rows = gathered(rows, plan)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return home(grad.contiguous(), ctx.plan), None
