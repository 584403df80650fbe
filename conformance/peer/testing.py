"""The replacement of transformers.testing_utils: conditions for running a test, and a few tools.

A test that needs a network, an accelerator, another model or a second framework is skipped, as it is on the real
library in the environments this harness uses.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import multiprocessing
import os
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

FRAMEWORKS = tuple(filter(None, os.environ.get("PEER_FRAMEWORKS", "").split(",")))
TESTS = Path(os.environ.get("PEER_TREE", ".")) / "tests"
_AVAILABLE = {
    "torch": "torch" in FRAMEWORKS,
    "tf": "tf" in FRAMEWORKS,
    "flax": "flax" in FRAMEWORKS,
    "torch_or_tf": "torch" in FRAMEWORKS or "tf" in FRAMEWORKS,
    "torch_sdpa": "torch" in FRAMEWORKS,
    "torch_fx": "torch" in FRAMEWORKS,
    **dict.fromkeys(("vision", "tokenizers", "safetensors", "sentencepiece"), True),
    **{name: importlib.util.find_spec(name) is not None for name in ("ftfy", "accelerate", "tf2onnx")},
    "jinja": importlib.util.find_spec("jinja2") is not None,
}


def available(name: str) -> Callable[[], bool]:
    """`is_<name>_available`, for the frameworks of this run."""
    return lambda *_, **__: _AVAILABLE.get(name, False)


def require(name: str) -> Callable[[Any], Any]:
    """`require_<name>`: skips where that isn't available."""
    return lambda test: test if _AVAILABLE.get(name, False) else unittest.skip(f"needs {name}")(test)


def skipped(test: Any) -> Any:
    """Cross tests of two frameworks, staging tests: never run here, nor on the real library."""
    return unittest.skip("needs another framework or the hub's staging")(test)


class CaptureLogger:
    """What a logger writes inside the block, as `out`."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger, self.out = logger, ""

    def __enter__(self) -> CaptureLogger:
        self._stream = io.StringIO()
        self._handler = logging.StreamHandler(self._stream)
        self.logger.addHandler(self._handler)
        return self

    def __exit__(self, *error: Any) -> None:
        self.logger.removeHandler(self._handler)
        self.out = self._stream.getvalue()


def check_json_file_has_correct_format(path: Any) -> None:
    """JSON with two spaces of indentation and a newline at the end."""
    text = Path(path).read_text("utf-8")
    json.loads(text)
    if text.strip() != "{}":
        lines = text.splitlines()
        assert lines[0] == "{" and lines[-1] == "}" and text.endswith("\n")
        assert all(line.startswith("  ") and not line.startswith("   ") for line in lines[1:2])


def get_tests_dir(append_path: str | None = None) -> str:
    """Where their tests lie."""
    return str(TESTS / append_path) if append_path else str(TESTS)


def run_test_in_subprocess(test_case: Any, target_func: Any, inputs: Any = None, timeout: int = 600) -> None:
    """Run `target_func(in_queue, out_queue, timeout)` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    into, out = context.Queue(1), context.JoinableQueue(1)
    into.put(inputs)
    process = context.Process(target=target_func, args=(into, out, timeout))
    process.start()
    try:
        results = out.get(timeout=timeout)
        out.task_done()
    finally:
        process.terminate()
    if results["error"] is not None:
        test_case.fail(str(results["error"]))


class ContextManagers:
    """A list of context managers as one."""

    def __init__(self, managers: Any) -> None:
        self._managers, self._stack = managers, contextlib.ExitStack()

    def __enter__(self) -> None:
        for manager in self._managers:
            self._stack.enter_context(manager)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
