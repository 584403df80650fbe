"""A side's process: prepares it, then repeats it whenever a line comes in (see harness.py)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA


def main(row: str, function: str) -> None:
    # Libraries may print: only answers go to the parent.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    repeat = getattr(import_module(f"benchmarks.{row}"), function)(DATA)
    _send(answers, {})
    for line in sys.stdin:
        path = json.loads(line)["result"]
        started, cpu = time.perf_counter(), time.process_time()
        result = repeat()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        if path and result is not None:
            _save(Path(path), result)
        del result
        _send(answers, {"seconds": seconds, "cpu": cpu, "peak": _peak()})


def _send(answers: Any, value: Mapping[str, float]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _save(path: Path, result: Any) -> None:
    import numpy as np

    arrays = result if isinstance(result, Mapping) else {"": result}
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})


def _peak() -> int:
    """This process's largest resident set so far, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
