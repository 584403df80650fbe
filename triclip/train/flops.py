"""Floating-point operations of a training step, counted from the config, for MFU: the share of the hardware's peak.

What is counted: matrix products, attention's included (over the whole square, as is usual), two operations per
multiplication and addition; per pair of one picture and one text of full length. Backward counts as twice forward; a
locked tower has none. What is not: norms, activations, the loss, the optimiser, and what gradient checkpointing or
accumulation compute again: MFU is about the work asked for, not the work done.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def forward_flops(model_config: Any, patches: int | None = None) -> tuple[int, int]:
    """(vision, text): operations of one picture's and one text's embedding. `patches`: how many are looked at."""
    vision, text = model_config.vision_config, model_config.text_config
    if patches is None:
        patches = (vision.image_size // vision.patch_size) ** 2
    stem = 2 * patches * vision.num_channels * vision.patch_size**2 * vision.hidden_size
    of_picture = stem + _encoder(vision, patches + 1) + 2 * vision.hidden_size * model_config.projection_dim
    of_text = _encoder(text, text.max_position_embeddings) + 2 * text.hidden_size * model_config.projection_dim
    return of_picture, of_text


def _encoder(tower: Any, length: int) -> int:
    width = tower.hidden_size
    products = 2 * length * (4 * width * width + 2 * width * tower.intermediate_size)
    attention = 4 * length * length * width
    return tower.num_hidden_layers * (products + attention)


def training_flops(model_config: Any, patches: int | None = None, lock: Collection[str] = ()) -> int:
    """Operations of one pair's share of a training step: 3 x forward, 1 x for a locked tower."""
    vision, text = forward_flops(model_config, patches)
    return vision * (1 if "vision" in lock else 3) + text * (1 if "text" in lock else 3)
