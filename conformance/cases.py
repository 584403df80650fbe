"""The conformance cases as data: model class x config x inputs x flags.

Imports only the standard library and NumPy, so that the file also runs where the golden arrays are made (transformers
4.37.2). Weights and inputs are drawn by `draw_*` from seeds with NumPy's legacy generator, whose streams are frozen, so
they need not be stored.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CLASSES = (
    "CLIPModel",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
)
EOS, BOS = 58, 57

# Small and deliberately irregular: all widths differ, heads are not 64 wide, 21 is not a multiple of 8.
TEXT: dict[str, Any] = {
    "vocab_size": 59,
    "hidden_size": 24,
    "intermediate_size": 37,
    "projection_dim": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "hidden_act": "quick_gelu",
    "pad_token_id": EOS,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION: dict[str, Any] = {
    "hidden_size": 20,
    "intermediate_size": 33,
    "projection_dim": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_channels": 3,
    "image_size": 21,
    "patch_size": 8,
    "hidden_act": "quick_gelu",
}
PROJECTION = 16

# Four texts of eight tokens: a short one padded by the end token, a full one, one with a second end token in the
# middle, and one without end token.
IDS = [
    [BOS, 5, 9, EOS, EOS, EOS, EOS, EOS],
    [BOS, 4, 31, 7, 2, 44, 12, EOS],
    [BOS, 8, EOS, 3, EOS, 6, 1, 0],
    [BOS, 11, 12, 13, 14, 15, 16, 17],
]
# The highest id is not the end token, so that only the legacy rule (eos_token_id == 2) pools there.
LEGACY_IDS = [
    [20, 5, 9, 2, 2, 2, 2, 2],
    [20, 4, 31, 7, 2, 44, 12, 2],
    [3, 8, 51, 3, 51, 6, 1, 0],
    [56, 11, 12, 13, 14, 15, 16, 17],
]
MASKS: dict[str, Any] = {
    "none": None,
    "ones": [[1] * 8] * 4,
    "padded": [[1] * 4 + [0] * 4, [1] * 8, [1] * 6 + [0] * 2, [1] * 8],
    "left": [[0] * 3 + [1] * 5, [0] + [1] * 7, [1] * 8, [0] * 7 + [1]],
    "holes": [[1, 0, 1, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0, 1, 1], [0, 1] * 4, [1] * 8],
    "zero": [[0] * 8] * 4,
    "zero_row": [[1] * 8, [0] * 8, [1] * 5 + [0] * 3, [1] * 8],
}


@dataclass(frozen=True)
class Case:
    """One call of one model class.

    Attributes:
        name: unique; also the prefix of its arrays in the golden files.
        cls: a name of `CLASSES` (a backend adds its own prefix).
        config: keyword arguments of the class's config.
        inputs: name -> nested list, or "pixels" / "pixels:B,C,H,W" for drawn pixel values.
        flags: other keyword arguments of the call.
        gradients: also compare the gradient of `objective` in every parameter.
        values: store every array; otherwise only the structure of the output is stored (its values are another
            case's).
    """

    name: str
    cls: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    flags: Mapping[str, Any] = field(default_factory=dict)
    gradients: bool = False
    values: bool = True

    @property
    def tower(self) -> str:
        return "text" if "Text" in self.cls else "vision" if "Vision" in self.cls else "full"


def text(**changes: Any) -> dict[str, Any]:
    return {**TEXT, **changes}


def vision(**changes: Any) -> dict[str, Any]:
    return {**VISION, **changes}


def full(text_changes: Mapping = {}, vision_changes: Mapping = {}, **changes: Any) -> dict[str, Any]:  # noqa: B006
    return {
        "text_config": text(**text_changes),
        "vision_config": vision(**vision_changes),
        "projection_dim": PROJECTION,
        **changes,
    }


ALL_OUTPUTS = {"output_attentions": True, "output_hidden_states": True}


def _inputs(tower: str, ids: list[list[int]] = IDS, mask: str = "none", **more: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if tower != "vision":
        out["input_ids"] = ids
        if MASKS[mask] is not None:
            out["attention_mask"] = MASKS[mask]
    if tower != "text":
        out["pixel_values"] = "pixels"
    return {**out, **more}


def cases() -> list[Case]:
    """All cases, by topic."""
    out = [*_classes(), *_activations(), *_text(), *_vision(), *_depth(), *_flags()]
    names = [case.name for case in out]
    assert len(set(names)) == len(names), "case names must be unique"
    return out


def _config_of(cls: str, **changes: Any) -> dict[str, Any]:
    return full(**changes) if cls == "CLIPModel" else text(**changes) if "Text" in cls else vision(**changes)


def _classes() -> Iterator[Case]:
    for cls in CLASSES:
        tower = Case("", cls, {}, {}).tower
        yield Case(f"class.{cls}", cls, _config_of(cls), _inputs(tower, mask="padded"), ALL_OUTPUTS, gradients=True)
    loss = {**ALL_OUTPUTS, "return_loss": True}
    yield Case("loss", "CLIPModel", full(), _inputs("full", mask="padded"), loss, gradients=True)
    one = {"input_ids": IDS[:1], "pixel_values": "pixels:1,3,21,21"}
    yield Case("loss.one_pair", "CLIPModel", full(), one, {"return_loss": True})
    wide = {"input_ids": IDS, "pixel_values": "pixels:2,3,21,21"}
    yield Case("batch.four_texts_two_images", "CLIPModel", full(), wide)
    narrow = {"input_ids": IDS[:1], "pixel_values": "pixels:3,3,21,21"}
    yield Case("batch.one_text_three_images", "CLIPModel", full(logit_scale_init_value=1.0), narrow)


def _activations() -> Iterator[Case]:
    for act in ("gelu", "gelu_new", "relu", "selu"):  # quick_gelu is used in all other cases
        changes = {"hidden_act": act, "num_hidden_layers": 1}
        config = full(changes, changes)
        yield Case(f"act.{act}", "CLIPModel", config, _inputs("full"), {"return_loss": True}, gradients=True)
    mixed = full({"hidden_act": "gelu", "layer_norm_eps": 1e-3}, {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-2})
    yield Case("act.mixed_and_eps", "CLIPModel", mixed, _inputs("full"), ALL_OUTPUTS)


def _text() -> Iterator[Case]:
    cls = "CLIPTextModelWithProjection"
    for mask in MASKS:
        grads = mask in ("holes", "zero", "zero_row")
        yield Case(f"mask.{mask}", cls, text(), _inputs("text", mask=mask), ALL_OUTPUTS, gradients=grads)
    legacy = text(eos_token_id=2)
    yield Case("eos.legacy", cls, legacy, _inputs("text", LEGACY_IDS), gradients=True)
    yield Case("eos.legacy_padded", "CLIPTextModel", legacy, _inputs("text", LEGACY_IDS, "padded"))
    yield Case("eos.modern", "CLIPTextModel", text(), _inputs("text"))
    yield Case("eos.absent", "CLIPTextModel", text(), _inputs("text", [[1, 2, 3], [4, 5, 6]]))
    yield Case("eos.custom", "CLIPTextModel", text(eos_token_id=31), _inputs("text"))
    yield Case("eos.full_legacy", "CLIPModel", full({"eos_token_id": 2}), _inputs("full", LEGACY_IDS))
    shared = [[3, 0, 1, 2, 10, 9, 8, 7]]
    own = [shared[0], [0] * 8, [7, 6, 5, 4, 3, 2, 1, 0], [10, 10, 1, 1, 2, 2, 3, 3]]
    yield Case("positions.shared", "CLIPTextModel", text(), _inputs("text", position_ids=shared), gradients=True)
    yield Case("positions.own", "CLIPTextModel", text(), _inputs("text", mask="padded", position_ids=own))
    yield Case("positions.full", "CLIPModel", full(), _inputs("full", position_ids=own))
    longest = [[BOS, *range(1, 10), EOS]]
    yield Case("length.longest", "CLIPTextModel", text(), _inputs("text", longest))
    yield Case("length.one", "CLIPTextModel", text(), _inputs("text", [[EOS], [3]]), ALL_OUTPUTS)
    for heads in (1, 4, 24):
        changes = {"num_attention_heads": heads}
        yield Case(f"heads.text_{heads}", "CLIPTextModel", text(**changes), _inputs("text", mask="left"))


def _vision() -> Iterator[Case]:
    cls = "CLIPVisionModelWithProjection"
    shapes = {
        "divisible": {"image_size": 24, "patch_size": 8},
        "cut_off": {"image_size": 23, "patch_size": 5},
        "one_patch": {"image_size": 9, "patch_size": 9},
        "pixel_patches": {"image_size": 4, "patch_size": 1},
        "grey": {"num_channels": 1},
        "five_channels": {"num_channels": 5, "num_attention_heads": 5},
    }
    for name, changes in shapes.items():
        yield Case(f"image.{name}", cls, vision(**changes), _inputs("vision"), gradients=name == "cut_off")


def _depth() -> Iterator[Case]:
    for layers in (0, 1, 7):
        depth = {"num_hidden_layers": layers}
        for cls in ("CLIPTextModel", "CLIPVisionModel"):
            tower = Case("", cls, {}, {}).tower
            name = f"depth.{tower}_{layers}"
            yield Case(name, cls, _config_of(cls, **depth), _inputs(tower), ALL_OUTPUTS, gradients=layers == 0)
    yield Case("depth.full_0_1", "CLIPModel", full({"num_hidden_layers": 0}, {"num_hidden_layers": 1}), _inputs("full"))


def _flags() -> Iterator[Case]:
    """Cases of the output flags in configs and calls; only structures."""
    for cls in CLASSES:
        tower = Case("", cls, {}, {}).tower
        base = {"return_loss": True} if cls == "CLIPModel" else {}
        for number in range(8):
            flags = {
                "output_attentions": bool(number & 1),
                "output_hidden_states": bool(number & 2),
                "return_dict": bool(number & 4),
            }
            short = "".join("ahd"[i] if on else "-" for i, on in enumerate(flags.values()))
            yield Case(f"flags.{cls}.{short}", cls, _config_of(cls), _inputs(tower), {**base, **flags}, values=False)
        from_config = {
            "outputs": ({**ALL_OUTPUTS, "return_dict": False}, {}),
            "argument_wins": ({**ALL_OUTPUTS, "return_dict": False}, {"output_attentions": False, "return_dict": True}),
            "torchscript": ({"torchscript": True, "output_hidden_states": True}, {}),
            "torchscript_and_argument": ({"torchscript": True}, {"return_dict": True}),
        }
        for name, (changes, flags) in from_config.items():
            config = _config_of(cls, **changes)
            yield Case(f"config_flags.{cls}.{name}", cls, config, _inputs(tower), flags, values=False)
    inner = {**ALL_OUTPUTS, "return_dict": False}  # a full model reads its own flags, not its towers'
    yield Case("config_flags.sub_configs", "CLIPModel", full(inner, inner), _inputs("full"), values=False)
    plain = {"return_loss": False, "return_dict": False}
    yield Case("flags.no_loss_tuple", "CLIPModel", full(), _inputs("full"), plain, values=False)


# -- what is drawn ----------------------------------------------------------------------------------------------------


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = zlib.crc32(f"{name} {shape}".encode())
    return np.random.RandomState(seed).standard_normal(shape)


def draw_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 weights, far enough from their initial values for each of them to matter."""
    noise = _normal(name, tuple(shape))
    if name == "logit_scale":
        return np.float32(1.7)
    if "norm" in name and name.endswith("weight"):
        value = 1 + 0.2 * noise
    elif len(shape) < 2:
        value = 0.2 * noise
    elif "embedding" in name and "patch" not in name:
        value = 0.7 * noise
    else:
        value = noise / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def draw_inputs(case: Case) -> dict[str, np.ndarray]:
    """The call's arrays: int64 ids and masks, float32 pixels."""
    out: dict[str, np.ndarray] = {}
    for name, value in case.inputs.items():
        if isinstance(value, str):
            out[name] = _pixels(case, value)
        else:
            out[name] = np.array(value, dtype=np.int64)
    return out


def _pixels(case: Case, value: str) -> np.ndarray:
    config = case.config.get("vision_config", case.config)
    size = config["image_size"]
    batch = len(case.inputs.get("input_ids", IDS))
    _, _, given = value.partition(":")
    shape = tuple(int(n) for n in given.split(",")) if given else (batch, config["num_channels"], size, size)
    return _normal("pixel_values", shape).astype(np.float32)


def cotangent(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The factor of an output field in `objective`, so that no gradient cancels."""
    return _normal(f"cotangent {name}", tuple(shape)).astype(np.float32)


# The scalar whose gradients are compared: `loss` if the call returns one, else the sum of these fields times their
# cotangents. Fields that a class doesn't return are left out.
OBJECTIVE_FIELDS = ("logits_per_image", "text_embeds", "image_embeds", "last_hidden_state", "pooler_output")


def flatten(output: Any) -> dict[str, Any]:
    """A nested output as "field.index" -> array, with mappings by key and sequences by position."""
    out: dict[str, Any] = {}
    if isinstance(output, Mapping):
        items: Any = output.items()
    elif isinstance(output, tuple | list):
        items = enumerate(output)
    else:
        return {"": output}
    for key, value in items:
        for rest, leaf in flatten(value).items():
            out[f"{key}.{rest}" if rest else str(key)] = leaf
    return out


def structure(output: Any) -> Any:
    """The nesting of an output with shapes as leaves, as plain JSON: {"dict": [[key, …]…]} or {"tuple": […]}."""
    if isinstance(output, Mapping):
        return {"dict": [[key, structure(value)] for key, value in output.items()]}
    if isinstance(output, tuple | list):
        return {"tuple": [structure(value) for value in output]}
    return [int(n) for n in output.shape]


def config_copy(case: Case) -> dict[str, Any]:
    """A copy of the config's keywords."""
    return copy.deepcopy(dict(case.config))
