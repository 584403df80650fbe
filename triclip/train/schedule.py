"""The learning rate and the average's decay at a step. Steps count from 0; floats in, floats out."""

from __future__ import annotations

import math

from .config import OptimizerSection


def learning_rate(section: OptimizerSection, steps: int, step: int) -> float:
    """The learning rate of step `step` (from 0) in a run of `steps`.

    Warm-up: `lr * step / warmup`, so that the first step's rate is 0 and step `warmup` is the first at the full rate,
    as in `optax.warmup_cosine_decay_schedule`. Then "cosine": half a cosine from `lr` to `min_lr`, reached at `steps`;
    "constant"; "wsd": flat, then linear to `min_lr` over the last `decay_fraction` of the steps.
    """
    if step < section.warmup:
        return section.lr * step / section.warmup
    if section.schedule == "constant":
        return section.lr
    if section.schedule == "cosine":
        share = _share(step - section.warmup, steps - section.warmup)
        return section.min_lr + (section.lr - section.min_lr) * 0.5 * (1 + math.cos(math.pi * share))
    decaying = round(section.decay_fraction * steps)
    share = _share(step - (steps - decaying), decaying)
    return section.min_lr + (section.lr - section.min_lr) * (1 - share)


def _share(done: int, total: int) -> float:
    """done / total, clamped to [0, 1]; 1 for an empty stretch."""
    if done < 0:
        return 0.0
    return 1.0 if total <= 0 else min(done / total, 1.0)


def ema_decay(ema: float, step: int) -> float:
    """The weight of the old average at step `step` (from 0): min(ema, (1 + step) / (10 + step)).

    Early averages thus follow the parameters closely (as in TensorFlow's ExponentialMovingAverage with `num_updates`).
    """
    return min(ema, (1 + step) / (10 + step))
