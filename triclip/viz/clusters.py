"""Groups of vectors, named by the words that are nearest to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROUNDS = 50
_SHORT = 2  # words of a name


def clusters(vectors: np.ndarray, count: int = 7, seed: int = 0) -> np.ndarray:
    """Numbers int64 [N] of at most `count` clusters of unit vectors [N, P]: spherical k-means from distant starts."""
    rows = np.asarray(vectors, np.float32)
    count = min(count, len(rows))
    random = np.random.default_rng(seed)
    centres = [rows[random.integers(len(rows))]]
    for _ in range(1, count):  # k-means++, by cosine distance
        away = np.maximum(1 - (rows @ np.stack(centres).T).max(1), 1e-9)
        centres.append(rows[random.choice(len(rows), p=away / away.sum())])
    means, numbers = np.stack(centres), np.full(len(rows), -1)
    for _ in range(_ROUNDS):
        nearest = (rows @ means.T).argmax(1)
        if (nearest == numbers).all():
            break
        numbers = nearest
        sums = np.stack([rows[numbers == one].sum(0) if (numbers == one).any() else means[one] for one in range(count)])
        means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return np.unique(numbers, return_inverse=True)[1]


def cluster_names(
    vectors: np.ndarray, numbers: np.ndarray, words: Sequence[str], word_vectors: np.ndarray
) -> list[str]:
    """A name for each cluster: the words whose vectors [W, P] are nearer to it than to the whole, each word once."""
    rows = np.asarray(vectors, np.float32)
    means = np.stack([rows[numbers == one].mean(0) for one in range(int(numbers.max()) + 1)])
    scores = (means - rows.mean(0)) @ word_vectors.T if len(means) > 1 else means @ word_vectors.T
    names: list[list[str]] = [[] for _ in means]
    taken: set[int] = set()
    for _ in range(_SHORT):  # every cluster its first word before any its second
        for one, order in enumerate(np.argsort(-scores, axis=1, kind="stable")):
            best = next((int(place) for place in order if int(place) not in taken), None)
            if best is not None:
                taken.add(best)
                names[one].append(words[best])
    return [", ".join(found) for found in names]
