"""Acceptance check 6: the ring's memory, by compile-time analysis on eight simulated devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ring() -> dict[str, Any]:
    command = [sys.executable, "-m", "conformance.training.flax_memory", "ring", "32768", "65536"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_ring_is_linear_in_the_batch(ring: dict[str, Any], kind: str) -> None:
    small, large = ring[kind]["ring"]["32768"], ring[kind]["ring"]["65536"]
    assert small["temporary"] <= 64 * 2**20
    assert large["temporary"] <= 2.1 * small["temporary"]
    for count, found in ((32768, small), (65536, large)):
        rows = count // ring["devices"]
        assert found["elements"] <= ring["chunk"] * rows  # a tile; of the whole matrix a device would hold rows * count
        assert not found["gathers"]
