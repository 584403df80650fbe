"""The reference documents every public name, and the navigation has every page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "clip_core": None,
    "clip_core.checkpoint": None,
    "triclip.embed": None,
    "triclip.conform": None,
    "triclip.data": None,
    "triclip.search": None,
    "triclip.serve": None,
    "triclip.train": None,
    "triclip.viz": "matplotlib",
    "clip_torch": "torch",
    "clip_tf": "tensorflow",
    "clip_flax": "flax",
}
LISTED = set(re.findall(r"^::: (\S+)", "\n".join(p.read_text() for p in (ROOT / "docs/reference").glob("*.md")), re.M))


def where(module: str, name: str) -> str:
    """The dotted path of an object's definition."""
    found = getattr(importlib.import_module(module), name)
    return f"{getattr(found, '__module__', module)}.{getattr(found, '__name__', name)}"


def is_listed(path: str, module: str, name: str) -> bool:
    """Itself, or its whole module; by where it is defined, or by a module that re-exports it."""
    candidates = {path, path.rpartition(".")[0]}
    home = getattr(importlib.import_module(module), "_HOME", {}).get(name)
    return bool(LISTED & (candidates | {f"{module}.{home}.{name}", f"{module}.{home}"}))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_there(module: str) -> None:
    if MODULES[module]:
        pytest.importorskip(MODULES[module])
    core = () if module == "clip_core" else importlib.import_module("clip_core").__all__
    names = [name for name in importlib.import_module(module).__all__ if name not in core]
    values = {"SUFFIXES", "KINDS"}  # have no docstring
    missing = {
        path for name in names if name not in values and not is_listed(path := where(module, name), module, name)
    }
    assert not missing


@pytest.mark.parametrize("path", sorted(LISTED))
def test_what_is_listed_exists(path: str) -> None:
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if error.name and not path.startswith(error.name):
                pytest.skip(f"{error.name} is not installed")
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        assert found.__doc__
        return
    raise AssertionError(f"no module of {path} can be imported")


def test_the_navigation_leads_to_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    linked = set(re.findall(r": (\S+\.md)$", text[text.index("\nnav:") :], re.M))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    tutorials = {f"tutorials/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pages | tutorials <= linked
    assert linked - pages - tutorials == {
        "model-card.md",
        "changelog.md",
        "contributing.md",
        "reference/cli.md",
    }  # notebooks/pages.py
