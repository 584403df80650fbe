"""Near duplicates within an index: groups of rows whose vectors are almost the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clip_core.errors import InputError

from .core import Index

THRESHOLD = (
    0.97  # a cosine: copies of other sizes and formats are above it, other pictures of the same thing mostly below
)
_ROWS = 1 << 11  # compared at a time, with all before them


def near_duplicates(index: Index, threshold: float = THRESHOLD) -> list[list[int]]:
    """Groups of at least two rows, each ascending, in the order of their first rows.

    Rows belong together when their cosine is at least `threshold`, or when others link them. All pairs are compared
    exactly: N * N / 2 products, for 100,000 vectors of 512 numbers some 5 * 10^12 operations. Raises InputError.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold: wanted a cosine above 0 and at most 1, found {threshold!r}")
    parents = np.arange(len(index))
    for left, right in _pairs(index, threshold):
        _join(parents, left, right)
    roots: dict[int, list[int]] = {}
    for row in range(len(parents)):
        roots.setdefault(_root(parents, row), []).append(row)
    return [rows for rows in roots.values() if len(rows) > 1]


def _pairs(index: Index, threshold: float) -> Iterator[tuple[int, int]]:
    """(earlier row, later row) of every pair that is alike."""
    blocks = [block[start : start + _ROWS] for block in index.blocks() for start in range(0, len(block), _ROWS)]
    starts = np.cumsum([0, *map(len, blocks)])
    least = threshold - 1e-6  # of float32's rounding
    for number, block in enumerate(blocks):
        later = block.astype(np.float32, copy=False)
        for before in range(number + 1):
            earlier = blocks[before].astype(np.float32, copy=False)
            alike = later @ earlier.T >= least
            if before == number:
                alike = np.tril(alike, -1)
            for right, left in zip(*np.nonzero(alike), strict=True):
                yield int(starts[before] + left), int(starts[number] + right)


def _root(parents: np.ndarray, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _join(parents: np.ndarray, one: int, other: int) -> None:
    first, last = sorted((_root(parents, one), _root(parents, other)))
    parents[last] = first
