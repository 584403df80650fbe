"""Output shards: written whole or not at all; a record written last marks a finished one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..search import Index
from ..search.runs import Unit, record_path
from ..search.single_file import files_of
from ..search.writing import replaced, write_json
from .settings import BROKEN, Settings


def write_shard(settings: Settings, unit: Unit, indexes: Mapping[str, Index], about: dict[str, Any]) -> dict[str, Any]:
    """Write the files of a unit, then its record, which is returned. An OSError names the file."""
    files: dict[str, int] = {}
    for kind, index in indexes.items():
        target = settings.output / kind / f"{unit.name}.{settings.to}"
        for path, write in files_of(index, target):
            with replaced(path) as draft:
                write(draft)
            files[str(path.relative_to(settings.output))] = path.stat().st_size
    record = {"files": files, "rows": {kind: len(index) for kind, index in indexes.items()}, **about}
    write_json(record_path(settings.output, unit.name), record)
    return record


@contextlib.contextmanager
def broken_file(output: Path) -> Iterator[Callable[[str, str], None]]:
    """Replace broken.jsonl as a whole; yields a function that adds (name, reason)."""
    with replaced(output / BROKEN) as draft, open(draft, "w", encoding="utf-8", newline="\n") as file:

        def add(name: str, reason: str) -> None:
            file.write(json.dumps({"name": name, "reason": reason}) + "\n")

        yield add


def plain(text: str) -> str:
    """Text that every format can store: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_index(
    vectors: Sequence[np.ndarray], rows: list[dict[str, Any]], model: str, store: str, root: str = ""
) -> Index:
    """Rows of one kind with their vectors, in consecutive arrays [n, P]; their names relative to `root`, if below."""
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    start = os.path.join(root, "") if root else ""
    names = [_below(name, start) for name in columns.pop("name", [])]
    joined = np.concatenate(vectors) if len(vectors) else np.empty((0, 1), np.float32)
    return Index(joined.astype(store, copy=False), names, model, columns, root=root)


def _below(name: str, start: str) -> str:
    return name.removeprefix(start).replace(os.sep, "/") if start and name.startswith(start) else name
