"""Measure rows and write docs/benchmarks.md: `python -m benchmarks.run [NAME...]`, every row without names.

Runs in the `triclip` environment, at the processor's own level of instructions and then, where that has AVX-512, at
AVX2's (see levels.py). Each row's outcome is kept in benchmarks/results/LEVEL/NAME.json; the page is made from all of
them, so measuring one row leaves the others' figures as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import data, levels, peers, report
from benchmarks.harness import DATA, ROOT, load_row, measure

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
HELPERS = {"__init__", "data", "harness", "levels", "models", "peers", "products", "report", "run", "worker"}
HELPERS |= {"convert_checkpoint"}
LEVELS = ("avx512", "avx2", "aarch64", "arm64")  # in the page's order
SAME = ("imports", "cold_start", "load_model")  # rows that newer instructions make no faster: not emulated
FIRST = ("ceiling", "imports", "tokenizer", "images_640", "images_2000", "folder_to_embeddings", "cold_start")


def row_names() -> list[str]:
    """Every row: the modules here that are no helpers, in the page's order."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")} - HELPERS
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


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
    folder = RESULTS / levels.level()
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"row": name, "date": today, "machine": levels.facts(), **result}
    (folder / f"{name}.json").write_text(json.dumps(_rounded(kept), indent=1) + "\n")
    print(
        "\n".join(report.row_lines(row, kept, levels.level())),
        f"({time.perf_counter() - started:.0f} s)",
        sep="\n",
        flush=True,
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write_page() -> None:
    """docs/benchmarks.md from the results that are there."""
    rows = [(name, load_row(name)[1]) for name in row_names()]
    found = [(row, {level: kept for level in LEVELS if (kept := _kept(name, row, level))}) for name, row in rows]
    PAGE.write_text(report.page(found), encoding="utf-8")
    print(f"\n{PAGE.relative_to(ROOT)}")


def _kept(name: str, row: Any, level: str) -> Any:
    """A row's last result at a level; None where there is none, or the row has changed its sides since."""
    path = RESULTS / level / f"{name}.json"
    result = json.loads(path.read_text()) if path.exists() else None
    return result if result and set(result["measured"]) == set(row.sides) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="NAME", help=f"of {', '.join(row_names())}")
    parser.add_argument("--page", action="store_true", help="only write the page from the results kept")
    parser.add_argument("--level", choices=("own", "avx2"), help="only the processor's own level, or only AVX2")
    args = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    emulated, failed = bool(os.environ.get(levels.EMULATED)), []
    here = args.level != "avx2" or emulated or levels.level() == "avx2"
    for name in [] if args.page or not here else args.rows or row_names():
        if emulated and name in SAME:
            continue
        try:
            run(name)
        except (RuntimeError, AssertionError, OSError, ImportError) as error:  # the other rows still count
            print(f"{name}: {error!r}" if isinstance(error, AssertionError) else f"{name}: {error}", file=sys.stderr)
            failed.append(name)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    if not args.page and args.level != "own" and levels.level() == "avx512":
        return levels.rerun(args.rows) or bool(failed)  # writes the page
    write_page()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
