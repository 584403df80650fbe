"""Beginnings that texts share, so that each is computed once: exact, because the text tower is causal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Prefixes(NamedTuple):
    """The T distinct beginnings of B token sequences of at most S tokens, as int64 arrays.

    Attributes:
        tokens, positions: [T], the last token of each beginning, and where it stands.
        paths: [B, S], the beginning that each sequence is at each of its positions; behind its end any.
        places: [T], for each beginning one place in `paths`, counted through.
        ends: [B], the last position of each sequence.
    """

    tokens: np.ndarray
    positions: np.ndarray
    paths: np.ndarray
    places: np.ndarray
    ends: np.ndarray


def shared_prefixes(rows: Sequence[Sequence[int]]) -> Prefixes:
    """The distinct beginnings of sequences of ids, none of them empty."""
    lengths = np.array([len(row) for row in rows])
    ids = np.full((len(rows), lengths.max()), -1, np.int64)  # [B, S]
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    order = np.lexsort(ids.T[::-1])  # sequences with a common beginning become neighbours
    ids = ids[order]
    shared = np.zeros(ids.shape, bool)
    shared[1:] = np.logical_and.accumulate(ids[1:] == ids[:-1], axis=1)
    new = ~shared & (ids >= 0)
    numbers = np.where(new, new.cumsum().reshape(new.shape) - 1, 0)
    paths = np.empty_like(ids)
    paths[order] = np.maximum.accumulate(numbers, axis=0)  # what is shared has the number of the row above
    rows_of, positions = np.nonzero(new)
    return Prefixes(ids[new], positions, paths, order[rows_of] * ids.shape[1] + positions, lengths - 1)


def until_end(row: Sequence[int], config: Any) -> Sequence[int]:
    """A text's ids up to the token that is pooled, which is all that its embedding depends on (no mask given)."""
    if config.eos_token_id == 2:  # the towers' rule: see their `end_of_text`
        return row[: int(np.argmax(row)) + 1]
    return row[: row.index(config.eos_token_id) + 1] if config.eos_token_id in row else row[:1]


def pad_rows_of_ids(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Ragged ids as int64 [B, S]: behind its end each row repeats its last id, which changes nothing.

    The tower is causal and pools at the first end token, which never sees what is behind it.
    """
    ids = np.empty((len(rows), max(map(len, rows))), np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
        target[len(row) :] = row[-1]
    return ids
