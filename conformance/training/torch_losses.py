"""The PyTorch losses against their definition (`conformance.losses_reference`), and known mistakes for contrast."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clip_torch.loss import contrastive_loss
from conformance import losses_reference

BIAS = -3.0
FORMS = [(kind, mode) for kind in ("softmax", "sigmoid") for mode in ("dense", "chunked", "ring")]


def unit_rows(random: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = random.standard_normal((count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def definition(kind: str, x: np.ndarray, y: np.ndarray, t: float) -> losses_reference.Loss:
    return losses_reference.softmax(x, y, t) if kind == "softmax" else losses_reference.sigmoid(x, y, t, BIAS)


def worst(wanted: losses_reference.Loss, value: float, dx: Any, dy: Any, dt: Any, db: Any, rows: slice) -> float:
    """The largest error of loss and gradients, relative to the largest number of each kind (or to 1)."""
    pairs = [(value, wanted.value), (dx, wanted.dx[rows]), (dy, wanted.dy[rows]), (dt, wanted.dt), (db, wanted.db)]
    return max(float(np.abs(np.asarray(f) - w).max() / max(1.0, np.abs(w).max())) for f, w in pairs)


def gradients(x: np.ndarray, y: np.ndarray, t: float, loss_of: Any) -> tuple[float, ...]:
    """(loss, dx, dy, dt, db) in float64, those of the scalars added up over the processes."""
    leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (x, y, t, BIAS)]
    loss = loss_of(*leaves)
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    found = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
    if dist.is_initialized():
        for scalar in found[2:]:
            dist.all_reduce(scalar)
    return (loss.item(), *(g.numpy() for g in found))


def compare_losses(index: int = 0, count: int = 1, each: int = 7, chunk: int = 3) -> dict[str, float]:
    """Worst error per form; `each` pairs per process, which the chunk doesn't divide."""
    errors = {}
    rows = slice(index * each, (index + 1) * each)
    for kind, mode in FORMS:
        errors[f"{kind} {mode}"] = 0.0
        for t in (0.0, 2.3, np.log(100)):
            random = np.random.default_rng(int(10 * t))
            x, y = unit_rows(random, each * count, 6), unit_rows(random, each * count, 6)

            def loss_of(images: Any, texts: Any, scale: Any, bias: Any, kind: str = kind, mode: str = mode) -> Any:
                bias = bias if kind == "sigmoid" else None
                return contrastive_loss(images, texts, scale, bias, kind=kind, mode=mode, chunk=chunk)

            found = gradients(x[rows], y[rows], t, loss_of)
            error = worst(definition(kind, x, y, t), *found, rows)
            errors[f"{kind} {mode}"] = max(errors[f"{kind} {mode}"], error)
    return errors


def wrong_losses(index: int, count: int, each: int = 7) -> dict[str, float]:
    """The same comparison for wrong gradients, as from open_clip's flags: all must be detected."""
    rows = slice(index * each, (index + 1) * each)
    random = np.random.default_rng(5)
    x, y = unit_rows(random, each * count, 6), unit_rows(random, each * count, 6)
    wanted = definition("softmax", x, y, 2.3)

    def averaged(images: Any, texts: Any, scale: Any, bias: Any) -> Any:
        """DDP's mean of gradients, not made up for."""
        loss = contrastive_loss(images, texts, scale)
        return loss / count + (loss * (1 - 1 / count)).detach()

    def without_gather(images: Any, texts: Any, scale: Any, bias: Any) -> Any:
        """Local rows against all, but no gradient through the gathered ones."""
        target = torch.arange(rows.start, rows.stop)
        share = torch.zeros((), dtype=torch.float64)
        for own, others in ((images, y), (texts, x)):
            logits = scale.exp() * own @ torch.tensor(others).T
            share = share + F.cross_entropy(logits, target, reduction="sum") / (2 * each * count)
        total = share.detach().clone()
        dist.all_reduce(total)
        return share + (total - share).detach()

    forms = {"mean over processes": averaged, "no gradient through the gather": without_gather}
    return {name: worst(wanted, *gradients(x[rows], y[rows], 2.3, form), rows) for name, form in forms.items()}


class Live(TorchDispatchMode):
    """Bytes of the storages made and still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.known.add(storage.data_ptr())
                self.now += storage.nbytes()
                weakref.finalize(storage, self.drop, storage.data_ptr(), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def drop(self, pointer: int, size: int) -> None:
        self.known.discard(pointer)
        self.now -= size


def peak_memory(mode: str, rows: int, width: int = 512, chunk: int = 1024) -> float:
    """MiB that a loss of so many rows in this process makes meanwhile, and leaves as gradients."""
    pairs = [F.normalize(torch.randn(rows, width), dim=1).requires_grad_() for _ in range(2)]
    with Live() as live:
        contrastive_loss(*pairs, torch.tensor(2.0), mode=mode, chunk=chunk).backward()
    return live.peak / 2**20
