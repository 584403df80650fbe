"""The settings of a bulk run, and its units of work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clip_core.errors import InputError

from ..search.runs import DTYPES, KINDS, Input

NEEDS = {"image": "images", "text": "captions"}  # parts of a sample
FILES = ("npy", "parquet")
BROKEN, HASHES = "broken.jsonl", "hashes"
SAMPLES = 16384  # per output shard


@dataclass(frozen=True)
class Settings:
    """See `embed` for the values. `fixed`: those that a resumed run can't change."""

    inputs: tuple[str, ...]
    output: Path
    what: str = "images"
    format: str = "auto"
    image_key: str | None = None
    caption_key: str | None = None
    to: str = "npy"
    store: str = "float32"
    samples_per_shard: int = SAMPLES
    deduplicate: bool = False
    batch_size: int = 32
    threads: int | None = None

    def __post_init__(self) -> None:
        for key, able in (("what", tuple(KINDS)), ("to", FILES), ("store", DTYPES)):
            if getattr(self, key) not in able:
                raise InputError(f"{key}: wanted one of {', '.join(able)}, found {getattr(self, key)!r}")
        for key in ("samples_per_shard", "batch_size", "threads"):
            value = getattr(self, key)
            if key == "threads" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{key}: wanted a number from 1, found {value!r}")

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS[self.what]

    @property
    def fixed(self) -> dict[str, Any]:
        keys = ("what", "image_key", "caption_key", "to", "store", "samples_per_shard", "deduplicate")
        return {key: getattr(self, key) for key in keys}


class Job(NamedTuple):
    """Everything a worker needs; can be pickled."""

    settings: Settings
    spec: Any
    inputs: list[Input]
    root: str = ""  # the folder that names of pictures are relative to; "" for absolute names


def absolute(inputs: Sequence[str | os.PathLike] | str | os.PathLike) -> tuple[str, ...]:
    """Absolute paths, valid in every process. Patterns and URLs (which are refused later) are unchanged."""
    several = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    return tuple(path if "://" in (path := os.fspath(one)) else os.path.abspath(path) for one in several)


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "2/8" -> (2, 8): the third of eight parts. Raises InputError."""
    if text is None:
        return 0, 1
    index, slash, count = text.partition("/")
    if (
        slash
        and index.isascii()
        and index.isdigit()
        and count.isascii()
        and count.isdigit()
        and int(index) < int(count)
    ):
        return int(index), int(count)
    raise InputError(f"shard: wanted INDEX/COUNT with an index from 0 below the count, such as 0/4, found {text!r}")
