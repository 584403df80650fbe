"""`Clip` gives the same vectors in every backend, padding to few shapes included."""

import numpy as np
import pytest
from PIL import Image

from triclip import Clip
from triclip.pipeline import pad_columns, pad_rows

from .adaptors import installed

TEXTS = ["cat", "a red heart", "the flag of a country", "x", "two dogs and one very long list of words " * 20]
SAME = 1e-5  # unit vectors in float32, computed by three frameworks


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), np.uint8)) for i in range(5)]


@pytest.mark.skipif(len(installed()) < 2, reason="fewer than two backends are installed")
def test_vectors_are_alike_in_every_backend(pictures):
    clips = [Clip.from_pretrained("emoji", backend=backend) for backend in installed()]
    images = [clip.encode_image(pictures, batch_size=3) for clip in clips]
    texts = [clip.encode_text(TEXTS, batch_size=3) for clip in clips]
    for others in (images, texts):
        assert all(np.abs(other - others[0]).max() < SAME for other in others[1:])
    assert len({round(clip.logit_scale, 4) for clip in clips}) == 1


def test_shapes_are_padded_to_few_by_repeating_the_edge():
    ids = np.array([[5, 1, 9], [5, 9, 9], [5, 2, 9]])
    assert pad_rows(ids).shape == (4, 3) and (pad_rows(ids)[3] == ids[2]).all()
    wide = pad_columns(ids, limit=77)
    assert wide.shape == (3, 8) and (wide[:, 3:] == 9).all()
    assert pad_columns(ids, limit=5).shape == (3, 5)
    assert pad_columns(np.zeros((1, 77)), limit=77).shape == (1, 77)
    assert pad_rows(np.zeros((1, 2))).shape == (1, 2) and pad_rows(np.zeros((64, 2))).shape == (64, 2)
