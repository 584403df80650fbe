"""OpenAI's ResNet vision towers in checkpoints: their sizes by the shapes of their weights, and open_clip's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
PREFIX = "vision_model."
POSITIONS = f"{PREFIX}attnpool.positional_embedding"
PROJECTION = f"{PREFIX}attnpool.c_proj.weight"
KIND, FULL_KIND = "clip_resnet_vision_model", "clip_resnet"
HEAD = 64  # channels a head has in OpenAI's code, which reads no config
# Blocks of the four stages -> OpenAI's name
_PUBLISHED: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "RN50",
    (3, 4, 23, 3): "RN101",
    (4, 6, 10, 6): "RN50x4",
    (6, 8, 18, 8): "RN50x16",
    (3, 15, 36, 10): "RN50x64",
}


def is_in(names: Any) -> bool:
    """Whether canonical names hold such a tower."""
    return POSITIONS in names


def sizes(shapes: Shapes) -> dict[str, Any]:
    """What the shapes say, in terms of CLIPResNetVisionConfig. Raises CheckpointError for shapes of no such tower."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = shapes.get(name)
        if found is None or len(found) != rank or not all(found):
            raise CheckpointError(f"{name}: wanted {rank} axes, found {'nothing' if found is None else found}")
        return found

    positions, _ = shape(POSITIONS, 2)
    side = round((positions - 1) ** 0.5)
    if side * side + 1 != positions or not side:
        raise CheckpointError(f"{positions} positions are no square of places and one for their mean")
    return {
        "layers": [_blocks(shapes, stage) for stage in (1, 2, 3, 4)],
        "width": shape(f"{PREFIX}layer1.0.conv1.weight", 4)[0],
        "projection_dim": shape(PROJECTION, 2)[0],
        "num_channels": shape(f"{PREFIX}conv1.weight", 4)[1],
        "image_size": 32 * side,
    }


def _blocks(shapes: Shapes, stage: int) -> int:
    prefix = f"{PREFIX}layer{stage}."
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})


def architecture(layers: list[int]) -> str:
    """The published name of a tower with these blocks."""
    return f"{_PUBLISHED.get(tuple(layers), 'ResNet')} (OpenAI's RN50 family, blocks {layers})"


def to_open_clip(vision: Mapping[str, Any]) -> dict[str, Any]:
    """vision_cfg of a tower. Raises CheckpointError for what open_clip's code computes otherwise."""
    if vision.get("batch_norm_eps", 1e-5) != 1e-5:
        raise CheckpointError(f"open_clip: vision: it has batch_norm_eps 1e-5, this model {vision['batch_norm_eps']}")
    width, heads = vision["width"], vision["num_attention_heads"]
    part = {"image_size": vision["image_size"], "layers": list(vision["layers"]), "width": width, "patch_size": None}
    return part | ({} if 32 * width == HEAD * heads else {"head_width": 32 * width // heads})


def openai_differences(vision: Mapping[str, Any]) -> list[str]:
    """What OpenAI's code, which reads no config, does in another way than a tower's config says."""
    width, heads = vision["width"], vision["num_attention_heads"]
    found = []
    if 32 * width != HEAD * heads:
        found.append(f"takes {32 * width // HEAD} heads for {32 * width} channels, not {heads}")
    if vision.get("batch_norm_eps", 1e-5) != 1e-5:
        found.append(f"has batch_norm_eps 1e-5, this model {vision['batch_norm_eps']}")
    if vision.get("num_channels", 3) != 3:
        found.append(f"takes 3 channels, not {vision['num_channels']}")
    return found
