"""A config for a checkpoint: the file's own where it has one, completed by the shapes of the weights.

Shapes say everything but two things, which change the results and not the shapes: the number of heads and the
activation. They come from the file's own config, from open_clip's, from what the prefix or the file's name says, or,
last, from the rule that nearly all CLIPs follow; whatever was assumed is put in the notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .foreign_config import from_kerashub, from_open_clip
from .tensor import Tensor

if TYPE_CHECKING:
    from .loading import Checkpoint
    from .locate import Found

CLIP_TYPES = ("clip", "clip_text_model", "clip_vision_model")
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), the paper's initial value
# Towers that break the rule of 64 numbers a head (OpenAI, LAION): H, g, bigG and e.
_ODD_VISION_HEADS = {1280: 16, 1408: 16, 1664: 16, 1792: 16}
_STANDARD_VOCABULARY = 49408
# What a file's or folder's name says about the activation: open_clip's model names and pretrained tags.
_NAMED_ACTIVATIONS = (
    (r"quickgelu", "quick_gelu"),
    (r"laion|datacomp|commonpool", "gelu"),
    (r"openai|metaclip|dfn", "quick_gelu"),
)
_PREFIXES = {"text": "text_model.", "vision": "vision_model."}
_PROJECTIONS = {"text": "text_projection.weight", "vision": "visual_projection.weight"}

Shapes = Mapping[str, tuple[int, ...]]


def config_of(
    read: Checkpoint, given: Mapping[str, Any] | None, activation: str | None
) -> tuple[dict[str, Any] | None, list[str]]:
    """(config in Hugging Face's form, notes). `given` wins; then the file's; then one made from the shapes.

    Args:
        read: the checkpoint, with its canonical tensors.
        given: the caller's config, or None.
        activation: what the prefix inside the file says, or None.

    Raises: CheckpointError for a config of another architecture, and where neither file nor shapes tell the heads.
    """
    if given is not None:
        return dict(given), []
    own, source = stored(read)
    if own is not None and source == "config.json":
        kind = own.get("model_type")
        if kind is not None and kind not in CLIP_TYPES:
            raise CheckpointError(f"{read.files[0].parent / source}: wanted a CLIP, found model_type {kind!r}")
        return own, []
    shapes = {name: tensor.shape for name, tensor in read.tensors.items()}
    if own is None and read.found is not None and read.folder is None:
        beside = _beside(read.found, shapes)
        if beside is not None:
            return beside, ["the config.json beside the file was used; its sizes are those of the weights"]
    notes = [] if own is None else [f"config from {source}"]
    return infer(shapes, own, activation or _named(read), notes), notes


def stored(read: Checkpoint) -> tuple[dict[str, Any] | None, str]:
    """(the config that the checkpoint carries, in Hugging Face's form, and where it was)."""
    import json

    from .locate import read_json

    found = read.found
    if found is not None and found.folder is not None:
        path = found.file("config.json")
        content = read_json(path) if path.is_file() else {}
        if "class_name" in content:
            own = from_kerashub(content, path)
            return _with_kept(own, found.file("metadata.json")), "KerasHub's config.json"
        if content.get("model_type") or "text_config" in content or "hidden_size" in content:
            return content, "config.json"
        other = found.file("open_clip_config.json")
        if other.is_file():
            return from_open_clip(read_json(other), other), other.name
        if content and read.dialect.startswith("hf"):
            return content, "config.json"
    if "config" in read.metadata:
        try:
            content = json.loads(read.metadata["config"])
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{read.files[0]}: the config inside can't be read: {error}") from None
        if isinstance(content, dict) and "class_name" in content:
            content = from_kerashub(content, read.files[0])
        return (content, "the file itself") if isinstance(content, dict) else (None, "")
    if read.heads:  # KerasHub's layout states them in its shapes
        return {f"{tower}_config": {"num_attention_heads": count} for tower, count in read.heads.items()}, "the shapes"
    return None, ""


def _with_kept(own: dict[str, Any], metadata: Path) -> dict[str, Any]:
    """KerasHub's config with what our writer kept of the Hugging Face one; KerasHub's own values win."""
    from .locate import read_json

    kept = read_json(metadata).get("transformers_config") if metadata.is_file() else None
    if not isinstance(kept, dict) or not all(isinstance(kept.get(key), dict) for key in own):
        return own
    return {**kept, **{key: {**kept[key], **part} for key, part in own.items()}}


def _beside(found: Found, shapes: Shapes) -> dict[str, Any] | None:
    """A config.json in the folder of a single file, when it is a CLIP's and fits the shapes."""
    from .locate import read_json

    path = found.file("config.json")
    try:
        content = read_json(path) if path.is_file() else {}
    except CheckpointError:  # it may belong to something else: the file is read without it
        return None
    if content.get("model_type") not in CLIP_TYPES:
        return None
    towers = [tower for tower in _PREFIXES if any(n.startswith(_PREFIXES[tower]) for n in shapes)]
    for tower in towers:
        part = _part(content, tower)
        if any(
            part.get(key, value) != value for key, value in _sizes(shapes, tower).items() if key != "projection_dim"
        ):
            return None
    return content if towers and ("text_config" in content or len(towers) == 1) else None


def _part(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """A tower's own part of a config, whether that is a full model's or the tower's."""
    part = config.get(f"{tower}_config")
    override = config.get(f"{tower}_config_dict")
    if isinstance(part, dict) or isinstance(override, dict):
        return {**(part if isinstance(part, dict) else {}), **(override if isinstance(override, dict) else {})}
    return {} if "text_config" in config or "vision_config" in config else dict(config)


def _named(read: Checkpoint) -> str | None:
    """The activation that the name of the file or its folder tells."""
    for name in (read.files[0].name, read.files[0].parent.name):
        for pattern, activation in _NAMED_ACTIVATIONS:
            if re.search(pattern, name.lower().replace("-", "").replace("_", "")):
                return activation
    return None


def infer(shapes: Shapes, own: Mapping[str, Any] | None, activation: str | None, notes: list[str]) -> dict[str, Any]:
    """A Hugging Face config for canonical shapes. `own` states what shapes can't and is completed and corrected by
    them; every assumption and correction is added to `notes`."""
    own = own or {}
    towers = [tower for tower in _PREFIXES if any(name.startswith(_PREFIXES[tower]) for name in shapes)]
    if not towers:
        raise CheckpointError("no text_model or vision_model weights, so no config can be made")
    parts = {tower: _tower(shapes, tower, _part(own, tower), activation, notes) for tower in towers}
    if len(towers) == 2:
        projections = {part["projection_dim"] for part in parts.values()}
        if len(projections) > 1:
            raise CheckpointError(f"the two projections have different sizes: {sorted(projections)}")
        kept = {k: v for k, v in own.items() if not k.endswith("_config") and not k.endswith("_config_dict")}
        return {
            "logit_scale_init_value": LOGIT_SCALE,
            **(kept if "text_config" in own else {}),
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": projections.pop(),
            "text_config": {**parts["text"], "model_type": "clip_text_model"},
            "vision_config": {**parts["vision"], "model_type": "clip_vision_model"},
        }
    (tower,) = towers
    ending = "ModelWithProjection" if _PROJECTIONS[tower] in shapes else "Model"
    return {
        **parts[tower],
        "architectures": [f"CLIP{tower.capitalize()}{ending}"],
        "model_type": f"clip_{tower}_model",
    }


def _tower(
    shapes: Shapes, tower: str, own: Mapping[str, Any], activation: str | None, notes: list[str]
) -> dict[str, Any]:
    sizes = _sizes(shapes, tower)
    for key, value in sizes.items():
        if key in own and own[key] != value and key != "projection_dim":
            notes.append(f"{tower}: the config says {key} {own[key]!r}, the weights say {value}: the weights win")
    config = {**own, **sizes}
    if not isinstance(config.get("num_attention_heads"), int):
        config["num_attention_heads"] = _heads(tower, sizes["hidden_size"], notes)
    if "hidden_act" not in config:
        config["hidden_act"] = activation or "quick_gelu"
        where = "as the prefix or the file's name tells" if activation else "OpenAI's; LAION's models have gelu"
        notes.append(f"{tower}: hidden_act {config['hidden_act']} was assumed ({where}); config= sets another")
    config.setdefault("layer_norm_eps", 1e-5)
    if tower == "text" and "eos_token_id" not in config:
        config.update(_token_ids(sizes["vocab_size"], notes))
    return config


def _token_ids(vocabulary: int, notes: list[str]) -> dict[str, int]:
    if vocabulary == _STANDARD_VOCABULARY:
        return {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
    # 2 is the value of old configs, for which the position of the largest id is pooled: OpenAI's own rule
    notes.append(f"text: eos_token_id 2 was assumed for a vocabulary of {vocabulary}: pools at the largest id")
    return {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}


def _heads(tower: str, width: int, notes: list[str]) -> int:
    heads = _ODD_VISION_HEADS.get(width) if tower == "vision" else None
    if heads is None:
        if width % 64:
            raise CheckpointError(
                f"the {tower} tower's number of heads is not in the file and its width, {width}, doesn't tell it: "
                "give config= with num_attention_heads"
            )
        heads = width // 64
    notes.append(f"{tower}: num_attention_heads {heads} was assumed from the width {width}; config= sets another")
    return heads


def _sizes(shapes: Shapes, tower: str) -> dict[str, int]:
    """What the shapes of one tower say, in config terms."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = shapes.get(name)
        if found is None or len(found) != rank or not all(found):
            raise CheckpointError(f"{name}: wanted {rank} axes, found {'nothing' if found is None else found}")
        return found

    prefix = _PREFIXES[tower]
    layers = _count_layers(shapes, f"{prefix}encoder.layers.")
    positions, width = shape(f"{prefix}embeddings.position_embedding.weight", 2)
    sizes = {"hidden_size": width, "num_hidden_layers": layers}
    if layers:
        sizes["intermediate_size"] = shape(f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0]
    if _PROJECTIONS[tower] in shapes:
        sizes["projection_dim"] = shape(_PROJECTIONS[tower], 2)[0]
    if tower == "text":
        vocabulary = shape(f"{prefix}embeddings.token_embedding.weight", 2)[0]
        return sizes | {"vocab_size": vocabulary, "max_position_embeddings": positions}
    _, channels, patch, _ = shape(f"{prefix}embeddings.patch_embedding.weight", 4)
    side = round((positions - 1) ** 0.5)
    if side * side + 1 != positions or not side:
        raise CheckpointError(f"{positions} image positions are no square of patches and one class position")
    return sizes | {"num_channels": channels, "patch_size": patch, "image_size": side * patch}


def _count_layers(shapes: Shapes, prefix: str) -> int:
    numbers = {name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)}
    return len(numbers)


def complete(config: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], notes: list[str]) -> dict[str, Any]:
    """A config for exactly these tensors: of one tower when they are one tower's, sizes as the weights have them."""
    return infer({name: tensor.shape for name, tensor in tensors.items()}, config, None, notes)
