"""Comparison of arrays, and all tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden"

# float32 has 24 bits: one rounding is 6e-8. A layer has a few hundred of them, in another order than the reference's
# (fused attention, another matrix product), and they grow through the layers: the contract allows 2e-5.
FORWARD = 2e-5
# A gradient passes the layers twice.
GRADIENT = 2e-5
# Between our own backends, from the same weights: tighter than against the reference, because the order of operations
# is ours to choose.
ACROSS = 1e-5


def relative_error(got: Any, want: Any) -> float:
    """The largest difference over the largest expected magnitude; infinite for another shape or a NaN."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    if not want.size:
        return 0.0
    return float(np.abs(got - want).max() / max(np.abs(want).max(), np.finfo(np.float32).tiny))


def worst(got: Mapping[str, Any], want: Mapping[str, Any]) -> tuple[float, str]:
    """The worst relative error over named arrays, and its place. Differing names are a separate error."""
    assert list(got) == list(want), f"fields: got {list(got)}, want {list(want)}"
    errors = {name: relative_error(got[name], want[name]) for name in want}
    name = max(errors, key=errors.__getitem__, default="")
    return errors.get(name, 0.0), name


def gradient_errors(got: Mapping[str, Any], want: Mapping[str, Any]) -> tuple[float, str]:
    """As `worst`, for gradients by canonical name.

    The gradient of k_proj.bias is exactly 0 in real numbers (softmax is invariant to a shift of all keys). Computed
    values are rounding noise, so they are measured against the gradient of the layer's weight.
    """
    assert set(got) == set(want), f"names: missing {set(want) - set(got)}, unexpected {set(got) - set(want)}"
    errors = {}
    for name, value in want.items():
        if name.endswith("k_proj.bias"):
            scale = float(np.abs(want[name.replace(".bias", ".weight")]).max())
            errors[name] = float(np.abs(got[name] - value).max()) / max(scale, np.finfo(np.float32).tiny)
        else:
            errors[name] = relative_error(got[name], value)
    name = max(errors, key=errors.__getitem__)
    return errors[name], name


@cache
def golden_file(topic: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{topic}.npz") as file:
        return dict(file)


def golden(case: str) -> dict[str, np.ndarray]:
    """A case's recorded arrays: "structure", "drawn", "out/…", "grad/…"."""
    arrays = golden_file(case.split(".")[0])
    found = {key.removeprefix(f"{case}/"): value for key, value in arrays.items() if key.startswith(f"{case}/")}
    assert found, f"no golden arrays for {case}: run conformance/make_golden.py"
    return found


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
