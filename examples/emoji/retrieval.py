"""Recall, chance and the nearest-neighbour baseline."""

from __future__ import annotations

import numpy as np

DEPTHS = (1, 5, 10)


def recall(scores: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """R@1, 5, 10 of `scores` (queries, candidates) against `wanted`, the right candidate of each query.

    Ties count against the model: a candidate that scores as high as the right one is ranked before it.
    """
    right = np.take_along_axis(scores, wanted[:, None], 1)
    ranks = (scores >= right).sum(1) - 1
    return {f"R@{depth}": float((ranks < depth).mean()) for depth in DEPTHS}


def chance(candidates: int) -> dict[str, float]:
    """What drawing candidates blindly gives."""
    return {f"R@{depth}": min(1.0, depth / candidates) for depth in DEPTHS}


def nearest_names(queries: np.ndarray, gallery: np.ndarray, names: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Pixel 1-NN as scores (queries, candidates): minus the squared distance to the nearest gallery picture of a name.

    queries and gallery are uint8 pictures; `names` says what each gallery picture shows. A candidate without any
    picture in the gallery scores minus infinity.
    """
    left, right = (array.reshape(len(array), -1).astype(np.float32) / 255 for array in (queries, gallery))
    scores = 2 * left @ right.T - (left**2).sum(1)[:, None] - (right**2).sum(1)[None]
    out = np.full((len(queries), len(candidates)), -np.inf, np.float32)
    for column, name in enumerate(candidates):
        mine = scores[:, names == name]
        if mine.shape[1]:
            out[:, column] = mine.max(1)
    return out
