"""Records of a bulk run, written by `embed`: its settings, its inputs, and its finished shards.

embed.json                 the run's settings and inputs
image/00000-0000.npy       a shard of vectors: an index of its own; text/ likewise
done/00000-0000.json       written last: the shard is complete; lists its skipped items
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clip_core.errors import InputError

DTYPES = ("float32", "float16")  # of stored vectors
KINDS = {"images": ("image",), "texts": ("text",), "both": ("image", "text")}
RUN, DONE = "embed.json", "done"
FORMAT, VERSION = "triclip-embeddings", 1


@dataclass(frozen=True)
class Input:
    """One input: a file or a folder. `size` distinguishes it from another of the same name.

    samples: their number, 0 for an unusable input. damage: its losses, or why it is unusable.
    """

    path: str
    size: str
    samples: int = 0
    damage: list[str] = field(default_factory=list)


class Unit(NamedTuple):
    """The samples [start, stop) of an input, for one output shard."""

    input: int
    piece: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.input:05d}-{self.piece:04d}"


def units_of(inputs: Sequence[Input], size: int) -> list[Unit]:
    """All units in order."""
    return [
        Unit(number, piece, start, min(start + size, one.samples))
        for number, one in enumerate(inputs)
        for piece, start in enumerate(range(0, one.samples, size))
    ]


def read_run(path: Path) -> dict[str, Any]:
    """The checked contents of embed.json. Raises InputError."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: wanted JSON, found a file that does not parse: {error}") from error
    good = isinstance(known, dict) and known.get("format") == FORMAT and known.get("version") == VERSION
    good = good and all(isinstance(known.get(key), dict) for key in ("settings", "model"))
    good = good and isinstance(known.get("inputs"), list) and all(map(_is_input, known["inputs"]))
    if not good:
        raise InputError(f"{path}: wanted the record of a run of version {VERSION}, found something else")
    return {"kind": None, **known}


def _is_input(found: Any) -> bool:
    kinds = (str, str, int, list)
    return isinstance(found, list) and len(found) == 4 and all(map(isinstance, found, kinds)) and found[2] >= 0


def record_path(output: Path, name: str) -> Path:
    return output / DONE / f"{name}.json"


def read_record(output: Path, unit: Unit) -> dict[str, Any] | None:
    """The record of a finished unit; None if it is not finished or its files have changed since."""
    try:
        record = json.loads(record_path(output, unit.name).read_text(encoding="utf-8"))
        if record["samples"] != unit.stop - unit.start:
            return None
        if any((output / file).stat().st_size != size for file, size in record["files"].items()):
            return None
        return record if isinstance(record["broken"], list) and isinstance(record["rows"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def is_output(folder: Path) -> bool:
    """Whether a folder is that of a bulk run, or of one kind in it."""
    return (folder / RUN).is_file() or (folder.name in KINDS["both"] and (folder.parent / RUN).is_file())


def _output_of(folder: Path) -> Path:
    return folder if (folder / RUN).is_file() else folder.parent


def run_facts(folder: Path) -> dict[str, str]:
    """Fingerprint and background of the model of a run, whose output, or a kind in it, `folder` is."""
    model = read_run(_output_of(folder) / RUN)["model"]
    facts = {"fingerprint": model.get("digest", ""), "background": model.get("background", "") or "none"}
    if "background" not in model:
        del facts["background"]
    return {key: value for key, value in facts.items() if isinstance(value, str)}


def shard_files(folder: Path) -> list[Path]:
    """The non-empty shards of an output such as "vectors" or "vectors/image", in order.

    Raises InputError for an unfinished run, a run without rows, and a run with both kinds unless one is named.
    """
    output = _output_of(folder)
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
