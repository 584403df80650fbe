"""A config for a checkpoint: what its own files state, and the shapes of the weights.

A Hugging Face config is read as transformers reads it: what it leaves out has the class's default, and nothing that
the weights don't contradict is changed. Guesses are for files without any config, from what their names, their
prefix and the published CLIPs tell; where more than one reading is left, the file is refused, with what to give.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..config import CLIPResNetVisionConfig, CLIPTextConfig, CLIPVisionConfig
from ..errors import CheckpointError
from . import resnet
from .locate import WEIGHTS
from .opened import Checkpoint
from .positions import LONG
from .stated import beside, stated
from .tensor import Tensor

LOGIT_SCALE = 2.6592  # ln(1 / 0.07), the paper's initial value
LARGEST_ID = 2  # as eos_token_id: pools at argmax(input_ids), as OpenAI's code and its descendants do
STANDARD_VOCABULARY = 49408
# Published CLIPs (OpenAI, LAION, MetaCLIP, DFN, TinyCLIP): width -> heads
_PUBLISHED_HEADS = {
    "text": {512: 8, 640: 10, 768: 12, 1024: 16, 1280: 20},
    "vision": {384: 6, 512: 8, 640: 10, 768: 12, 896: 14, 1024: 16, 1280: 16, 1408: 16, 1664: 16, 1792: 16},
}
# What a file's or folder's name says about the activation: names of models, pretrained tags, programs' files.
_NAMED_ACTIVATIONS = (
    (r"quickgelu", "quick_gelu"),
    (r"laion|datacomp|commonpool|clipvision[gh]|clipg\b", "gelu"),
    (r"openai|metaclip|dfn|clipl\b|clipvisionl", "quick_gelu"),
    (r"^(vit[bl](32|16|14|14336px)|rn50|rn101|rn50x4|rn50x16|rn50x64)\.pt$", "quick_gelu"),  # OpenAI's downloads
)
# A text tower alone is a diffusion model's: OpenAI's L of Stable Diffusion 1; LAION's H and bigG of SD2 and SDXL.
_LONE_TEXT_ACTIVATIONS = {768: "quick_gelu", 1024: "gelu", 1280: "gelu"}
_OPENAI_NAMES = ("openai", "open_clip-custom")
_PREFIXES = {"text": "text_model.", "vision": "vision_model."}
_PROJECTIONS = {"text": "text_projection.weight", "vision": "visual_projection.weight"}
_CLASSES: dict[str, Any] = {"text": CLIPTextConfig, "vision": CLIPVisionConfig}
# What changes the outputs; written out in every config that is made here.
_ACTING = {
    "text": ("num_attention_heads", "hidden_act", "layer_norm_eps", "eos_token_id"),
    "vision": ("num_attention_heads", "hidden_act", "layer_norm_eps"),
}

Shapes = Mapping[str, tuple[int, ...]]


def config_of(read: Checkpoint, given: Mapping[str, Any] | None, activation: str | None) -> Checkpoint:
    """The checkpoint with its config and notes. `given` wins; then the file's; then one made from the shapes.

    Args:
        read: the checkpoint, with its canonical tensors.
        given: the caller's config, or None.
        activation: what the prefix inside the file says, or None.

    Raises: CheckpointError for a config of another architecture, and where more than one reading is possible;
        FileNotFoundError for a folder of weights without a config.
    """
    if given is not None:
        return replace(read, config=dict(given))
    shapes = _shapes(read.tensors)
    notes = list(read.notes)
    found = stated(read)
    if found is None and read.folder is None:
        found = beside(read, lambda content: _fits(content, shapes))
        if found is not None:
            notes.append("the config.json beside the file was used")
    if found is None:
        _refuse_bare_folder(read)
        made = _from_shapes(shapes, _guess(read, shapes, activation, notes))
        return replace(read, config=made, notes=notes)
    if found.hugging_face:
        return replace(read, config=found.config, notes=notes, config_path=found.path)
    notes.append(f"config from {found.path.name}")
    return replace(read, config=_from_shapes(shapes, found.config), notes=notes, config_path=found.path)


def _refuse_bare_folder(read: Checkpoint) -> None:
    standard = {name.partition(".")[0] for name in WEIGHTS}
    if read.folder is not None and re.split(r"[.-]", read.files[0].name)[0] in standard:
        raise FileNotFoundError(
            f"{read.folder}: weights without a config.json: the number of heads, the activation and the pooling are "
            "in no weight file. Save with save_pretrained, which writes both (docs/clients.md, for Trainer), or give "
            "config="
        )


def complete(config: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], notes: list[str]) -> dict[str, Any]:
    """A Hugging Face config for exactly these tensors: of one tower when they are one tower's.

    What `config` leaves out has the class's default. Sizes that the weights contradict are the weights'; every such
    correction is added to `notes`. All that acts on the outputs is written out.

    Raises: CheckpointError, ConfigError.
    """
    shapes, config = _shapes(tensors), config or {}
    towers = _towers(shapes)
    kind = config.get("model_type")
    if kind in ("clip_text_model", "clip_vision_model", resnet.KIND) and towers != [kind.split("_")[-2]]:
        raise CheckpointError(
            f"the config is of one tower ({kind}), the weights are of {' and '.join(towers)}: "
            'component="text" or "vision" takes one tower'
        )
    parts = {tower: _completed(_part(config, tower, towers), tower, shapes, notes) for tower in towers}
    if is_classifier(tensors):
        vision = {**parts["vision"], "model_type": "clip_vision_model"}
        stated = {**config, "vision_config": vision, "model_type": "clip"}
        return {**stated, "architectures": ["CLIPForImageClassification"]}
    return _assembled(parts, shapes, config)


def is_classifier(tensors: Collection[str]) -> bool:
    """Whether these are CLIPForImageClassification's: a vision tower and a classifier, whose config is a full one's."""
    return "classifier.weight" in tensors and not any(name.startswith(_PREFIXES["text"]) for name in tensors)


def _part(config: Mapping[str, Any], tower: str, towers: list[str]) -> dict[str, Any]:
    """What a config states of a tower, whether it is a full model's or the tower's own."""
    name = f"{tower}_config"
    part, override = config.get(name), config.get(f"{name}_dict")
    for key, value in ((name, part), (f"{name}_dict", override)):
        if value is not None and not isinstance(value, Mapping):
            raise CheckpointError(f"config: {key}: wanted an object, found {str(value)[:60]!r}")
    if isinstance(override, Mapping):  # completed by the defaults, and then before all others, as in v4.37
        return {**(part or {}), **_CLASSES[tower](**override).to_dict()}
    if isinstance(part, Mapping):
        return dict(part)
    own = len(towers) == 1 and not any(key.endswith(("_config", "_config_dict")) for key in config)
    return dict(config) if own else {}


def _completed(part: dict[str, Any], tower: str, shapes: Shapes, notes: list[str]) -> dict[str, Any]:
    sizes = _sizes(shapes, tower)
    if tower == "vision":
        _check_kind(part, shapes)
        if resnet.is_in(shapes):
            return _completed_resnet(part, sizes, notes)
    made = _CLASSES[tower](**part)
    if part.get("num_hidden_layers", sizes["num_hidden_layers"]) != sizes["num_hidden_layers"]:
        raise CheckpointError(
            f"{tower}: the config says num_hidden_layers {part['num_hidden_layers']!r}, the weights have "
            f"{sizes['num_hidden_layers']}: which is meant? Give config= with the right number"
        )
    if tower == "vision" and _grid(made) == _grid_of(sizes):
        sizes["image_size"] = made.image_size  # pixels beyond whole patches are cut off
    for key, value in sizes.items():
        if key in part and part[key] != value and key != "projection_dim":
            notes.append(f"{tower}: the config says {key} {part[key]!r}, the weights say {value}: the weights win")
    acting = {key: getattr(made, key) for key in _ACTING[tower]}
    if "num_attention_heads" not in part and made.hidden_size != sizes["hidden_size"]:
        acting["num_attention_heads"] = _published_heads(tower, sizes["hidden_size"], notes)
    if tower == "text" and acting["eos_token_id"] >= sizes["vocab_size"]:
        notes.append(
            f"text: eos_token_id {acting['eos_token_id']} is beyond the vocabulary of {sizes['vocab_size']}: "
            "every text is pooled at its first token"
        )
    return {**part, **acting, **sizes}


def _check_kind(part: Mapping[str, Any], shapes: Shapes) -> None:
    """A ViT's config is of no use for a ResNet's weights, nor the other way round."""
    stated, weights = part.get("model_type"), "a ResNet" if resnet.is_in(shapes) else "a ViT"
    if stated is not None and (stated == resnet.KIND) != resnet.is_in(shapes):
        raise CheckpointError(f"vision: the config is of a {stated}, the weights are of {weights}")


def _completed_resnet(part: dict[str, Any], sizes: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    made = CLIPResNetVisionConfig(**part)
    if made.image_size // 32 == sizes["image_size"] // 32:
        sizes["image_size"] = made.image_size
    for key, value in sizes.items():
        if key in part and part[key] != value and key != "projection_dim":
            notes.append(f"vision: the config says {key} {part[key]!r}, the weights say {value}: the weights win")
    acting = {key: getattr(made, key) for key in ("num_attention_heads", "batch_norm_eps")}
    return {**part, **acting, **sizes}


def _grid(config: Any) -> tuple[int, int]:
    return config.patch_size, config.image_size // config.patch_size


def _grid_of(sizes: Mapping[str, int]) -> tuple[int, int]:
    return sizes["patch_size"], sizes["image_size"] // sizes["patch_size"]


def _from_shapes(shapes: Shapes, own: Mapping[str, Any]) -> dict[str, Any]:
    """A config from shapes and `own`, which states all that they don't tell."""
    parts = {}
    for tower in _towers(shapes):
        part, sizes = dict(own.get(f"{tower}_config") or {}), _sizes(shapes, tower)
        if tower == "vision" and resnet.is_in(shapes):
            parts[tower] = _completed_resnet(part, sizes, [])
            continue
        if tower == "vision" and isinstance(part.get("image_size"), int):
            size = part["image_size"]
            if size // sizes["patch_size"] == sizes["image_size"] // sizes["patch_size"]:
                sizes["image_size"] = size
        parts[tower] = {"intermediate_size": 4 * sizes["hidden_size"], **part, **sizes}  # without layers none tells it
    return _assembled(parts, shapes, own)


