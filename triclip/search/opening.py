"""Opening a path as an `Index`: a file, an index folder, or a bulk run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .columns import Column
from .core import Index
from .folder import FolderIndex
from .origin import Origin
from .parts import MANIFEST
from .runs import is_output, run_fingerprint, shard_files
from .single_file import read_file


def open_index(path: str | os.PathLike) -> Index:
    """Open a file or folder of `Index.save`, or a bulk run; folders and the vectors of .npy files are mapped.

    Raises FileNotFoundError, or InputError naming a file that is not an index.
    """
    path = Path(path)
    if not path.is_dir():
        return _open_file(path)
    return _open_run(path) if is_output(path) else FolderIndex(path)


def is_index(path: str | os.PathLike) -> bool:
    """Whether `open_index` accepts a path: any file, or a folder with an index."""
    path = Path(path)
    return path.is_file() or is_output(path) or (path / MANIFEST).is_file()


def open_each(path: str | os.PathLike) -> Iterator[Index]:
    """The indexes at a path: each shard of a bulk run, or the single index."""
    path = Path(path)
    if not (path.is_dir() and is_output(path)):
        yield open_index(path)
        return
    fingerprint = run_fingerprint(path)
    for shard in map(_open_file, shard_files(path)):
        shard.origin = shard.origin._replace(fingerprint=fingerprint)
        yield shard


def _open_run(folder: Path) -> Index:
    """All shards of one kind, concatenated as one index."""
    shards = list(map(_open_file, shard_files(folder)))
    first = shards[0]
    columns = {
        title: Column(column.kind, [part for shard in shards for part in shard.columns[title].parts])
        for title, column in first.columns.items()
    }
    origin = Origin(first.model, run_fingerprint(folder))
    return Index.from_parts([part for shard in shards for part in shard.parts], columns, origin, first.width)


def _open_file(path: Path) -> Index:
    vectors, names, model, metadata, facts = read_file(path)
    return Index(vectors, names, model, metadata, **facts)
