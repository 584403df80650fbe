"""Recall, chance and the baselines."""

from __future__ import annotations

import numpy as np
from splits import stems

DEPTHS = (1, 5, 10)
PART = 8192  # gallery pictures compared at a time


def recall(scores: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """R@1, 5, 10 of `scores` (queries, candidates) against `wanted`, the right candidate of each query.

    Ties count against: a candidate that scores as high as the right one is ranked before it.
    """
    right = np.take_along_axis(scores, wanted[:, None], 1)
    ranks = (scores >= right).sum(1) - 1
    return {f"R@{depth}": float((ranks < depth).mean()) for depth in DEPTHS}


def chance(candidates: int) -> dict[str, float]:
    """What drawing candidates blindly gives."""
    return {f"R@{depth}": min(1.0, depth / candidates) for depth in DEPTHS}


class Gallery:
    """Pictures with names, searched by squared distance of their pixels. pictures: uint8 [N, H, W, 3]."""

    def __init__(self, pictures: np.ndarray, names: list[str]) -> None:
        self.pictures, self.names = pictures.reshape(len(pictures), -1), np.array(names)

    def search(self, queries: np.ndarray, candidates: list[str]) -> tuple[list[str], np.ndarray]:
        """(the nearest picture's name for each query; minus the least distance to a picture of each candidate).

        The scores are float32 [queries, candidates], minus infinity where a candidate has no picture.
        """
        left = queries.reshape(len(queries), -1).astype(np.float32) / 255
        columns = {name: column for column, name in enumerate(candidates)}
        out = np.full((len(queries), len(candidates)), -np.inf, np.float32)
        best, nearest = np.full(len(queries), -np.inf, np.float32), np.zeros(len(queries), int)
        for start in range(0, len(self.pictures), PART):
            right = self.pictures[start : start + PART].astype(np.float32) / 255
            scores = 2 * left @ right.T - (left**2).sum(1)[:, None] - (right**2).sum(1)[None]
            top = scores.argmax(1)
            better = scores[np.arange(len(left)), top] > best
            nearest[better] = start + top[better]
            best = np.maximum(best, scores.max(1))
            for number, name in enumerate(self.names[start : start + PART]):
                if name in columns:
                    np.maximum(out[:, columns[name]], scores[:, number], out=out[:, columns[name]])
        return self.names[nearest].tolist(), out


def word_scores(texts: list[str], candidates: list[str]) -> np.ndarray:
    """How much of its words a text shares with each candidate (Jaccard): float32 [texts, candidates]."""
    theirs = [stems(candidate) for candidate in candidates]
    out = np.zeros((len(texts), len(candidates)), np.float32)
    for row, words in enumerate(map(stems, texts)):
        out[row] = [len(words & other) / max(1, len(words | other)) for other in theirs]
    return out
