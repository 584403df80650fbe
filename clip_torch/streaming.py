"""The contrastive losses without the matrix of all pairs: tiles are computed, used and dropped, and recomputed in the
backward pass. Softmax and sigmoid, in one process, over gathered texts, or with the texts passed around a ring.

n rows of this process, N of all processes, P width. L_ij = s x_i . y_j (+ b), s = e^t. Softmax: with row log-sum-exps r
and column log-sum-exps c, loss = 1/2N sum_i (r_i + c_i - 2 L_ii), and G = dloss/dL = 1/2N (e^(L - r) + e^(L - c) - 2I).
Sigmoid: z = 2I - 1, loss = 1/N sum softplus(-z L), G = -z sigmoid(-z L) / N. Either way dx = s G y, dy = s G^T x,
dt = sum <x, dx>, db = sum G.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

# Renamed in torch 2.13.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Plan:
    """The order of tiles.

    chunk: rows and columns of a tile; ring: texts are passed around, otherwise every process has all of them; group: of
    `world` processes, this one being number `rank`; None for only this one.
    """

    kind: str
    chunk: int
    ring: bool
    group: Any
    rank: int
    world: int


class LogSumExp:
    """log(sum(exp)) of rows that arrive in pieces, as (max, sum of exp(value - max)).

    The pair, not the logarithm, is kept: at s = 100 the logarithm of a sum near 1 would be lost in the maximum's
    rounding, and with it small gradients.
    """

    def __init__(self, peak: Tensor, total: Tensor) -> None:
        self.peak, self.total = peak, total

    @classmethod
    def empty(cls, rows: int, like: Tensor) -> LogSumExp:
        return cls(like.new_full((rows,), float("-inf")), like.new_zeros(rows))

    def add(self, start: int, tile: Tensor, dim: int) -> None:
        """Add a tile's values of the rows start, start + 1, ..., summed along `dim`."""
        rows = slice(start, start + tile.shape[1 - dim])
        peak = torch.maximum(self.peak[rows], tile.amax(dim))
        grown = (tile - peak.unsqueeze(dim)).exp_().sum(dim)
        self.total[rows] = self.total[rows] * torch.exp(self.peak[rows] - peak) + grown
        self.peak[rows] = peak

    def share_(self, start: int, tile: Tensor, dim: int) -> Tensor:
        """exp(tile - log-sum-exp), in place: each value's share of its row's sum."""
        rows = slice(start, start + tile.shape[1 - dim])
        return tile.sub_(self.peak[rows].unsqueeze(dim)).exp_().div_(self.total[rows].unsqueeze(dim))

    def over(self, group: Any) -> None:
        """Combine the processes' values for the same rows."""
        if group is None:
            return
        peak = self.peak.clone()
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        self.total.mul_(torch.exp(self.peak - peak))
        dist.all_reduce(self.total, group=group)
        self.peak = peak


