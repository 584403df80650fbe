"""Rows that leave an index while others are added, in one step: what an index that is kept up to date needs.

Files of an index folder never change, so parts that lose rows are written anew, of at most `PART` rows, without them;
small parts that follow one another become one. All else stays as it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clip_core.errors import InputError

from . import parts
from .columns import VERSION, Column, Strings, with_version
from .core import Index
from .parts import MANIFEST, Manifest, read_manifest
from .writing import write_json

PART = 1 << 14  # rows of a part that is written anew: 32 MB of 512 float32 numbers
_SMALL = 1 << 12  # rows; smaller neighbours are joined


def change_folder(
    folder: Path, known: Manifest, dropped: np.ndarray, added: Index | None = None, rules: str = ""
) -> None:
    """Some rows (ascending numbers under the manifest `known`) leave, others come, in one step. `rules`: see `Origin`.

    Raises InputError when the index was replaced or lost rows since `known` was read.
    """
    with parts.writing(folder):
        now = read_manifest(folder)
        if now["id"] != known["id"] or now["parts"][: len(known["parts"])] != known["parts"]:
            raise InputError(f"{folder}: was changed by another program meanwhile; run the same command again")
        write_json(folder / MANIFEST, {**_changed(folder, now, dropped, added), "rules": rules})


def create_folder(folder: Path, source: Index) -> None:
    """An index folder of one source's rows, with columns for the versions of its files; there when it is whole."""
    manifest = parts.new_manifest(folder, source.origin, source.width, VERSION, source.dtype.name)
    with parts.writing(folder):
        write_json(folder / MANIFEST, _changed(folder, manifest, np.empty(0, np.int64), source))


def join(indexes: Sequence[Index]) -> Index:
    """Several of the same columns as one, nothing copied."""
    first = indexes[0]
    columns = {
        title: Column(column.kind, [part for one in indexes for part in one.columns[title].parts])
        for title, column in first.columns.items()
    }
    return Index.from_parts([part for one in indexes for part in one.parts], columns, first.origin, first.width)


def _changed(folder: Path, manifest: Manifest, dropped: np.ndarray, added: Index | None) -> Manifest:
    widened = [list(pair) for pair in {**dict(manifest["columns"]), **VERSION}.items()]
    out = {**manifest, "columns": widened, "parts": []}
    if len(dropped):  # rows have other numbers then, so candidates of an approximate search count no more
        out["id"] = uuid.uuid4().hex
    same_columns = widened == manifest["columns"]
    waiting: list[Index] = []
    untouched = None  # the record of the one part that waits, if it may stay as it is
    start = 0
    for record, piece in zip(manifest["parts"], _pieces(folder, manifest), strict=True):
        lost = dropped[np.searchsorted(dropped, start) : np.searchsorted(dropped, start + record["rows"])] - start
        start += record["rows"]
        if same_columns and not len(lost) and record["rows"] >= _SMALL:
            out = _flushed(folder, out, waiting, untouched)
            out, waiting, untouched = {**out, "parts": [*out["parts"], record]}, [], None
            continue
        untouched = record if same_columns and not len(lost) and not waiting else None
        waiting += _without(piece, lost)
    if added is not None and len(added):
        waiting, untouched = [*waiting, added], None if waiting else untouched
    return _flushed(folder, out, waiting, untouched)


def _pieces(folder: Path, manifest: Manifest) -> Iterator[Index]:
    """Each part as an index of its own."""
    vectors, columns = parts.open_arrays(folder, manifest)
    origin = parts.origin_of(manifest, folder)
    for number, array in enumerate(vectors):
        own = {title: Column(column.kind, [column.parts[number]]) for title, column in columns.items()}
        yield Index.from_parts([array], with_version(own), origin, manifest["width"])


def _flushed(folder: Path, manifest: Manifest, waiting: Sequence[Index], untouched: dict | None) -> Manifest:
    """The manifest with the rows that wait, in parts of at most about `PART`."""
    if untouched is not None:
        return {**manifest, "parts": [*manifest["parts"], untouched]}
    group: list[Index] = []
    for one in waiting:
        if group and sum(map(len, group)) + len(one) > PART:
            manifest, group = parts.with_part(folder, manifest, join(group)), []
        group.append(one)
    return parts.with_part(folder, manifest, join(group)) if group else manifest


def _without(piece: Index, lost: np.ndarray) -> list[Index]:
    """The rows of a part that stay, in pieces; where none is lost they are the part's own arrays."""
    out = []
    for start in range(0, len(piece), PART):
        stop = min(start + PART, len(piece))
        kept = np.setdiff1d(np.arange(start, stop), lost, assume_unique=True)
        rows = slice(start, stop) if len(kept) == stop - start else kept
        columns = {title: Column(one.kind, [_chosen(one.parts[0], rows)]) for title, one in piece.columns.items()}
        if len(kept):
            out.append(Index.from_parts([piece.parts[0][rows]], columns, piece.origin, piece.width))
    return out


def _chosen(values: Strings | np.ndarray, rows: slice | np.ndarray) -> Strings | np.ndarray:
    if isinstance(values, np.ndarray):
        return values[rows]
    numbers = range(len(values))[rows] if isinstance(rows, slice) else rows.tolist()
    return Strings.of([values[number] for number in numbers])