def _assembled(parts: dict[str, dict[str, Any]], shapes: Shapes, own: Mapping[str, Any]) -> dict[str, Any]:
    is_resnet = resnet.is_in(shapes)
    kind = resnet.KIND if is_resnet else "clip_vision_model"
    if len(parts) == 2:
        projections = {part.get("projection_dim") for part in parts.values()}
        if len(projections) > 1:
            raise CheckpointError(f"the two projections have different sizes: {sorted(map(str, projections))}")
        kept = {k: v for k, v in own.items() if not k.endswith(("_config", "_config_dict"))}
        return {
            "logit_scale_init_value": LOGIT_SCALE,
            **kept,
            "architectures": ["CLIPModel"],
            "model_type": resnet.FULL_KIND if is_resnet else "clip",
            "projection_dim": projections.pop(),
            "text_config": {**parts["text"], "model_type": "clip_text_model"},
            "vision_config": {**parts["vision"], "model_type": kind},
        }
    ((tower, part),) = parts.items()
    ending = "ModelWithProjection" if is_resnet or _PROJECTIONS[tower] in shapes else "Model"
    kind = kind if tower == "vision" else "clip_text_model"
    return {**part, "architectures": [f"CLIP{tower.capitalize()}{ending}"], "model_type": kind}


def _fits(content: Mapping[str, Any], shapes: Shapes) -> bool:
    """Whether the weights have the sizes that a Hugging Face config gives, its defaults included."""
    towers = _towers(shapes)
    kind = content["model_type"]
    if kind not in ("clip", resnet.FULL_KIND) and [kind.split("_")[-2]] != towers:
        return False
    for tower in towers:
        part, sizes = _part(content, tower, towers), _sizes(shapes, tower)
        is_resnet = tower == "vision" and resnet.is_in(shapes)
        if is_resnet != (part.get("model_type") == resnet.KIND):
            return False
        made = CLIPResNetVisionConfig(**part) if is_resnet else _CLASSES[tower](**part)
        if (
            is_resnet
            and made.image_size // 32 == sizes["image_size"] // 32
            or tower == "vision"
            and _grid(made) == _grid_of(sizes)
        ):
            del sizes["image_size"]
        if any(getattr(made, key) != value for key, value in sizes.items() if key != "projection_dim"):
            return False
    return True


