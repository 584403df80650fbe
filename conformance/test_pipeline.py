"""`Clip` gives the same vectors in every backend, padding to few shapes included."""

import numpy as np
import pytest
from PIL import Image

from triclip import Clip

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
