"""A bulk run's output as an index: all shards of one kind, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clip_core.errors import InputError

from ..search.columns import Column
from ..search.core import Index
from .plan import read_run
from .settings import KINDS, RUN, Input, units_of
from .shards import read_record


def is_output(folder: Path) -> bool:
    """Whether a folder is a bulk run's, or the folder of one kind in it."""
    return (folder / RUN).is_file() or (folder.name in KINDS["both"] and (folder.parent / RUN).is_file())


def shard_files(folder: Path) -> list[Path]:
    """The shards with rows of an output such as "vectors" or "vectors/image", in order.

    Raises InputError for a run that is not finished, one without rows, and one of both kinds unless one is named.
    """
    output = folder if (folder / RUN).is_file() else folder.parent
    known = read_run(output / RUN)
    settings = known["settings"]
    kinds, size, to = KINDS.get(settings.get("what"), ()), settings.get("samples_per_shard"), settings.get("to")
    if output == folder and len(kinds) > 1:
        raise InputError(f"{folder}: wanted one of {folder / 'image'} and {folder / 'text'}, found the folder of both")
    kind = kinds[0] if output == folder and kinds else folder.name
    if kind not in kinds or not isinstance(size, int) or size < 1:
        raise InputError(f"{output / RUN}: wanted the record of a run, found something else")
    units = units_of([Input(*one) for one in known["inputs"]], size)
    records = [read_record(output, unit) for unit in units]
    missing = sum(record is None for record in records)
    if missing:
        raise InputError(f"{output}: {missing} of {len(units)} shards are not done: run the same `triclip embed` again")
    rows = [record["rows"].get(kind, 0) if record else 0 for record in records]
    found = [output / kind / f"{unit.name}.{to}" for unit, count in zip(units, rows, strict=True) if count]
    if not found:
        raise InputError(f"{output}: holds no vectors: nothing of its input could be used")
    return found


def open_each(path: Path) -> Iterator[Index]:
    """The indexes at a path: each shard of a bulk run, or the one that is there."""
    if path.is_dir() and is_output(path):
        yield from map(Index.load, shard_files(path))
    else:
        yield Index.load(path)


def open_output(folder: Path) -> Index:
    """All shards as one index; the vectors of .npy are mapped, not read."""
    shards = [Index.load(path) for path in shard_files(folder)]
    first = shards[0]
    columns = {
        title: Column(column.kind, [part for shard in shards for part in shard.columns[title].parts])
        for title, column in first.columns.items()
    }
    index = Index.__new__(Index)
    index._set([part for shard in shards for part in shard.parts], columns, first.model, first.width)
    return index
