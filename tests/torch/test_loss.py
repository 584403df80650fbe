"""The contrastive losses in one process against their definition in float64, and their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clip_core.errors import ConfigError
from clip_torch.loss import anchor_loss, contrastive_loss
from conformance import losses_reference
from conformance.training.torch_losses import FORMS, compare_losses, definition, unit_rows, worst

DOUBLE = 1e-12  # float64 through two orders of summation
SINGLE_AT_100 = 2e-4  # float32 logits of 100 are rounded to 4e-6, gradients of such logits are 100 times that
BRAIN = 0.02  # bfloat16 gradients of the rows: 8 bits


def test_every_form_is_the_definition() -> None:
    for count, chunk in ((7, 3), (8, 4), (1, 1024), (16, 5)):
        errors = compare_losses(each=count, chunk=chunk)
        assert set(errors) == {f"{kind} {mode}" for kind, mode in FORMS}
        assert max(errors.values()) <= DOUBLE, (count, chunk, errors)


def test_a_wrong_gradient_is_found_out() -> None:
    random = np.random.default_rng(0)
    x, y = unit_rows(random, 5, 4), unit_rows(random, 5, 4)
    wanted = losses_reference.softmax(x, y, 2.0)
    assert worst(wanted, *wanted, slice(None)) == 0
    for field in ("value", "dx", "dy", "dt"):
        assert worst(wanted, *wanted._replace(**{field: getattr(wanted, field) * 1.001}), slice(None)) > 1e-5, field


def test_label_smoothing_is_the_definition() -> None:
    random = np.random.default_rng(1)
    x, y = unit_rows(random, 6, 4), unit_rows(random, 6, 4)
    wanted = losses_reference.softmax(x, y, 1.5, 0.1)
    leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (x, y, 1.5)]
    loss = contrastive_loss(*leaves, label_smoothing=0.1)
    found = [g.numpy() for g in torch.autograd.grad(loss, leaves)]
    assert worst(wanted, loss.item(), *found, 0.0, slice(None)) <= DOUBLE
    for options in ({"mode": "chunked"}, {"kind": "sigmoid"}):
        with pytest.raises(ConfigError, match="label_smoothing"):
            contrastive_loss(*leaves, label_smoothing=0.1, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_anchors_are_the_definition(smoothing: float) -> None:
    random = np.random.default_rng(2)
    x, table = unit_rows(random, 5, 4), random.standard_normal((9, 4))
    sample = np.array([3, 8, 0, 3, 5])
    wanted = losses_reference.anchored(x, x, table, sample, 16.0, 0.7, 0.0, smoothing)
    rows, anchors = (torch.tensor(value, requires_grad=True) for value in (x, table))
    unit = anchors / anchors.norm(dim=1, keepdim=True)
    loss = 0.7 * anchor_loss(rows, unit, torch.tensor(sample), 16.0, smoothing)
    found = torch.autograd.grad(loss, (rows, anchors))
    for value, right in zip((loss.item(), *found), (wanted.value, wanted.dx, wanted.danchors), strict=True):
        np.testing.assert_allclose(np.asarray(value), right, rtol=0, atol=DOUBLE * 16)


@pytest.mark.parametrize(("kind", "mode"), FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_largest_scale_duplicates_and_short_floats(kind: str, mode: str, dtype: torch.dtype) -> None:
    """s = 100, each pair twice, and pairs that match perfectly; the chunk doesn't divide the number of rows."""
    random = np.random.default_rng(3)
    x = np.repeat(unit_rows(random, 11, 8), 2, axis=0)
    y = np.concatenate([x[:10], unit_rows(random, 12, 8)])
    rows = [torch.tensor(value).to(dtype).requires_grad_() for value in (x, y)]
    scalars = [torch.tensor(value, requires_grad=True) for value in (np.log(np.float32(100)), -3.0)]
    loss = contrastive_loss(*rows, scalars[0], scalars[1] if kind == "sigmoid" else None, kind=kind, mode=mode, chunk=4)
    found = torch.autograd.grad(loss, [*rows, *scalars], allow_unused=True)
    wanted = definition(kind, *(r.detach().double().numpy() for r in rows), float(scalars[0].detach()))
    dx, dy, dt, db = (torch.zeros(()) if g is None else g for g in found)
    assert dx.dtype == dtype and torch.isfinite(dx).all() and torch.isfinite(dy).all()
    given = [g.double().numpy() for g in (dx, dy, dt, db)]
    limit = SINGLE_AT_100 if dtype == torch.float32 else BRAIN
    assert worst(wanted, loss.item(), *given, slice(None)) <= limit


@pytest.mark.parametrize("mode", ["dense", "chunked", "ring"])
def test_a_small_loss_at_the_largest_scale_is_no_rounding(mode: str) -> None:
    """1e-5 at s = 100: the rounding of a log-sum-exp near 100 alone is 4e-6, that of its parts is 6e-8."""
    angles = np.arange(6) * 0.5
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    rows = [torch.tensor(x, dtype=torch.float32, requires_grad=True) for _ in range(2)]
    t = torch.tensor(np.log(100.0), dtype=torch.float32)
    wanted = losses_reference.softmax(x, x, float(t))
    loss = contrastive_loss(*rows, t, mode=mode, chunk=2)
    assert 0 < wanted.value < 1e-5 and loss.item() == pytest.approx(wanted.value, rel=0.03)
    gradient = torch.autograd.grad(loss, rows)[0].numpy()
    np.testing.assert_allclose(gradient, wanted.dx, rtol=0, atol=0.1 * np.abs(wanted.dx).max())


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made meanwhile has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize(("kind", "mode"), FORMS)
def test_streamed_forms_make_no_matrix_of_all_pairs(kind: str, mode: str) -> None:
    count, width, chunk = 96, 8, 16
    rows = [torch.tensor(unit_rows(np.random.default_rng(4), count, width), requires_grad=True) for _ in range(2)]
    with Largest() as largest:
        contrastive_loss(*rows, torch.tensor(2.0), torch.tensor(0.0), kind=kind, mode=mode, chunk=chunk).backward()
    if mode == "dense":
        assert largest.numbers >= count * count  # what the others avoid
    else:
        assert largest.numbers <= max(count * width, chunk * chunk)


@pytest.mark.parametrize(("kind", "mode"), FORMS)
def test_a_bias_where_there_is_none_and_none_where_there_could_be(kind: str, mode: str) -> None:
    rows = [torch.tensor(unit_rows(np.random.default_rng(6), 5, 4), requires_grad=True) for _ in range(2)]
    t, bias = torch.tensor(1.0, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    with_bias = contrastive_loss(*rows, t, bias, kind=kind, mode=mode, chunk=2)
    without = contrastive_loss(*rows, t, kind=kind, mode=mode, chunk=2)
    assert (with_bias == without) == (kind == "softmax")
    (with_bias + without).backward()
    assert (bias.grad is None or bias.grad == 0) == (kind == "softmax") and torch.isfinite(t.grad)


def test_arguments_that_cannot_be() -> None:
    rows = torch.eye(3)
    with pytest.raises(ConfigError, match="found 'hinge' and 'dense'"):
        contrastive_loss(rows, rows, torch.tensor(0.0), kind="hinge")
    with pytest.raises(ConfigError, match="'softmax' and 'sparse'"):
        contrastive_loss(rows, rows, torch.tensor(0.0), mode="sparse")
    with pytest.raises(ValueError, match=r"found \[3, 3\], \[2, 3\]"):
        contrastive_loss(rows, rows[:2], torch.tensor(0.0))
