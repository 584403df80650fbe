"""Shared prefixes of texts, each to be computed once; exact, because the text tower is causal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Prefixes(NamedTuple):
    """The T distinct prefixes of B token sequences of at most S tokens, as int64 arrays.

    Attributes:
        tokens, positions: [T], the last token of each prefix, and its position.
        paths: [B, S], the prefix of each sequence up to each of its positions; arbitrary behind its end.
        places: [T], one place of each prefix in the flattened `paths`.
        ends: [B], the last position of each sequence.
    """

    tokens: np.ndarray
    positions: np.ndarray
    paths: np.ndarray
    places: np.ndarray
    ends: np.ndarray


def shared_prefixes(rows: Sequence[Sequence[int]]) -> Prefixes:
    """The distinct prefixes of non-empty sequences of ids."""
    lengths = np.array([len(row) for row in rows])
    ids = np.full((len(rows), lengths.max()), -1, np.int64)  # [B, S]
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    order = np.lexsort(ids.T[::-1])  # sequences with a common prefix become neighbours
    ids = ids[order]
    shared = np.zeros(ids.shape, bool)
    shared[1:] = np.logical_and.accumulate(ids[1:] == ids[:-1], axis=1)
    new = ~shared & (ids >= 0)
    numbers = np.where(new, new.cumsum().reshape(new.shape) - 1, 0)
    paths = np.empty_like(ids)
    paths[order] = np.maximum.accumulate(numbers, axis=0)  # shared ones get the number of the row above
    rows_of, positions = np.nonzero(new)
    return Prefixes(ids[new], positions, paths, order[rows_of] * ids.shape[1] + positions, lengths - 1)


def until_end(row: Sequence[int], config: Any) -> Sequence[int]:
    """A text's ids up to the pooled token. Its embedding depends only on these (without a mask)."""
    if config.eos_token_id == 2:  # the towers' rule: see their `end_of_text`
        return row[: int(np.argmax(row)) + 1]
    return row[: row.index(config.eos_token_id) + 1] if config.eos_token_id in row else row[:1]


def pad_rows_of_ids(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Ragged ids as int64 [B, S]; rows are padded with their last id, which has no effect.

    The tower is causal and pools at the first end token, which does not attend to later tokens.
    """
    ids = np.empty((len(rows), max(map(len, rows))), np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
        target[len(row) :] = row[-1]
    return ids
