"""The JAX backend of the tools."""

import numpy as np

from triclip.backends.flax_ import pad_columns, pad_rows


def test_shapes_are_padded_to_few_by_repeating_the_edge():
    ids = np.array([[5, 1, 9], [5, 9, 9], [5, 2, 9]])
    assert pad_rows(ids).shape == (4, 3) and (pad_rows(ids)[3] == ids[2]).all()
    wide = pad_columns(ids, limit=77)
    assert wide.shape == (3, 8) and (wide[:, 3:] == 9).all()
    assert pad_columns(ids, limit=5).shape == (3, 5)
    assert pad_columns(np.zeros((1, 77)), limit=77).shape == (1, 77)
    assert pad_rows(np.zeros((1, 2))).shape == (1, 2) and pad_rows(np.zeros((64, 2))).shape == (64, 2)
