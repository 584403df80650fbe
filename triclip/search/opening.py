"""Opening a path as an `Index`: a file, an index folder, or a bulk run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .columns import Column
from .core import Index
from .engines.addresses import is_address, open_address
from .folder import FolderIndex
from .origin import Origin
from .parts import MANIFEST
from .runs import is_output, run_facts, shard_files
from .single_file import read_file

OWN = ".triclip"  # an index that lies in the folder of its pictures


def own_index(folder: str | os.PathLike) -> Path:
    """Where a folder of pictures has its index, unless it is elsewhere: it moves with them, and is no part of them."""
    return Path(folder) / OWN


def index_at(path: str | os.PathLike) -> Path:
    """The path itself, or the index `OWN` in it where it is a folder of pictures that has one."""
    path = Path(path)
    is_plain = path.is_dir() and not is_output(path) and not (path / MANIFEST).is_file()
    return own_index(path) if is_plain and (own_index(path) / MANIFEST).is_file() else path


def open_index(path: str | os.PathLike) -> Index:
    """Open a file or folder of `Index.save`, or a bulk run; folders and the vectors of .npy files are mapped.

    Of a folder of pictures that `triclip embed` gave an index, this one.

    Raises FileNotFoundError, or InputError naming the file when it is no index.
    """
    path = index_at(path)
    if not path.is_dir():
        return _open_file(path)
    return _open_run(path) if is_output(path) else FolderIndex(path)


def open_searchable(path: str | os.PathLike) -> Any:
    """As `open_index`; and an index that an engine holds, by its address: see `engines`."""
    return open_address(path) if isinstance(path, str) and is_address(path) else open_index(path)


def is_index(path: str | os.PathLike) -> bool:
    """Whether `open_searchable` takes a path for an index: any file, a folder that holds one, an engine's address."""
    if is_address(path):
        return True
    path = index_at(path)
    return path.is_file() or is_output(path) or (path / MANIFEST).is_file()


def open_each(path: str | os.PathLike) -> Iterator[Index]:
    """The indexes at a path: each shard of a bulk run, or the single index."""
    path = Path(path)
    if not (path.is_dir() and is_output(path)):
        yield open_index(path)
        return
    facts = run_facts(path)
    for shard in map(_open_file, shard_files(path)):
        shard.origin = shard.origin._replace(**facts)
        yield shard


def _open_run(folder: Path) -> Index:
    """All shards of one kind, concatenated as one index."""
    shards = list(map(_open_file, shard_files(folder)))
    first = shards[0]
    columns = {
        title: Column(column.kind, [part for shard in shards for part in shard.columns[title].parts])
        for title, column in first.columns.items()
    }
    origin = Origin(first.model, root=first.origin.root, **run_facts(folder))
    return Index.from_parts([part for shard in shards for part in shard.parts], columns, origin, first.width)


def _open_file(path: Path) -> Index:
    vectors, names, model, metadata, facts = read_file(path)
    return Index(vectors, names, model, metadata, **facts)
