"""Measure rows and write docs/benchmarks.md: `python -m benchmarks.run [NAME...]`, every row without names.

Runs in the `triclip` environment. Each row's outcome is kept in benchmarks/results/NAME.json; the page is made from
all of them, so measuring one row leaves the others' figures as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import data, peers, report
from benchmarks.harness import DATA, ROOT, load_row, measure

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
HELPERS = {"__init__", "data", "harness", "models", "peers", "report", "run", "worker", "convert_checkpoint"}
FIRST = ("ceiling", "imports", "tokenizer", "images_640", "images_2000", "folder_to_embeddings", "cold_start")


def row_names() -> list[str]:
    """Every row: the modules here that are no helpers, in the page's order."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")} - HELPERS
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", facts)
    flags = set((re.search(r"flags\s*:\s*(.+)", facts) or [None, ""])[1].split())
    told = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": cores,
        "features": [flag for flag in told if flag in flags],
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def run(name: str) -> None:
    """Measure one row, keep its result, print its table."""
    _, row = load_row(name)
    for part in row.data:
        data.make(part)
    pythons = {env: peers.python(env) for env in sorted({side.env for side in row.sides.values()})}
    started = time.perf_counter()
    print(f"\n{name}: {row.title}", flush=True)
    result = measure(name, pythons)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    kept = {"row": name, "date": today, "machine": machine(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(_rounded(kept), indent=1) + "\n")
    print("\n".join(report.row_lines(row, kept)), f"({time.perf_counter() - started:.0f} s)", sep="\n", flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write_page() -> None:
    """docs/benchmarks.md from the results that are there."""
    rows = [(load_row(name)[1], RESULTS / f"{name}.json") for name in row_names()]
    found = [(row, _kept(row, path)) for row, path in rows]
    PAGE.write_text(report.page(found), encoding="utf-8")
    print(f"\n{PAGE.relative_to(ROOT)}")


def _kept(row: Any, path: Path) -> Any:
    """A row's last result; None where there is none, or the row has changed its sides since."""
    result = json.loads(path.read_text()) if path.exists() else None
    return result if result and set(result["measured"]) == set(row.sides) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="NAME", help=f"of {', '.join(row_names())}")
    parser.add_argument("--page", action="store_true", help="only write the page from the results kept")
    args = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    failed = []
    for name in [] if args.page else args.rows or row_names():
        try:
            run(name)
        except (RuntimeError, AssertionError, OSError, ImportError) as error:  # the other rows still count
            print(f"{name}: {error!r}" if isinstance(error, AssertionError) else f"{name}: {error}", file=sys.stderr)
            failed.append(name)
    write_page()
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
