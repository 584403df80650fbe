"""Combined queries: words and pictures with positive and negative weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clip_core.errors import InputError

_CANCELLED = 1e-6


def combine(vectors: np.ndarray | Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """One unit query [P]: the weighted sum of unit vectors.

    Args:
        vectors: [K, P], of texts, pictures or both; each is normalised first.
        weights: [K], default 1 each; a negative weight searches for the opposite.

    Cosines of a text with pictures are far lower than those of a picture with pictures, so a picture outweighs words of
    equal weight. Raises InputError if the weights don't fit, a vector is zero, or the sum cancels out.
    """
    rows = np.atleast_2d(np.asarray(vectors, np.float64))
    factors = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"vectors: wanted [K, P], found shape {rows.shape}")
    if factors.shape != (len(rows),):
        raise InputError(f"weights: wanted {len(rows)} numbers, one for each vector, found shape {factors.shape}")
    if not (np.isfinite(rows).all() and np.isfinite(factors).all()):
        raise InputError("query: wanted finite vectors and weights, found NaN or infinity")
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        raise InputError(f"vectors: row {int(np.argmin(lengths))} is zero and has no direction")
    total = factors @ (rows / lengths[:, None])
    length = np.linalg.norm(total)
    if length <= _CANCELLED * np.abs(factors).sum():
        raise InputError("query: its parts cancel each other out, nothing is left to search for")
    return (total / length).astype(np.float32)
