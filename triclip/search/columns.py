"""Columns of an index: a name and metadata for every row, in arrays that can be mapped.

Strings are concatenated UTF-8 bytes with their offsets, so that a million of them open without being read. All values
of a column are strings, integers (int64), numbers (float64) or flags (bool).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clip_core.errors import InputError

NAME = "name"  # the column that every index has
# Which version of its file a row was made of, for an index that is kept up to date; not among a row's metadata.
VERSION = {"file.size": "integer", "file.time": "integer", "file.sha256": "string"}
_UNKNOWN = {"integer": -1, "string": ""}
KINDS = ("string", "integer", "number", "flag")
_DTYPES = {"integer": np.dtype(np.int64), "number": np.dtype(np.float64), "flag": np.dtype(bool)}
_ROWS = 1 << 16  # rows compared or decoded at a time


class Strings:
    """N strings: `offsets` int64 [N + 1] into `data` uint8 [bytes]."""

    def __init__(self, offsets: np.ndarray, data: np.ndarray) -> None:
        self.offsets, self.data = offsets, data

    @classmethod
    def of(cls, values: Sequence[str]) -> Strings:
        encoded = [os.fsencode(value) for value in values]  # a path may contain bytes that are not UTF-8
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self.data[self.offsets[row] : self.offsets[row + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROWS):
            offsets = self.offsets[start : start + _ROWS + 1]
            data = self.data[offsets[0] : offsets[-1]].tobytes()
            bounds = (offsets - offsets[0]).tolist()
            for left, right in zip(bounds, bounds[1:], strict=False):
                yield os.fsdecode(data[left:right])

    def equal(self, value: str) -> np.ndarray:
        """bool [N]; compares only strings of the same length."""
        wanted = np.frombuffer(os.fsencode(value), np.uint8)
        out = np.zeros(len(self), bool)
        same_length = np.flatnonzero(np.diff(self.offsets) == len(wanted))
        for start in range(0, len(same_length), _ROWS):
            rows = same_length[start : start + _ROWS]
            where = self.offsets[rows][:, None] + np.arange(len(wanted))
            letters = self.data.take(where, mode="clip")  # a damaged offset matches nothing
            out[rows] = (letters == wanted).all(1)
        return out

    def check(self) -> None:
        """Raise ValueError if the offsets don't fit the data."""
        if self.offsets.ndim != 1 or not len(self.offsets) or self.offsets.dtype != np.int64:
            raise ValueError(f"wanted int64 offsets, found {self.offsets.dtype} {self.offsets.shape}")
        if self.data.ndim != 1 or self.data.dtype != np.uint8:
            raise ValueError(f"wanted bytes, found {self.data.dtype} {self.data.shape}")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.data):
            raise ValueError(f"offsets end at {self.offsets[-1]}, the data at {len(self.data)}")


class Column:
    """One column over the parts of an index.

    Attributes:
        kind: "string", "integer", "number" or "flag".
        parts: Strings, or arrays [N_i] of the kind's dtype.
    """

    def __init__(self, kind: str, parts: Sequence[Any]) -> None:
        self.kind, self.parts = kind, list(parts)
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(f"wanted a row below {len(self)}, found {row}")
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        value = self.parts[number][int(row - self._starts[number])]
        return value if self.kind == "string" else value.item()

    def __iter__(self) -> Iterator[Any]:
        for part in self.parts:
            yield from part if self.kind == "string" else part.tolist()

    def array(self) -> np.ndarray:
        """Numbers or flags [N]; strings as an object array."""
        if self.kind == "string":
            return np.array(list(self), dtype=object)
        return np.concatenate(self.parts) if self.parts else np.empty(0, _DTYPES[self.kind])

    def equal(self, value: Any) -> np.ndarray:
        """bool [N]."""
        if self.kind == "string":
            return np.concatenate([np.zeros(0, bool), *(part.equal(value) for part in self.parts)])
        return self.array() == value


def make_columns(names: Sequence[str], metadata: Mapping[str, Sequence[Any]] | None) -> dict[str, Column]:
    """The columns of new rows, the names first. Raises InputError naming an invalid column."""
    metadata = dict(metadata or {})
    if NAME in metadata:
        raise InputError(f"metadata: the column {NAME!r} holds the names themselves")
    out = {NAME: Column("string", [Strings.of([str(name) for name in names])])}
    for title, values in metadata.items():
        if not isinstance(title, str) or not title:
            raise InputError(f"metadata: wanted names of columns, found {title!r}")
        if len(values) != len(names):
            raise InputError(f"metadata column {title!r}: wanted {len(names)} values, found {len(values)}")
        out[title] = _column(title, values)
    return out


def _column(title: str, values: Sequence[Any]) -> Column:
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise InputError(f"metadata column {title!r}: wanted one value a row, found shape {values.shape}")
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    kinds = {_kind(title, row, value) for row, value in enumerate(listed)}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    if len(kinds) > 1:
        raise InputError(f"metadata column {title!r}: wanted values of one kind, found {', '.join(sorted(kinds))}")
    kind = kinds.pop() if kinds else "string"
    if kind == "string":
        return Column(kind, [Strings.of(listed)])
    try:
        return Column(kind, [np.array(listed, _DTYPES[kind])])
    except OverflowError as error:
        raise InputError(f"metadata column {title!r}: wanted integers of 64 bits: {error}") from error


def _kind(title: str, row: int, value: Any) -> str:
    for kind, types in (
        ("string", (str,)),
        ("flag", (bool, np.bool_)),
        ("integer", (int, np.integer)),
        ("number", (float, np.floating)),
    ):
        if isinstance(value, types):
            return kind
    raise InputError(
        f"metadata column {title!r}, row {row}: wanted a string, a number or true/false, found {value!r} "
        "(nan can stand for a missing number, '' for a missing string)"
    )


def is_shown(title: str) -> bool:
    """Whether a column is a row's metadata."""
    return title not in VERSION


def with_version(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns with those of the files' versions, not known where they are new."""
    count = len(columns[NAME])
    unknown = {title: _column(title, [_UNKNOWN[kind]] * count) for title, kind in VERSION.items()}
    if not count:
        unknown = {title: Column(kind, []) for title, kind in VERSION.items()}
    return {**columns, **{title: column for title, column in unknown.items() if title not in columns}}


def dtype_of(kind: str) -> np.dtype:
    """The dtype of a column without strings."""
    return _DTYPES[kind]
