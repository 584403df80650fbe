"""Floating-point operations of a training step, counted from the config, for MFU: the share of the hardware's peak.

Counted: matrix products, attention's included (over the whole square, as usual), two operations per multiply-add, per
pair of one picture and one text of full length. Backward counts as twice forward; a locked tower has none. Not counted:
norms, activations, the loss, the optimiser, and recomputation by gradient checkpointing or accumulation, because MFU
measures useful work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def forward_flops(model_config: Any, patches: int | None = None) -> tuple[int, int]:
    """(vision, text): operations of one picture's and one text's embedding. `patches`: the number computed."""
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


def training_flops(
    model_config: Any, patches: int | None = None, unlocked_groups: Mapping[str, int] | None = None
) -> int:
    """Operations of one pair's share of a training step: 3 x forward, 1 x for a locked tower.

    unlocked_groups: of locked towers (see `config.LockSection`); their layers have a backward pass too.
    """
    total = 0.0
    for tower, forward in zip(("vision", "text"), forward_flops(model_config, patches), strict=True):
        layers = getattr(model_config, f"{tower}_config").num_hidden_layers
        trained = min((unlocked_groups or {}).get(tower, layers + 2) - 1, layers)
        total += forward * (1 + 2 * max(trained, 0) / max(layers, 1))
    return round(total)