# --- files without any config ----------------------------------------------------------------------------------------


def _guess(read: Checkpoint, shapes: Shapes, activation: str | None, notes: list[str]) -> dict[str, Any]:
    """Heads, activation and pooling of a file that states none. Raises CheckpointError listing what is open."""
    towers = _towers(shapes)
    open_: list[str] = []
    sizes = {tower: _sizes(shapes, tower) for tower in towers}
    activation = activation or _named_activation(read) or _known_activation(read, sizes)
    if towers == ["vision"] and resnet.is_in(shapes):
        pass  # it has no activation but relu
    elif activation is None:
        open_.append("hidden_act (quick_gelu: OpenAI's, MetaCLIP's, DFN's; gelu: LAION's, DataComp's)")
    else:
        notes.append(f"hidden_act {activation} was assumed, as the file's name or its prefix tells; config= changes it")
    parts: dict[str, dict[str, Any]] = {}
    for tower in towers:
        if tower == "vision" and resnet.is_in(shapes):
            parts[tower] = {"num_attention_heads": sizes[tower]["width"] * 32 // resnet.HEAD}
            continue
        parts[tower] = {"hidden_act": activation, "layer_norm_eps": 1e-5}
        try:
            parts[tower]["num_attention_heads"] = _guessed_heads(read, tower, sizes[tower]["hidden_size"], notes)
        except CheckpointError as error:
            open_.append(str(error))
    if "text" in towers:
        vocabulary = sizes["text"]["vocab_size"]
        if read.dialect in _OPENAI_NAMES or read.dialect == "kerashub":  # their code has no other rule
            parts["text"]["eos_token_id"] = LARGEST_ID
        elif vocabulary == STANDARD_VOCABULARY:  # 2 would find the same place in every text that has its end
            parts["text"]["eos_token_id"] = STANDARD_VOCABULARY - 1
        else:
            open_.append(f"eos_token_id (49407, or 2 to pool at the largest id; the vocabulary has {vocabulary})")
    if open_:
        raise CheckpointError(
            f"{read.files[0]}: no config says, and the weights don't tell: {'; '.join(open_)}. Give config= (on the "
            "command line --config), a config.json's content or path, with text_config and vision_config"
        )
    return {f"{tower}_config": part for tower, part in parts.items()}


def _named_activation(read: Checkpoint) -> str | None:
    """The activation that the name of the file or its folder tells."""
    for name in (read.files[0].name, read.files[0].parent.name):
        for pattern, activation in _NAMED_ACTIVATIONS:
            if re.search(pattern, name.lower().replace("-", "").replace("_", "")):
                return activation
    return None


def _known_activation(read: Checkpoint, sizes: Mapping[str, Mapping[str, int]]) -> str | None:
    marks = "context_length" in read.ignored or any(name.endswith(LONG) for name in read.entries)
    if marks:  # OpenAI's archives, the state dicts taken from them, and Long-CLIP, whose code has no other
        return "quick_gelu"
    return _LONE_TEXT_ACTIVATIONS.get(sizes["text"]["hidden_size"]) if list(sizes) == ["text"] else None


def _guessed_heads(read: Checkpoint, tower: str, width: int, notes: list[str]) -> int:
    if tower in read.heads:  # KerasHub's layout states them in its shapes
        return read.heads[tower]
    if read.dialect in _OPENAI_NAMES and width not in _PUBLISHED_HEADS[tower] and width % 64 == 0:
        notes.append(f"{tower}: num_attention_heads {width // 64} was assumed: OpenAI's loader has one for 64 numbers")
        return width // 64
    return _published_heads(tower, width, notes)


def _published_heads(tower: str, width: int, notes: list[str]) -> int:
    heads = _PUBLISHED_HEADS[tower].get(width)
    if heads is None:
        raise CheckpointError(
            f"the {tower} tower's number of heads is not in the file, and its width, {width}, is no published CLIP's "
            "(num_attention_heads)"
        )
    notes.append(f"{tower}: num_attention_heads {heads} was assumed from the width {width}; config= sets another")
    return heads


# --- shapes ----------------------------------------------------------------------------------------------------------


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _towers(shapes: Shapes) -> list[str]:
    towers = [tower for tower in _PREFIXES if any(name.startswith(_PREFIXES[tower]) for name in shapes)]
    if not towers:
        raise CheckpointError("no text_model or vision_model weights, so no config can be made")
    return towers


def _sizes(shapes: Shapes, tower: str) -> dict[str, int]:
    """What the shapes of one tower say, in config terms."""
    if tower == "vision" and resnet.is_in(shapes):
        return resnet.sizes(shapes)

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
