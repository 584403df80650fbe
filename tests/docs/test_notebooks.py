"""The committed notebooks, and the script that executes them (`make notebooks`, with clean kernels)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks are read with nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_000_000  # bytes
MODEL_LINE = 'MODEL = "emoji"  # OpenAI\'s: "openai/clip-vit-base-patch32"'
# Places of one machine, memory addresses, dates and times of day, and what warnings look like.
FOREIGN = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|var|work|private|Users|mnt|proc)\b|[A-Z]:\\|\b0x[0-9a-f]{6,}"
    r"|\b20\d\d-\d\d-\d\d|\b\d\d:\d\d:\d\d\b|\b[A-Z]\w*Warning\b|\bWARNING\b|Traceback",
)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    """All text of a cell's outputs."""
    return "\n".join(out.get("text", "") + str(out.get("data", {}).get("text/plain", "")) for out in cell.outputs)


def test_all_six_are_there() -> None:
    assert [path.stem.partition("_")[0] for path in NOTEBOOKS] == list("123456")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_run_from_top_to_bottom(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {out.output_type for cell in cells for out in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}, "an error was kept"
    assert all(out.get("name") != "stderr" for cell in cells for out in cell.outputs)
    assert sum("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs) >= 2
    assert path.stat().st_size <= LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_says_how_to_take_openais_weights(path: Path) -> None:
    notebook = read(path)
    lines = [line for cell in code(notebook) for line in cell.source.splitlines()]
    assert lines.count(MODEL_LINE) == 1
    named = [line for line in lines if '"emoji"' in line.replace('["emoji"]', "")]  # a figure may have that name
    assert named == [MODEL_LINE], "another line would have to be changed as well"
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "`MODEL`" in prose and "OpenAI" in prose


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_one_machine_is_in_it(path: Path) -> None:
    notebook = read(path)
    assert dict(notebook.metadata.language_info) == {"name": "python"}
    for cell in notebook.cells:
        assert not cell.metadata, "a cell's metadata holds times and an editor's state"
        text = cell.source + ("\n" + shown(cell) if cell.cell_type == "code" else "")
        assert not (found := FOREIGN.search(text)), f"{found.group()!r} in {text[:200]!r}"


def test_what_counts_as_foreign() -> None:
    for text in ("/tmp/x", "in '/home/me'", "at 0x7f3a2b9c", "2026-01-02", "12:30:59", "FutureWarning: x", "C:\\Users"):
        assert FOREIGN.search(text), text
    for text in ("docs/tmp", "https://arxiv.org/abs/2005.00928", "3.1e-07", "2:1", "16 / 16", "a/b", "no warning"):
        assert not FOREIGN.search(text), text


# -- the script -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    pytest.importorskip("nbclient", reason="notebooks are executed with nbclient")
    pytest.importorskip("ipykernel", reason="by IPython's kernel")
    spec = importlib.util.spec_from_file_location("notebooks_run", ROOT / "notebooks" / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_outputs_are_kept_and_then_compared(runner: ModuleType, tmp_path: Path) -> None:
    path = written(tmp_path / "a.ipynb", 'MODEL = "emoji"', "print('model', MODEL, 'loss', 1.25)")
    runner.check(path, write=True)
    assert shown(read(path).cells[1]) == "model emoji loss 1.25\n" and not read(path).cells[1].metadata
    assert runner.main([str(path)]) == 0
    path.write_text(path.read_text().replace("loss 1.25\\n", "loss 1.26\\n"))  # as another machine may round
    assert runner.main([str(path)]) == 0
    path.write_text(path.read_text().replace("loss 1.26\\n", "loss 2.5\\n"))
    assert runner.main([str(path)]) == 1
    assert runner.main([str(path), "--model", "other"]) == 0  # other outputs, as they should be


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; print('odd', file=sys.stderr)", "standard error: odd"),
        ("import warnings; warnings.warn('careful')", "standard error"),
        ("import time; time.sleep(60)", "limit of 3 s"),
        ("import os; os._exit(1)", "kernel"),
    ],
)
def test_what_is_wrong_is_said(runner: ModuleType, tmp_path: Path, source: str, said: str) -> None:
    path = written(tmp_path / "a.ipynb", source)
    before = path.read_bytes()
    with pytest.raises(runner.NotebookError, match=said):
        runner.check(path, write=True, limit=3)
    assert path.read_bytes() == before


def test_what_compiled_libraries_log_is_left_out(runner: ModuleType, tmp_path: Path) -> None:
    log = (
        "WARNING: All log messages before absl::InitializeLog() is called\\nI0000 00:00:1795814026.7 1 port.cc:1] on\\n"
    )
    path = written(tmp_path / "a.ipynb", f"import os; _ = os.write(2, b'{log}')\nprint('done')")
    runner.check(path, write=True)
    assert [out.name for out in read(path).cells[0].outputs] == ["stdout"]


def test_numbers_of_two_machines(runner: ModuleType) -> None:
    assert runner.alike("error 3e-07, R@1 62%", "error 5.1e-07,  R@1 63%")
    assert not runner.alike("R@1 62%", "R@1 75%")
    assert not runner.alike("a lion", "a pizza")
    assert not runner.alike("1 2", "1 2 3")
