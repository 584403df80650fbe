"""Exact search for the best rows by dot product, in blocks.

A score is the float64 sum of the products of the stored values, rounded to float32; equal scores rank by row. It is
independent of the blocks, of the memory layout and of the BLAS: a float32 product only selects, by a bound of its
rounding error, the rows that can be among the best, and these are summed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from clip_core.errors import InputError

_BLOCK_VALUES = 1 << 23  # numbers in a block in float32: 32 MiB
_QUERIES = 128  # queries at a time
_MOST_ROWS = 1 << 20  # of one product
_LOOKED_AT = 4096  # scores that give a first bound
_SUMMED = 4096  # rows summed in float64 at a time
_ROUNDING = 2.0**-24  # rounding error of one float32 operation


def best_rows(
    parts: Sequence[np.ndarray],
    queries: np.ndarray,
    top: int,
    largest_norm: float,
    rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` best rows of each query, best first.

    Args:
        parts: consecutive arrays [N_i, P], float32 or float16; mapped files are read block by block.
        queries: float [Q, P].
        top: k.
        largest_norm: an upper bound of the rows' lengths.
        rows: ascending row numbers to search; default all.

    Returns (scores float32, rows int64), both [Q, min(k, rows)].
    """
    available = sum(map(len, parts)) if rows is None else len(rows)
    top = min(top, available)
    scores, found = np.empty((len(queries), top), np.float32), np.empty((len(queries), top), np.int64)
    if top:
        for start in range(0, len(queries), _QUERIES):
            chosen = slice(start, start + _QUERIES)
            scores[chosen], found[chosen] = _best(parts, queries[chosen], top, largest_norm, rows)
    return scores, found


def rescore(parts: Sequence[np.ndarray], query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The scores float32 [K] of some rows [K] for one query [P]."""
    out = np.empty(len(rows), np.float32)
    for number, (offset, part) in enumerate(_offsets(parts)):
        inside = np.flatnonzero((rows >= offset) & (rows < offset + len(part)))
        for start in range(0, len(inside), _SUMMED):
            some = inside[start : start + _SUMMED]
            out[some] = score(parts[number][rows[some] - offset], query)
    return out


def score(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The definition: vectors [K, P], query [P] -> float32 [K]."""
    # A product and a row sum: unlike in BLAS, the order of addition is the same for every row.
    return (vectors.astype(np.float64) * query.astype(np.float64)).sum(1).astype(np.float32)


def _best(
    parts: Sequence[np.ndarray], queries: np.ndarray, top: int, largest_norm: float, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    width = queries.shape[1]
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    # A float32 dot product, added in any order, errs by at most P * rounding * |a| * |b|; twice, for two rows.
    margins = 2.2 * (width + 2) * _ROUNDING * norms * largest_norm + np.finfo(np.float32).tiny
    best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    narrow = queries.astype(np.float32)
    for numbers, block in _blocks(parts, rows, width, len(queries)):
        rough = narrow @ block.astype(np.float32, copy=False).T  # [Q, n]
        for i, (scores, _) in enumerate(best):
            able = _able(rough[i], top, margins[i], scores[-1] - margins[i] if len(scores) == top else -np.inf)
            for start in range(0, len(able), _SUMMED):
                some = able[start : start + _SUMMED]
                found = numbers[some] if isinstance(numbers, np.ndarray) else some + numbers
                best[i] = _merge(best[i], score(block[some], queries[i]), found, top)
    return np.stack([scores for scores, _ in best]), np.stack([found for _, found in best])


def _able(rough: np.ndarray, top: int, margin: float, least: float) -> np.ndarray:
    """The places of rough scores [n] that can be among the `top` best, of which none is below `least`.

    A few of them give a bound that most of the others don't reach; only those that do are ordered. What overflowed to
    NaN stays.
    """
    some = rough[: max(_LOOKED_AT, 4 * top)]
    if top < len(some) < len(rough):
        least = np.fmax(least, _kth(some, top) - margin)
    able = np.flatnonzero(~(rough < least))
    if len(able) > top:
        chosen = rough[able]
        able = able[~(chosen < _kth(chosen, top) - margin)]
    return able


def _kth(scores: np.ndarray, top: int) -> np.float32:
    return np.partition(scores, len(scores) - top)[len(scores) - top]


def _merge(
    best: tuple[np.ndarray, np.ndarray], scores: np.ndarray, rows: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    scores, rows = np.concatenate([best[0], scores]), np.concatenate([best[1], rows])
    order = np.lexsort((rows, -scores))[:top]
    return scores[order], rows[order]


def _blocks(
    parts: Sequence[np.ndarray], rows: np.ndarray | None, width: int, queries: int
) -> Iterator[tuple[np.ndarray | int, np.ndarray]]:
    """(row numbers [n], or the first of rows that follow one another; vectors [n, P]) in ascending order."""
    size = min(max(_BLOCK_VALUES // max(width, 1), 256), 1 << 16)
    for offset, part in _offsets(parts):
        if rows is None:
            # Of float32 nothing is copied, and one product of many rows is sooner done than many of some.
            most = max(size, min(_BLOCK_VALUES // queries, _MOST_ROWS)) if part.dtype == np.float32 else size
            for start in range(0, len(part), most):
                yield offset + start, part[start : start + most]
        else:
            left, right = np.searchsorted(rows, [offset, offset + len(part)])
            for start in range(left, right, size):
                numbers = rows[start : min(start + size, right)]
                yield numbers, part[numbers - offset]


def _offsets(parts: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    offset = 0
    for part in parts:
        yield offset, part
        offset += len(part)


def longest(blocks: Iterable[np.ndarray]) -> float:
    """The length of the longest vector of blocks [n, P]. Raises InputError if one is not finite."""
    largest, row = 0.0, 0
    for block in blocks:
        squares = np.einsum("np,np->n", block, block, dtype=np.float64, casting="same_kind")
        finite = np.isfinite(squares)
        if not finite.all():
            raise InputError(f"index: wanted finite vectors, found NaN or infinity in row {row + int(finite.argmin())}")
        largest, row = max(largest, float(squares.max(initial=0.0))), row + len(block)
    return largest**0.5
