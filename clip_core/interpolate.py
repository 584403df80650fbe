"""Bicubic resampling as a matrix, so that every backend resizes the grid of positions by two matrix products.

The rule is torch's `interpolate(mode="bicubic", align_corners=False)` without antialiasing, which transformers uses for
`interpolate_pos_encoding`: Keys' cubic with a = -0.75, pixel centres at half integers, edges repeated.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_A = -0.75


@cache
def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """The float32 matrix [size_out, size_in] that resamples one axis; read-only, rows sum to 1.

    A grid [h, w] becomes `bicubic_matrix(h, height) @ grid @ bicubic_matrix(w, width).T`.
    """
    if size_in < 1 or size_out < 1:
        raise ValueError(f"bicubic_matrix: wanted sizes of at least 1, found {size_in} and {size_out}")
    scale = np.float32(size_in) / np.float32(size_out)  # in float32, as torch: exact centres differ by up to 1e-5
    centre = scale * (np.arange(size_out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    left = np.floor(centre).astype(int)
    matrix = np.zeros((size_out, size_in))
    for offset in (-1, 0, 1, 2):
        column = np.clip(left + offset, 0, size_in - 1)
        matrix[np.arange(size_out), column] += _cubic(np.abs(centre - left - offset))
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel at distances x in [0, 2]."""
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return np.where(x <= 1, near, far)
