"""The schedules against optax's."""

import optax
import pytest

from triclip.train.config import OptimizerSection
from triclip.train.schedule import learning_rate

SINGLE = 1e-6  # optax computes in float32


@pytest.mark.parametrize("warmup, steps, lowest", [(0, 17, 0.0), (5, 40, 1e-4), (40, 40, 0.0), (1, 2, 0.0)])
def test_cosine_is_optax_warmup_cosine_decay(warmup, steps, lowest):
    section = OptimizerSection(lr=2e-3, warmup=warmup, min_lr=lowest)
    if warmup == steps:  # optax wants a stretch to decay in
        theirs = optax.linear_schedule(0.0, 2e-3, warmup)
    else:
        first = 0.0 if warmup else 2e-3
        theirs = optax.warmup_cosine_decay_schedule(first, 2e-3, warmup, steps, lowest)
    for step in range(steps):
        assert learning_rate(section, steps, step) == pytest.approx(float(theirs(step)), rel=SINGLE, abs=1e-9)


def test_wsd_is_three_schedules_joined():
    section = OptimizerSection(lr=1e-3, warmup=10, schedule="wsd", decay_fraction=0.25, min_lr=1e-5)
    theirs = optax.join_schedules(
        [optax.linear_schedule(0, 1e-3, 10), optax.constant_schedule(1e-3), optax.linear_schedule(1e-3, 1e-5, 25)],
        [10, 75],
    )
    for step in range(105):
        assert learning_rate(section, 100, step) == pytest.approx(float(theirs(step)), rel=SINGLE, abs=1e-9)
