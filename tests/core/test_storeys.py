"""Imports between the three storeys: `triclip` -> `clip_torch | clip_tf | clip_flax` -> `clip_core`.

Read from the syntax tree of every file, with imports inside functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STOREY = {"clip_core": 0, "clip_torch": 1, "clip_tf": 1, "clip_flax": 1, "triclip": 2}
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "optax", "orbax"}

pytestmark = pytest.mark.skipif(not (ROOT / "clip_core").is_dir(), reason="the packages' sources are not here")


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every file of the five packages."""
    found = {}
    for package in STOREY:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str, path: Path, typing_too: bool = True) -> Iterator[tuple[str, int]]:
    """(dotted name of a module, line) for each import; `from a import b` is `a.b` where that is a file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set() if typing_too else set(_under_type_checking(tree))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), node.lineno


def _under_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in node.body:
                yield from ast.walk(inner)


def arrows(typing_too: bool = True) -> dict[str, set[str]]:
    """Module -> the project's modules that it imports."""
    return {
        name: {found for found, _ in imported(name, path, typing_too) if found in MODULES and found != name}
        for name, path in MODULES.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected sets of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_arrow_upwards_or_between_backends() -> None:
    wrong = []
    for name, others in arrows().items():
        own = name.partition(".")[0]
        for other in others:
            top = other.partition(".")[0]
            if STOREY[top] > STOREY[own] or STOREY[top] == STOREY[own] and top != own:
                wrong.append(f"{name} -> {other}")
    assert not wrong


def test_no_circle_between_files() -> None:
    """A package's `__init__` that loads its parts lazily does not count as importing them: it names them for typing."""
    assert circles(arrows(typing_too=False)) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_the_core_imports_no_framework_and_backends_only_their_own() -> None:
    own = {"clip_torch": {"torch"}, "clip_tf": {"tensorflow", "keras"}, "clip_flax": {"jax", "flax"}}
    # Called for by an argument, inside a function: `return_tensors="pt"`; an orbax folder is written by its library.
    asked_for = {"clip_core.batch": {"torch", "tensorflow", "jax"}, "clip_core.checkpoint.orbax_file": {"orbax"}}
    wrong = []
    for name, path in MODULES.items():
        top = name.partition(".")[0]
        if top == "triclip":
            continue
        for found, line in imported(name, path):
            package = found.partition(".")[0]
            if package in FRAMEWORKS - own.get(top, set()) - asked_for.get(name, set()):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {package}")
    assert not wrong


# import name -> distribution, where they differ
DISTRIBUTION = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "faiss": "faiss-cpu",
    "google": "protobuf",
    "python_multipart": "python-multipart",
    "orbax": "orbax-checkpoint",
    "umap": "umap-learn",
    "pillow_heif": "pillow-heif",
    "rich_argparse": "rich-argparse",
    "qdrant_client": "qdrant-client",
}
# distribution -> the declared one that depends on it
COMES_WITH = {
    "absl": "grain",
    "array_record": "grain",
    "ml_dtypes": "jax",
    "optax": "flax",
    "optree": "keras",
    "orbax-checkpoint": "flax",
    "tensorstore": "flax",
}


def declared() -> set[str]:
    """Distributions that pyproject.toml names, in any extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower() for line in lines}


def test_every_third_party_import_is_declared() -> None:
    known = declared()
    wrong = set()
    for name, path in MODULES.items():
        for found, line in imported(name, path):
            top = found.partition(".")[0]
            if top in sys.stdlib_module_names or top in STOREY:
                continue
            distribution = DISTRIBUTION.get(top, top).lower()
            if COMES_WITH.get(distribution, distribution) not in known:
                wrong.add(f"{path.relative_to(ROOT)}:{line} imports {top}")
    assert not sorted(wrong)


def test_no_public_name_is_also_a_submodule() -> None:
    """Importing `triclip.x.name` would put the module where `from triclip.x import name` expects the function."""
    clashes = []
    for init in (path for path in MODULES.values() if path.name == "__init__.py"):
        inside = {path.stem if path.suffix == ".py" else path.name for path in init.parent.iterdir()}
        for node in ast.parse(init.read_text("utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
                keys = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
                clashes += [f"{init.parent.name}.{key}" for key in sorted(keys & inside)]
    assert clashes == []
