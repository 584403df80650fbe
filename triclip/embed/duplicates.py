"""Finding duplicate pictures and captions by the SHA-256 of their bytes; the first in order is kept.

A first pass over the input writes the hashes of every unit. They are compared in parts that fit into memory; the result
is one flag per item, which all workers map. It therefore does not depend on the distribution and order of the work.

    hashes/image/00000-0000.npy   per picture: the number of its sample, and 16 bytes of its hash
    hashes/image.starts.npy       the start of each unit's flags
    hashes/image.keep.npy         the flags
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_core.errors import DataError

from ..search.runs import Unit
from ..search.writing import replaced, save_array
from .settings import HASHES

ITEM = np.dtype([("sample", "<i8"), ("high", "<u8"), ("low", "<u8")])
MEMORY = 1 << 28  # bytes of hashes that are compared at once
MISSING = (0, 0)  # for an unreadable picture, whose error is reported when it is embedded


class Expected(NamedTuple):
    """The items of one sample: their hashes, and whether each is the first of its kind."""

    hashes: list[tuple[int, int]]
    keep: list[bool]


def digest(content: bytes) -> tuple[str, tuple[int, int]]:
    """(hexadecimal, its first 16 bytes as two numbers)."""
    found = hashlib.sha256(content)
    raw = found.digest()
    return found.hexdigest(), (int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:16], "big"))


def hash_path(output: Path, kind: str, unit: Unit) -> Path:
    return output / HASHES / kind / f"{unit.name}.npy"


def write_hashes(output: Path, kind: str, unit: Unit, items: Sequence[tuple[int, int, int]]) -> None:
    _save(hash_path(output, kind, unit), np.array(items, ITEM))


def _save(path: Path, array: np.ndarray) -> None:
    with replaced(path) as draft:
        save_array(draft, array)


def _load(path: Path, dtype: np.dtype | type) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: wanted what the first pass wrote, found it missing or damaged ({error})") from error
    if array.dtype != dtype or array.ndim != 1:
        raise DataError(f"{path}: wanted {np.dtype(dtype)}, found {array.dtype} {array.shape}; remove it")
    return array


def are_compared(output: Path, kind: str) -> bool:
    return (output / HASHES / f"{kind}.keep.npy").is_file()


def compare(output: Path, kind: str, units: Sequence[Unit]) -> int:
    """Write the flags of all units, whose hashes exist. Returns the number of duplicates."""
    files = [hash_path(output, kind, unit) for unit in units]
    starts = np.cumsum([0, *(len(_load(path, ITEM)) for path in files)])
    keep = np.ones(int(starts[-1]), bool)
    parts = max(1, -(-int(starts[-1]) * 4 * ITEM.itemsize // MEMORY))
    for part in range(parts):
        places, found = [], []
        for path, start in zip(files, starts, strict=False):
            items = _load(path, ITEM)
            chosen = np.flatnonzero((items["high"] % parts == part) & ((items["high"] > 0) | (items["low"] > 0)))
            places.append(chosen + start)
            found.append(items[chosen])
        place, item = np.concatenate(places), np.concatenate(found)
        order = np.lexsort((item["high"], item["low"]))  # stable: equal items keep their order
        place, item = place[order], item[order]
        again = (item["high"][1:] == item["high"][:-1]) & (item["low"][1:] == item["low"][:-1])
        keep[place[1:][again]] = False
    _save(output / HASHES / f"{kind}.starts.npy", starts.astype(np.int64))
    _save(output / HASHES / f"{kind}.keep.npy", keep)
    return int((~keep).sum())


class Comparison:
    """The first pass's result for one unit, sample by sample."""

    def __init__(self, output: Path, kind: str, unit: Unit, number: int) -> None:
        self._items = _load(hash_path(output, kind, unit), ITEM)
        start = int(_load(output / HASHES / f"{kind}.starts.npy", np.int64)[number])
        flags = np.load(output / HASHES / f"{kind}.keep.npy", mmap_mode="r", allow_pickle=False)
        self._keep = np.array(flags[start : start + len(self._items)])
        if len(self._keep) != len(self._items):
            raise DataError(f"{output / HASHES}: wanted {len(self._items)} flags for {unit.name}; remove the folder")

    def of(self, sample: int) -> Expected:
        first, last = np.searchsorted(self._items["sample"], [sample, sample + 1])
        items = self._items[first:last]
        hashes = list(zip(items["high"].tolist(), items["low"].tolist(), strict=True))
        return Expected(hashes, self._keep[first:last].tolist())
