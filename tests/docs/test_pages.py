"""Generated pages of the site (notebooks/pages.py): notebooks, and the command line from its parser."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_pages", ROOT / "notebooks" / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_holds_the_whole_notebook(pages: ModuleType, path: Path) -> None:
    page, pictures = pages.tutorial(path)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert (
        page.startswith("# ")
        and len(re.findall(r"^# ", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), re.M)) == 1
    )
    for cell in cells:
        if cell["cell_type"] == "code":
            assert "".join(cell["source"]).rstrip() in page
        for output in cell.get("outputs", ()):
            assert "".join(output.get("text", "")).rstrip() in page
    shown = [out for cell in cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})]
    assert len(pictures) == len(shown) and all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)) == set(pictures)
    assert f"]({path.name})" in page  # to take it home


def test_code_with_fences_stays_in_its_own(pages: ModuleType) -> None:
    assert pages.fenced("python", "a = '''\n```\n'''") == "````python\na = '''\n```\n'''\n````"


def test_the_command_line_is_complete(pages: ModuleType) -> None:
    from triclip.command import build_parser

    page = pages.command_line()
    for name, command in next(a for a in build_parser()._actions if a.dest == "command").choices.items():
        section = page[page.index(f"## triclip {name}\n") :].partition("\n## ")[0]
        for action in command._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or re.search(rf"^\| `.*{option}\b.*` \|", section, re.M), option
    assert "`--reference`" in page  # `conform` declares its arguments only when it is asked for