class Streamed(torch.autograd.Function):
    """(x [n, P], y [n, P], t, b or None, plan) -> this process's share of the mean loss.

    The shares of all processes sum to the loss, and so do their gradients of t and b; those of x and y are whole.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, t: Tensor, b: Tensor | None, plan: Plan) -> Tensor:
        ctx.plan = plan
        scale, bias = t.exp(), x.new_zeros(()) if b is None else b
        if plan.kind == "sigmoid":
            ctx.save_for_backward(x, y, scale, bias)
            return sigmoid_forward(x, y, scale, bias, plan)
        share, rows, columns = softmax_forward(x, y, scale, plan)
        ctx.save_for_backward(x, y, scale, bias, rows.peak, rows.total, columns.peak, columns.total)
        return share

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, bias, *sums = ctx.saved_tensors
        plan: Plan = ctx.plan
        if plan.kind == "sigmoid":
            dx, dy, db = sigmoid_backward(x, y, scale, bias, plan)
        else:
            dx, dy = softmax_backward(x, y, scale, LogSumExp(*sums[:2]), LogSumExp(*sums[2:]), plan)
            db = None
        dt = x.flatten() @ dx.flatten()
        db = db * grad if db is not None and ctx.needs_input_grad[3] else None
        return dx.mul_(grad), dy.mul_(grad), dt * grad, db, None


def softmax_forward(x: Tensor, y: Tensor, scale: Tensor, plan: Plan) -> tuple[Tensor, LogSumExp, LogSumExp]:
    """(this process's share, its rows' sums, the columns' sums: its own in a ring, else all)."""
    rows, diagonal = LogSumExp.empty(len(x), x), x.new_empty(len(x))

    def work(texts: Tensor, first: int, carried: list[Tensor]) -> None:
        columns = LogSumExp(*carried)
        for i, j, tile, shift in tiles(x, texts, scale, plan, first):
            rows.add(i, tile, 1)
            columns.add(j, tile, 0)
            if touches(tile, shift):
                matching, start = tile.diagonal(shift), i + max(0, -shift)
                diagonal[start : start + len(matching)] = matching

    held = len(x) if plan.ring else len(x) * plan.world
    empty = LogSumExp.empty(held, x)
    columns = LogSumExp(*visit(plan, y, [empty.peak, empty.total], work))
    own = slice(None)
    if not plan.ring:
        columns.over(plan.group)
        own = slice(plan.rank * len(x), (plan.rank + 1) * len(x))
    logs = rows.total.log() + columns.total[own].log()
    # Differences first: near 0 both are exact, while r + c - 2L would have the rounding error of 100.
    share = ((rows.peak - diagonal) + (columns.peak[own] - diagonal) + logs).sum() / (2 * len(x) * plan.world)
    return share, rows, columns


def softmax_backward(
    x: Tensor, y: Tensor, scale: Tensor, rows: LogSumExp, columns: LogSumExp, plan: Plan
) -> tuple[Tensor, Tensor]:
    dx, factor = torch.zeros_like(x), scale / (2 * len(x) * plan.world)

    def work(texts: Tensor, first: int, carried: list[Tensor]) -> None:
        dy, sums = carried[0], LogSumExp(*carried[1:])
        for i, j, tile, shift in tiles(x, texts, scale, plan, first):
            gradient = rows.share_(i, tile.clone(), 1).add_(sums.share_(j, tile, 0))
            if touches(tile, shift):  # here, against values near 2; later it would cancel sums
                gradient.diagonal(shift).sub_(2)
            add_products(gradient, x, texts, dx, dy, i, j)
            del tile, gradient  # freed before the next ones

    dy = x.new_zeros(len(columns.peak), x.shape[1])
    dy = home(visit(plan, y, [dy, columns.peak, columns.total], work)[0], plan)
    return dx.mul_(factor), dy.mul_(factor)


def sigmoid_forward(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, plan: Plan) -> Tensor:
    total = x.new_zeros(())

    def work(texts: Tensor, first: int, carried: list[Tensor]) -> None:
        for _, _, tile, shift in tiles(x, texts, scale, plan, first):
            total.sub_(F.logsigmoid(against(tile.add_(bias), shift).neg_()).sum())

    visit(plan, y, [], work)
    return total / (len(x) * plan.world)


def sigmoid_backward(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    dx, db, pairs = torch.zeros_like(x), x.new_zeros(()), len(x) * plan.world

    def work(texts: Tensor, first: int, carried: list[Tensor]) -> None:
        for i, j, tile, shift in tiles(x, texts, scale, plan, first):
            gradient = against(torch.sigmoid(against(tile.add_(bias), shift)), shift)
            db.add_(gradient.sum())
            add_products(gradient, x, texts, dx, carried[0], i, j)
            del tile, gradient  # freed before the next ones

    dy = x.new_zeros(len(x) if plan.ring else pairs, x.shape[1])
    dy = home(visit(plan, y, [dy], work)[0], plan)
    return dx.mul_(scale / pairs), dy.mul_(scale / pairs), db / pairs


# -- tiles ------------------------------------------------------------------------------------------------------------


def tiles(x: Tensor, y: Tensor, scale: Tensor, plan: Plan, first: int) -> Iterator[tuple[int, int, Tensor, int]]:
    """Yields (row, column, s x y^T of at most chunk x chunk pairs, offset of the matching pairs' diagonal).

    `first` is the number of the first text of `y` among those of all processes.
    """
    for i in range(0, len(x), plan.chunk):
        rows = x[i : i + plan.chunk] * scale
        for j in range(0, len(y), plan.chunk):
            yield i, j, rows @ y[j : j + plan.chunk].T, plan.rank * len(x) + i - first - j


def touches(tile: Tensor, shift: int) -> bool:
    return -tile.shape[0] < shift < tile.shape[1]


def against(tile: Tensor, shift: int) -> Tensor:
    """-z * tile, in place: matching pairs change sign."""
    if touches(tile, shift):
        tile.diagonal(shift).neg_()
    return tile


def add_products(gradient: Tensor, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, i: int, j: int) -> None:
    rows, columns = slice(i, i + gradient.shape[0]), slice(j, j + gradient.shape[1])
    dx[rows].addmm_(gradient, y[columns])
    dy[columns].addmm_(gradient.T, x[rows])


# -- who holds which texts --------------------------------------------------------------------------------------------


def visit(
    plan: Plan, y: Tensor, carried: list[Tensor], work: Callable[[Tensor, int, list[Tensor]], None]
) -> list[Tensor]:
    """Call `work(texts, number of the first, carried)` for all texts, with this process's rows.

    `work` changes `carried`, which accompanies the texts, in place; in a ring it returns with the last step.
    """
    if not plan.ring or plan.world == 1:
        work(gathered(y, plan), 0, carried)
        return carried
    owner = plan.rank
    for turn in range(plan.world):
        # The texts are sent during the work, what is carried after it.
        arriving, requests = ([y], []) if turn == plan.world - 1 else exchange([y], plan)
        work(y, owner * len(y), carried)
        for request in requests:
            request.wait()
        if carried:
            carried, requests = exchange(carried, plan)
            for request in requests:
                request.wait()
        (y,), owner = arriving, (owner + 1) % plan.world
    return carried


def exchange(tensors: list[Tensor], plan: Plan) -> tuple[list[Tensor], list[Any]]:
    """Begin to send to the previous process and to receive from the next: (received tensors, requests)."""
    to, source = (plan.rank - 1) % plan.world, (plan.rank + 1) % plan.world
    tensors = [tensor.contiguous() for tensor in tensors]
    arriving = [torch.empty_like(tensor) for tensor in tensors]
    to, source = (rank if plan.group is None else dist.get_global_rank(plan.group, rank) for rank in (to, source))
    operations = [dist.P2POp(dist.isend, tensor, to, group=plan.group) for tensor in tensors]
    operations += [dist.P2POp(dist.irecv, tensor, source, group=plan.group) for tensor in arriving]
    return arriving, dist.batch_isend_irecv(operations)


def gathered(rows: Tensor, plan: Plan) -> Tensor:
    if plan.world == 1:
        return rows
    out = rows.new_empty(len(rows) * plan.world, *rows.shape[1:])
    _all_gather(out, rows.contiguous(), group=plan.group)
    return out


def home(dy: Tensor, plan: Plan) -> Tensor:
    """Gradients of gathered texts, summed in each text's process; in a ring they are complete already."""
    if plan.ring or plan.world == 1:
        return dy
    out = dy.new_empty(len(dy) // plan.world, *dy.shape[1:])
    _reduce_scatter(out, dy, group=plan.group)
    return out
