"""Output shards: written whole or not at all, and known as finished by a record that is written last."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.files import replace_file

from ..search import Index
from ..search.single_file import files_of
from .settings import BROKEN, DONE, Settings, Unit


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """`replace_file`, with errors that name the file: a full disk's own message does not."""
    try:
        with replace_file(path) as draft:
            yield draft
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_json(path: Path, value: Any) -> None:
    with replaced(path) as draft:
        draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_shard(settings: Settings, unit: Unit, indexes: Mapping[str, Index], about: dict[str, Any]) -> dict[str, Any]:
    """The files of a unit, then its record, which is returned. An OSError names the file."""
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


def record_path(output: Path, name: str) -> Path:
    return output / DONE / f"{name}.json"


def read_record(output: Path, unit: Unit) -> dict[str, Any] | None:
    """The record of a finished unit; None when it is not finished, or its files are no longer what was written."""
    try:
        record = json.loads(record_path(output, unit.name).read_text(encoding="utf-8"))
        if record["samples"] != unit.stop - unit.start:
            return None
        if any((output / file).stat().st_size != size for file, size in record["files"].items()):
            return None
        return record if isinstance(record["broken"], list) and isinstance(record["rows"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_broken(output: Path, entries: Iterator[tuple[str, str]]) -> None:
    """broken.jsonl, line by line."""
    with replaced(output / BROKEN) as draft, open(draft, "w", encoding="utf-8") as file:
        for name, reason in entries:
            file.write(json.dumps({"name": name, "reason": reason}) + "\n")


def plain(text: str) -> str:
    """Text that every format can hold: bytes of a file name that are no UTF-8 are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_index(vectors: np.ndarray, rows: list[dict[str, Any]], model: str, store: str) -> Index:
    """Rows of one kind with their vectors [N, P]."""
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    names = columns.pop("name", [])
    return Index(vectors.astype(store, copy=False), names, model, columns)
