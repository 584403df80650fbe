"""An index, row by row into an engine: resumable, counted, and checked against exact search."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from clip_core.errors import InputError

from ...progress import Progress
from ..columns import is_shown
from ..core import Index
from .addresses import open_engine
from .base import About, Engine

BATCH = 1000
_QUERIES = 100
_SAME = 1e-4  # of a score: what engines round


def upload(
    index: Index, address: str, kind: str = "exact", replace: bool = False, progress: bool | None = None
) -> dict:
    """Bring all rows of an index to an engine; what an earlier, interrupted upload of it brought stays.

    Returns {"count", "uploaded", "recall@10", "queries"}: rows there now, rows that this call brought, and the share of
    the ten nearest rows (of about 100 of the index's own vectors) that the engine finds as it is searched by default.
    `kind`: "exact", or "ivf" or "hnsw" to have an approximate index built where the engine doesn't by itself.

    Raises InputError when another index is at the address (unless `replace`), or when the count is wrong at the end.
    """
    if not len(index):
        raise InputError("index: wanted rows to upload, found none")
    engine = open_engine(address)
    columns = {title: column.kind for title, column in index.columns.items() if is_shown(title)}
    about = About(index.origin, index.width, columns, len(index), _identity(index))
    if engine.about is not None and engine.about != about and not replace:
        raise InputError(f"{address}: holds another index; --force replaces it")
    again = engine.about == about and not replace
    first = engine.stored() if again else 0
    if not again:
        engine.create(about, replace or engine.about is not None)
    elif first < len(index):
        engine.create(about, False)
    _add(index, engine, first, list(columns), progress)
    count = engine.stored()
    if count != len(index):
        raise InputError(f"{address}: wanted {len(index)} rows, found {count}: --force uploads them anew")
    if first < len(index):
        engine.finish(kind)
    return {"count": count, "uploaded": count - first, **sampled_recall(index, engine)}


def _add(index: Index, engine: Engine, first: int, titles: list[str], progress: bool | None) -> None:
    row = 0
    with Progress("rows", len(index) - first, progress) as bar:
        for block in index.blocks():
            for start in range(0, len(block), BATCH):
                vectors = block[start : start + BATCH]
                numbers = range(row, row + len(vectors))
                row += len(vectors)
                if numbers.stop <= first:
                    continue
                skip = max(0, first - numbers.start)
                numbers, vectors = numbers[skip:], vectors[skip:].astype(np.float32)
                columns = {title: [_plain(index.columns[title][one]) for one in numbers] for title in titles}
                engine.add(list(numbers), vectors, columns)
                bar.advance(len(numbers))


def _plain(value: Any) -> Any:
    """Engines hold Unicode alone: bytes of a file's name that are none are written out."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _identity(index: Index) -> str:
    """What tells an index from another: its names and some of its vectors' bytes."""
    digest = hashlib.sha256()
    for name in index.columns["name"]:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    for row in range(0, len(index), max(1, len(index) // 1000)):
        digest.update(index.vector(row).tobytes())
    return digest.hexdigest()


def sampled_recall(index: Index, engine: Engine, top: int = 10) -> dict[str, Any]:
    """{"recall@10", "queries"}: of exact search's best rows, the share that the engine finds, or others as good."""
    step = max(1, len(index) // _QUERIES)
    queries = np.stack([index.vector(row) for row in range(0, len(index), step)])
    wanted, _ = index.search_rows(queries, top)
    found, _ = engine.search_rows(queries, top, kind=engine.default_kind)
    good = sum(int((some >= best[-1] - _SAME).sum()) for some, best in zip(found, wanted, strict=True))
    return {f"recall@{top}": good / wanted.size, "queries": len(queries)}
