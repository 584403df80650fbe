"""Run other people's programs on triclip's classes: `python -m conformance.clients [NAME ...]`.

Each client runs in its environment, which is built on first use (several GB in all), and writes
results/NAME.json; then docs/clients.md is written from the results there are. `--page` only writes the page. Any
Python runs this: it needs the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import environments, page
from .record import RESULTS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 7200  # seconds for one client: a busy machine takes long
ENVIRON = {"HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


def run(name: str, checks: Sequence[str] = ()) -> bool:
    """Run one client, or some of its checks, and keep its record; returns whether all of them passed."""
    python = environments.python(page.CLIENTS[name])
    print(f"{name}:", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [python, "-m", "conformance.clients.record", page.SCRIPTS.get(name, name), out, *checks]
        if checks:
            out.write_bytes((RESULTS / f"{name}.json").read_bytes())
        environ = {**os.environ, **ENVIRON, "PYTHONPATH": str(ROOT), "HF_HOME": folder, "TMPDIR": folder}
        try:
            status = subprocess.run(command, cwd=ROOT, env=environ, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            print(f"  stopped after {LIMIT} s", file=sys.stderr)
            return False
        if not out.exists():  # it died before its checks; the last record is kept
            return False
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_bytes(out.read_bytes())
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.clients", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(page.CLIENTS)}; default all")
    parser.add_argument("--check", action="append", default=[], help="of one client: run this check again (repeatable)")
    parser.add_argument("--page", action="store_true", help="only write the page from the results kept")
    args = parser.parse_args()
    for name in args.names:
        if name not in page.CLIENTS:
            parser.error(f"NAME: wanted one of {', '.join(page.CLIENTS)}, found {name!r}")
    if args.check and len(args.names) != 1:
        parser.error("--check: wanted one NAME beside it")
    failed = [name for name in ([] if args.page else args.names or page.CLIENTS) if not run(name, args.check)]
    page.PAGE.write_text(page.text(page.kept()), encoding="utf-8")
    print(f"failed: {', '.join(failed)}" if failed else page.PAGE.relative_to(ROOT))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
