"""Chains of conversions keep the function: 100 random models through random formats; `conformance/chains` has more."""

import random
import shutil

import pytest

from conformance.chains import models, walk


@pytest.mark.parametrize("block", range(10))
def test_a_chain_keeps_the_function(block, tmp_path):
    for seed in range(block * 10, block * 10 + 10):
        drawn, rng = models.draw(seed, small=seed % 10 > 0), random.Random(seed)
        here = tmp_path / f"{seed}-0"
        models.write(drawn, here)
        for number in range(1, rng.choice((2, 3, 4, 5))):
            to = rng.choice(walk.FORMATS)
            here = walk.step(here, tmp_path / f"{seed}-{number}", to, drawn, rng) or here
        _, _, error = walk.at_the_end(here, drawn)
        assert error < walk.TOLERANCE, f"seed {seed}"
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
