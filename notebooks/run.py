"""Execute the notebooks from clean kernels: `make notebooks`; `make notebooks-write` keeps what they show.

A notebook fails when a cell raises, when it takes longer than its limit, when anything arrives on standard error, or
when its text no longer says what is kept in the file: other words, or numbers farther off than two machines are.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HERE = Path(__file__).parent
LIMIT = 180.0  # seconds, of one notebook
RELATIVE, ABSOLUTE = 0.15, 0.03  # between numbers of two machines: one picture of sixteen, after some steps of training
MODEL_LINE = re.compile(r'^MODEL = "emoji"', re.M)
# What compiled libraries say of the machine: their logs ("I0000 00:00:17…"), and XLA's when a compilation takes long.
_MACHINE = re.compile(
    r"WARNING: All log messages before absl::.*|[IWE]\d{4} .*|\*+|\[Compiling .*|.*Very slow compile.*|\s*"
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class NotebookError(Exception):
    """What is wrong with a notebook; the message names it."""


def execute(notebook: Any, limit: float = LIMIT) -> float:
    """Run all cells in this interpreter's environment, in an empty folder; fills in outputs, returns seconds.

    Raises NotebookError.
    """
    began = time.monotonic()
    # Not by name: a kernel of that name that the user installed would be another environment.
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    with (
        tempfile.TemporaryDirectory() as sockets,
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as temporary,  # where a notebook's own temporary files go, and end
    ):
        manager = AsyncKernelManager(transport="ipc", ip=f"{sockets}/kernel")  # no port is opened
        spec = {key: _KERNEL[key] for key in ("display_name", "language")}
        manager._kernel_spec = KernelSpec(argv=command, env={"TMPDIR": temporary}, **spec)
        client = NotebookClient(
            notebook,
            km=manager,
            record_timing=False,
            coalesce_streams=True,
            timeout_func=lambda cell: max(1, round(limit - (time.monotonic() - began))),
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(cleanup_kc=True)
        except CellTimeoutError as error:
            raise NotebookError(f"takes longer than its limit of {limit:.0f} s") from error
        except CellExecutionError as error:
            raise NotebookError(f"fails: {error}") from error
        except (DeadKernelError, RuntimeError) as error:
            raise NotebookError(f"its kernel ended or never began: {error}") from error
    seconds = time.monotonic() - began
    if seconds > limit:
        raise NotebookError(f"took {seconds:.0f} s, its limit is {limit:.0f} s")
    for number, cell in enumerate(notebook.cells):
        complaints = "".join(out["text"] for out in cell.get("outputs", ()) if out.get("name") == "stderr")
        if found := [line for line in complaints.splitlines() if not _MACHINE.fullmatch(line)]:
            raise NotebookError(f"cell {number} writes to standard error: {found[0][:400]}")
        if complaints:
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return seconds


def text_of(output: Any) -> str:
    """What an output says in plain text: "" for a picture, whose figures are compared by eye."""
    data = output.get("data", {})
    return "" if "image/png" in data else output.get("text") or data.get("text/plain", "")


def changed(kept: Any, fresh: Any) -> str | None:
    """Where a notebook's text differs from what was kept of it; None when nowhere. Both ran the same cells."""
    for number, (before, after) in enumerate(zip(kept.cells, fresh.cells, strict=True)):
        old, new = ("\n".join(map(text_of, cell.get("outputs", ()))) for cell in (before, after))
        if not alike(old, new):
            return f"cell {number} says\n{new}\nwhere the file has\n{old}"
    return None


def alike(old: str, new: str) -> bool:
    """The same words, numbers within RELATIVE or ABSOLUTE of each other. Spaces and dashes of tables do not count."""
    words = [re.sub(r"[-\s]+", " ", _NUMBER.sub("#", text)).strip() for text in (old, new)]
    numbers = [[float(found) for found in _NUMBER.findall(text)] for text in (old, new)]
    return words[0] == words[1] and all(
        abs(a - b) <= max(ABSOLUTE, RELATIVE * abs(a)) for a, b in zip(*numbers, strict=True)
    )


def tidy(notebook: Any) -> Any:
    """Without what differs from machine to machine: the kernel's name and version, and cells' states."""
    notebook.metadata = nbformat.from_dict({"kernelspec": _KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def check(path: Path, write: bool = False, model: str | None = None, limit: float = LIMIT) -> float:
    """Execute one file; returns seconds. Raises NotebookError.

    `write`: keep the outputs in the file instead of comparing with those there. `model`: run with this in place of
    "emoji" in the line that says MODEL; its outputs are other ones, and are not compared.
    """
    kept, fresh = (nbformat.read(path, as_version=4) for _ in range(2))
    if model is not None:
        _use_model(fresh, model)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    seconds = execute(fresh, limit)
    if write:
        nbformat.write(tidy(fresh), path)
    elif model is None and (difference := changed(kept, fresh)):
        raise NotebookError(difference)
    return seconds


def _use_model(notebook: Any, model: str) -> None:
    found = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, count = MODEL_LINE.subn(lambda _: f"MODEL = {model!r}", cell.source)
            found += count
    if found != 1:
        raise NotebookError(f'wanted one line that begins with MODEL = "emoji", found {found}')


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute notebooks from clean kernels.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all beside this script")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the files")
    parser.add_argument("--model", help="another model in place of the embedded one; nothing is compared")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="of each (default 180)")
    options = parser.parse_args(arguments)
    if options.write and options.model:
        parser.error("--write keeps the embedded model's outputs; it can't be given with --model")
    failed = 0
    for path in options.notebooks or sorted(HERE.glob("*.ipynb")):
        try:
            seconds = check(path, options.write, options.model, options.limit)
            print(f"{path.name}: {seconds:.0f} s", flush=True)
        except NotebookError as error:
            failed += 1
            print(f"{path.name}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
