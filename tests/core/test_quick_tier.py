"""The quick tier of tests: what it leaves out exists, and what is left covers every folder."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.conftest import ROOT, SLOW

WHOLE_RUNS = {"conformance/training"}  # its one test trains in every framework


@cache
def test_names(module: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


test_names.__test__ = False  # type: ignore[attr-defined]


def unknown(name: str) -> bool:
    """Whether an entry of SLOW names no module, no test in it, or a test of a module that is left out as a whole."""
    module, _, test = name.partition("::")
    if not (ROOT / module).is_file() or (test and module in SLOW):
        return True
    return test not in test_names(ROOT / module) if test else not test_names(ROOT / module)


def test_what_is_left_out_exists() -> None:
    """A test that was renamed would otherwise leave its entry behind, and run in the quick tier."""
    assert not [name for name in sorted(SLOW) if unknown(name)], "correct SLOW in tests/conftest.py"
    assert unknown("tests/core/test_gone.py") and unknown("tests/core/test_quick_tier.py::test_gone")


def test_every_folder_keeps_quick_tests() -> None:
    quick, folders = set(), set()
    for path in (path for tree in ("tests", "conformance") for path in (ROOT / tree).rglob("test_*.py")):
        module = path.relative_to(ROOT).as_posix()
        folders.add(path.parent.relative_to(ROOT).as_posix())
        if module not in SLOW and any(f"{module}::{test}" not in SLOW for test in test_names(path)):
            quick.add(path.parent.relative_to(ROOT).as_posix())
    assert folders - WHOLE_RUNS <= quick, f"without a quick test: {sorted(folders - WHOLE_RUNS - quick)}"
