"""A client's script: checks, and the record of their results.

    TITLE, PACKAGES = "torchmetrics", ("torchmetrics", "torch")

    def encodes_texts() -> Found:
        ...
        return works("what was called", difference=1e-7)

    CHECKS = (encodes_texts, ...)

A check that raises is recorded as failed, with the error. `python -m conformance.clients.record SCRIPT OUT.json`
runs a script's checks in the current environment, and exits with 1 if one failed; further arguments name the checks to
run.
"""

from __future__ import annotations

import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import stub_torchvision

RESULTS = Path(__file__).parent / "results"


class Found(NamedTuple):
    """One line of the page."""

    called: str  # what of the client was called, and with what
    status: str  # "works", "differs", "refused"
    figures: dict[str, float | int | str]
    note: str = ""  # what differs, or the words of the refusal


def works(called: str, note: str = "", **figures: float | int | str) -> Found:
    """Works as with the classes that the client was written for."""
    return Found(called, "works", figures, note)


def differs(called: str, note: str, **figures: float | int | str) -> Found:
    """Works with a difference from the classes that the client was written for, named in `note`."""
    return Found(called, "differs", figures, note)


def refused(called: str, note: str, **figures: float | int | str) -> Found:
    """Is refused; `note` has the refusing party, its message, and an alternative."""
    return Found(called, "refused", figures, note)


def at_most(limit: float, **figures: float) -> dict[str, float]:
    """The numbers, after a check that none is above the limit or NaN."""
    for name, value in figures.items():
        if not value <= limit:
            raise AssertionError(f"{name}: wanted at most {limit:g}, found {value:g}")
    return figures


def difference(a: Any, b: Any) -> float:
    """The largest absolute difference of two arrays or tensors of one shape."""
    import numpy as np

    a, b = (np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x, np.float64) for x in (a, b))
    if a.shape != b.shape:
        raise AssertionError(f"shapes: {a.shape} and {b.shape}")
    return float(np.abs(a - b).max())


def main(script: str, out: Path, only: Sequence[str] = ()) -> int:
    """Run a script's checks one after the other and write the record.

    `only`: names of checks; the other lines of the record, which must be of the same versions, are kept.
    """
    if find_spec("torchvision") and find_spec("torch"):
        stub_torchvision()
    client = import_module(f"conformance.clients.{script}")
    versions = {package: version(package) for package in client.PACKAGES}
    record = {"title": client.TITLE, "python": platform.python_version(), "versions": versions}
    kept = _kept(out, record, client.CHECKS, only)
    pairs = zip(client.CHECKS, kept, strict=True)
    found = [line if only and check.__name__ not in only else _run(check) for check, line in pairs]
    record["checks"] = found
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if any(check["status"] == "failed" for check in found) else 0


def _kept(out: Path, record: dict[str, Any], checks: Sequence[Any], only: Sequence[str]) -> list[Any]:
    """A line of the last record for each check; None for all where all are run."""
    if not only:
        return [None] * len(checks)
    unknown = set(only) - {check.__name__ for check in checks}
    if unknown:
        raise SystemExit(
            f"check: wanted of {', '.join(check.__name__ for check in checks)}, found {sorted(unknown)[0]!r}"
        )
    last = json.loads(out.read_text(encoding="utf-8"))
    lines = last.pop("checks")
    if last != record or len(lines) != len(checks):
        raise SystemExit(f"the last record is of {last} with {len(lines)} checks: run all of them again")
    return lines


def _run(check: Callable[[], Found]) -> dict[str, Any]:
    begin = time.process_time()
    try:
        result = check()
    except Exception as error:
        traceback.print_exc()
        result = Found(check.__name__, "failed", {}, f"{type(error).__name__}: {error}")
    figures = {name: _rounded(value) for name, value in result.figures.items()}
    print(f"  {result.status:8}{result.called}  {figures or ''}", flush=True)
    return {**result._asdict(), "figures": figures, "cpu_seconds": round(time.process_time() - begin, 1)}


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
