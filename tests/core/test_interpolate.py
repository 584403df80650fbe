"""The bicubic matrix against numbers of torch 2.13's interpolate(mode="bicubic", align_corners=False)."""

from __future__ import annotations

import numpy as np
import pytest

from clip_core.interpolate import bicubic_matrix

# torch.nn.functional.interpolate(torch.arange(9.0).reshape(1, 1, 3, 3), (5, 4), mode="bicubic")
LARGER = [
    [-0.3598, 0.2418, 1.1822, 1.7838],
    [0.8762, 1.4778, 2.4182, 3.0198],
    [2.9282, 3.5298, 4.4702, 5.0718],
    [4.9802, 5.5818, 6.5222, 7.1238],
    [6.2162, 6.8178, 7.7582, 8.3598],
]


def test_equals_torch() -> None:
    grid = np.arange(9, dtype=np.float32).reshape(3, 3)
    got = bicubic_matrix(3, 5) @ grid @ bicubic_matrix(3, 4).T
    assert np.abs(got - LARGER).max() < 1e-4  # as many digits as are written above


@pytest.mark.parametrize("size_in, size_out", [(1, 1), (1, 5), (7, 7), (7, 24), (24, 7), (2, 3)])
def test_a_constant_stays_and_the_same_size_is_the_identity(size_in: int, size_out: int) -> None:
    matrix = bicubic_matrix(size_in, size_out)
    assert matrix.shape == (size_out, size_in) and matrix.dtype == np.float32
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-6)
    if size_in == size_out:
        assert np.array_equal(matrix, np.eye(size_in))


def test_the_cached_matrix_can_not_be_spoilt() -> None:
    with pytest.raises(ValueError, match="read-only"):
        bicubic_matrix(3, 5)[0, 0] = 1
    with pytest.raises(ValueError, match="at least 1, found 0 and 4"):
        bicubic_matrix(0, 4)
