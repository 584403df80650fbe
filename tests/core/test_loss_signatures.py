"""The losses have one signature in all backends; read from the source, because backends may not be installed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = {"group", "mesh", "precision"}  # where and how a framework computes


@pytest.mark.parametrize("name", ["contrastive_loss", "anchor_loss"])
def test_one_signature(name: str) -> None:
    found = set()
    for backend in ("clip_torch", "clip_tf", "clip_flax"):
        tree = ast.parse((ROOT / backend / "loss.py").read_text("utf-8"))
        (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
        arguments = function.args
        found.add(tuple(a.arg for a in arguments.args + arguments.kwonlyargs if a.arg not in PLACES))
    assert len(found) == 1
