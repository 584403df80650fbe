"""Acceptance checks 5 and 7: the losses against their definition, in a process with eight simulated devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    command = [sys.executable, "-m", "conformance.training.flax_loss"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_every_mode_is_the_definition(results: dict[str, Any]) -> None:
    assert len(results["modes"]) == 33  # 2 kinds x (dense + 2 modes x 2 chunks) x 3 meshes + 3 smoothed
    tolerance = results["tolerance"]
    wrong = {case: errors for case, errors in results["modes"].items() if max(errors.values()) > tolerance}
    assert not wrong
    assert max(results["anchors"].values()) <= tolerance


@pytest.mark.parametrize(
    ("broken", "shows_in"),
    [
        ("gather without a gradient", {"y"}),
        ("gradients over the world size", {"x", "y", "t"}),
        ("scale gradient times the parts", {"t"}),
    ],
)
def test_the_comparison_finds_what_is_broken(results: dict[str, Any], broken: str, shows_in: set[str]) -> None:
    errors = results["controls"][broken]
    assert {name for name, error in errors.items() if error > results["tolerance"]} == shows_in
    assert all(errors[name] > 0.1 for name in shows_in)


def test_scale_100_with_duplicates(results: dict[str, Any]) -> None:
    """float32 and bfloat16 rows; sums are float32 in both. What is NaN or infinite fails every comparison."""
    assert len(results["hard"]) == 12
    for case, errors in results["hard"].items():
        # A logit near 100 is rounded to 4e-6, and its exponential with it; gradients come back in the rows' own
        # precision, for bfloat16 2^-8.
        rows = 2**-8 if "bfloat16" in case else 2e-5
        for name, error in errors.items():
            assert error <= {"value": 2e-6, "t": 1e-4, "b": 2e-6}.get(name, rows), (case, name)
