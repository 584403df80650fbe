"""Runs the checks of one backend and writes their results as JSON beside the scripts."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Checks = Mapping[str, Callable[[Path], dict[str, Any]]]


def run_checks(checks: Checks, results_file: Path, packages: Sequence[str], wanted: Sequence[str]) -> int:
    """Run the wanted checks (default all), each in a scratch folder; what it found, with "ok", goes into the file.

    Returns 1 when one of them failed, else 0.
    """
    unknown = [name for name in wanted if name not in checks]
    if unknown:
        raise SystemExit(f"check: wanted one of {', '.join(map(repr, checks))}, found {unknown[0]!r}")
    results = json.loads(results_file.read_text("utf-8")) if results_file.exists() else {}
    results["versions"] = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    for name in wanted or checks:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = checks[name](Path(folder))
        summary = " ".join((checks[name].__doc__ or "").split())
        results[name] = {"check": summary, **found, "seconds": round(time.monotonic() - begun, 1)}
        in_order = {key: results[key] for key in (*checks, *sorted(results)) if key in results}
        results_file.write_text(json.dumps(in_order, indent=1) + "\n", "utf-8")
        print(f"{name}: {'ok' if found['ok'] else 'FAILED'} {json.dumps(found)[:1000]}", flush=True)
    return 0 if all(results[name]["ok"] for name in wanted or checks) else 1
