"""The configurations of other libraries in Hugging Face's form, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from . import resnet

# open_clip's settings that change what is computed, and the values with which the result is a plain CLIP; the first
# is open_clip's default.
_PLAIN_BLOCK: dict[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "block_type": (None, "default"),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn"), (False,)),
    "scale_fc": (False,),
}
_PLAIN_TEXT: dict[str, tuple[Any, ...]] = {
    **_PLAIN_BLOCK,
    "no_causal_mask": (False,),
    "final_ln_after_pool": (False,),
    "pool_type": ("argmax", "eos"),
    "proj_type": ("linear",),
    "proj_bias": (False,),
    "embed_cls": (False,),
    "hf_model_name": (None, ""),
}
_PLAIN_VISION: dict[str, tuple[Any, ...]] = {
    **_PLAIN_BLOCK,
    "pool_type": ("tok",),
    "attentional_pool": (False,),
    "final_ln_after_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable", "sin_cos_2d"),  # kept as a weight in both cases
    "timm_model_name": (None, ""),
}
# Keys of model_cfg that other architectures have
_OTHER_MODELS = {"multimodal_cfg": "CoCa", "audio_cfg": "CLAP"}
_LARGEST_ID = 2  # as eos_token_id: pools at the largest id


def from_open_clip(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """open_clip_config.json -> what it says in Hugging Face's terms, complete but for sizes that the weights have.

    Raises: CheckpointError, with the reason by name, for models that are no plain CLIP.
    """
    model = content.get("model_cfg", content)
    text, vision = (model.get(key) for key in ("text_cfg", "vision_cfg")) if isinstance(model, dict) else (None, None)
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise CheckpointError(f"{path}: no model_cfg with text_cfg and vision_cfg")
    odd = [f"{name} ({key})" for key, name in _OTHER_MODELS.items() if key in model]
    for name, part, plain in (("text_cfg", text, _PLAIN_TEXT), ("vision_cfg", vision, _PLAIN_VISION)):
        odd += [f"{name}.{k} {part[k]!r}" for k, values in plain.items() if part.get(k, values[0]) not in values]
    if odd:
        raise CheckpointError(f"{path}: no plain CLIP: {', '.join(odd)}")
    quick = bool(model.get("quick_gelu", False))
    heads = text.get("heads", 8)
    return {
        "text_config": {
            **_shared(text, quick, f"{path}: text_cfg"),
            "num_attention_heads": _natural(heads, f"{path}: text_cfg.heads"),
            "eos_token_id": _end_of_text(text, path),
        },
        "vision_config": {**_vision_shared(vision, quick, path), **_vision(vision, path)},
    }


def _end_of_text(text: Mapping[str, Any], path: Path) -> int:
    tokenizer = text.get("hf_tokenizer_name")
    if tokenizer and "clip" not in str(tokenizer).lower():
        raise CheckpointError(
            f"{path}: its texts are tokenized by {str(tokenizer)[:80]!r} (text_cfg.hf_tokenizer_name), which is no "
            "CLIP tokenizer"
        )
    if text.get("pool_type", "argmax") == "argmax":
        return _LARGEST_ID
    end = text.get("eos_id", 2)
    if type(end) is not int or end < 0 or end == _LARGEST_ID:
        raise CheckpointError(
            f"{path}: pool_type 'eos' with eos_id {end!r}: CLIPTextConfig has no such rule (eos_token_id 2 means "
            "the largest id there)"
        )
    return end


def _vision(vision: Mapping[str, Any], path: Path) -> dict[str, Any]:
    width = _natural(vision.get("width", 768), f"{path}: vision_cfg.width")
    width *= 32 if _is_resnet(vision) else 1
    head_width = _natural(vision.get("head_width", 64), f"{path}: vision_cfg.head_width")
    size = vision.get("image_size", 224)
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise CheckpointError(f"{path}: vision_cfg.image_size {size!r}: only square pictures have a place here")
        size = size[0]
    return {
        "num_attention_heads": width // head_width,
        "image_size": _natural(size, f"{path}: vision_cfg.image_size"),
    }


def _is_resnet(vision: Mapping[str, Any]) -> bool:
    """As open_clip has it: the blocks of each stage in the place of a number of layers."""
    return isinstance(vision.get("layers"), list | tuple)


def _vision_shared(vision: Mapping[str, Any], quick: bool, path: Path) -> dict[str, Any]:
    return {} if _is_resnet(vision) else _shared(vision, quick, f"{path}: vision_cfg")


def _natural(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{where}: wanted an integer from 1, found {str(value)[:60]!r}")
    return value


def _shared(part: Mapping[str, Any], quick: bool, where: str) -> dict[str, Any]:
    act, norm = part.get("act_kwargs") or {}, part.get("norm_kwargs") or {}
    if not isinstance(act, dict) or set(act) - {"approximate"} or (quick and act):
        raise CheckpointError(f"{where}.act_kwargs: {str(act)[:80]!r} has no counterpart")
    if not isinstance(norm, dict) or set(norm) - {"eps"}:
        raise CheckpointError(f"{where}.norm_kwargs: {str(norm)[:80]!r} has no counterpart")
    # gelu_new is the name that v4.37 has in all three frameworks
    gelu = {"none": "gelu", "tanh": "gelu_new"}.get(act.get("approximate", "none"))
    if gelu is None:
        raise CheckpointError(f"{where}.act_kwargs: unknown approximate {act['approximate']!r}")
    return {"hidden_act": "quick_gelu" if quick else gelu, "layer_norm_eps": norm.get("eps", 1e-5)}


def to_open_clip(config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip_config.json's content for a full model's config in Hugging Face's form.

    Raises: CheckpointError where open_clip has no such model.
    """
    text, vision = config["text_config"], config["vision_config"]
    is_resnet = vision.get("model_type") == resnet.KIND
    activations = {text["hidden_act"]} if is_resnet else {text["hidden_act"], vision["hidden_act"]}
    gelus = set(_OPEN_CLIP_GELUS)
    if activations != {"quick_gelu"} and not activations <= gelus:
        raise CheckpointError(
            f"open_clip: hidden_act: wanted quick_gelu in both towers, or any of {', '.join(sorted(gelus))}, found "
            f"{' and '.join(map(repr, sorted(activations)))}"
        )
    if vision.get("num_channels", 3) != 3:
        raise CheckpointError(f"open_clip: num_channels: wanted 3, found {vision['num_channels']}")
    model: dict[str, Any] = {"embed_dim": config["projection_dim"]}
    if activations == {"quick_gelu"}:
        model["quick_gelu"] = True
    model["vision_cfg"] = (
        resnet.to_open_clip(vision)
        if is_resnet
        else {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        }
    )
    model["text_cfg"] = {
        "context_length": text["max_position_embeddings"],
        "vocab_size": text["vocab_size"],
        "width": text["hidden_size"],
        "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"],
    }
    if text["eos_token_id"] not in (2, text["vocab_size"] - 1):
        model["text_cfg"] |= {"pool_type": "eos", "eos_id": text["eos_token_id"]}
    model["text_cfg"] |= _open_clip_shared("text", text)
    if not is_resnet:
        model["vision_cfg"] |= _open_clip_shared("vision", vision)
    return {"model_cfg": model, "preprocess_cfg": dict(preprocess)}


_OPEN_CLIP_GELUS = {"gelu": None, "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}  # act_kwargs.approximate


def _open_clip_shared(name: str, tower: Mapping[str, Any]) -> dict[str, Any]:
    """What open_clip states only where it isn't its default. Raises CheckpointError for what it can't state."""
    if tower.get("pruned_heads"):
        raise CheckpointError(f"open_clip: {name}: pruned_heads have no place there")
    width, inner = tower["hidden_size"], tower["intermediate_size"]
    if width % tower["num_attention_heads"]:
        raise CheckpointError(f"open_clip: {name}: num_attention_heads don't divide hidden_size")
    part: dict[str, Any] = {}
    if inner != 4 * width:
        part["mlp_ratio"] = inner / width
        if int(width * part["mlp_ratio"]) != inner:  # as open_clip computes it
            part["mlp_ratio"] = math.nextafter(inner / width, math.inf)
    if tower["layer_norm_eps"] != 1e-5:
        part["norm_kwargs"] = {"eps": tower["layer_norm_eps"]}
    if approximate := _OPEN_CLIP_GELUS.get(tower["hidden_act"]):
        part["act_kwargs"] = {"approximate": approximate}
    return part


def from_kerashub(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """KerasHub's preset config.json -> what it says in Hugging Face's terms. Sizes are left to the weights."""
    inner = content.get("config")
    if content.get("class_name") != "CLIPBackbone" or not isinstance(inner, dict):
        raise CheckpointError(f"{path}: wanted KerasHub's CLIPBackbone, found {str(content.get('class_name'))[:60]!r}")
    result = {}
    for tower in ("text", "vision"):
        encoder = inner.get(f"{tower}_encoder")
        part = encoder.get("config") if isinstance(encoder, dict) else None
        if not isinstance(part, dict):
            raise CheckpointError(f"{path}: KerasHub's config has no {tower}_encoder with a config")
        result[f"{tower}_config"] = {
            "num_attention_heads": _natural(part.get("num_heads"), f"{path}: {tower}_encoder: num_heads"),
            "hidden_act": _keras_activation(part.get("intermediate_activation", "quick_gelu"), path),
            "layer_norm_eps": 1e-5,
        }
    result["text_config"]["eos_token_id"] = _LARGEST_ID  # CLIPTextPooler
    shape = inner["vision_encoder"]["config"].get("image_shape")
    if isinstance(shape, list | tuple) and len(shape) == 3:
        size = _natural(shape[1], f"{path}: image_shape")  # the middle one is a side in both orders of axes
        result["vision_config"]["image_size"] = size
    return result


def _keras_activation(value: Any, path: Path) -> str:
    if value not in _KERAS_ACTIVATIONS:
        raise CheckpointError(f"{path}: intermediate_activation {str(value)[:60]!r} has no counterpart")
    return value


_KERAS_ACTIVATIONS = ("quick_gelu", "gelu", "relu", "selu")


def to_kerashub(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """KerasHub's preset config.json for a full model's config in Hugging Face's form.

    Raises: CheckpointError for an activation that Keras hasn't by that name.
    """
    text, vision = config["text_config"], config["vision_config"]
    for name, part in (("text", text), ("vision", vision)):
        if part["hidden_act"] not in _KERAS_ACTIVATIONS:
            raise CheckpointError(f"kerashub: {name}: no activation {part['hidden_act']!r} there")
        if part["layer_norm_eps"] != 1e-5:
            raise CheckpointError(f"kerashub: {name}: it has layer_norm_eps 1e-5, this model {part['layer_norm_eps']}")
        if part.get("pruned_heads"):
            raise CheckpointError(f"kerashub: {name}: pruned_heads have no place there")
    if text["eos_token_id"] not in (2, text["vocab_size"] - 1):
        raise CheckpointError(
            f"kerashub: its texts are pooled at the largest id, this model's at eos_token_id {text['eos_token_id']}, "
            f"which is not the last of {text['vocab_size']}"
        )
    size = vision["image_size"]
    vision_part = {
        **_keras_common("clip_vision_encoder", dtype, vision),
        "patch_size": vision["patch_size"],
        "image_shape": [size, size, vision.get("num_channels", 3)],
    }
    text_part = {
        **_keras_common("clip_text_encoder", dtype, text),
        "vocabulary_size": text["vocab_size"],
        "embedding_dim": text["hidden_size"],
        "max_sequence_length": text["max_position_embeddings"],
    }
    backbone = {
        "name": "clip_backbone",
        "trainable": True,
        "dtype": _keras_dtype(dtype),
        "vision_encoder": _keras_object("CLIPVisionEncoder", "clip_vision_encoder", vision_part),
        "text_encoder": _keras_object("CLIPTextEncoder", "clip_text_encoder", text_part),
        "projection_dim": config["projection_dim"],
    }
    return _keras_object("CLIPBackbone", "clip_backbone", backbone)


def _keras_common(name: str, dtype: str, part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "trainable": True,
        "dtype": _keras_dtype(dtype),
        "hidden_dim": part["hidden_size"],
        "num_layers": part["num_hidden_layers"],
        "num_heads": part["num_attention_heads"],
        "intermediate_dim": part["intermediate_size"],
        "intermediate_activation": part["hidden_act"],
        "intermediate_output_index": None,
    }


def _keras_object(name: str, module: str, config: dict[str, Any]) -> dict[str, Any]:
    place = f"keras_hub.src.models.clip.{module}"
    return {"module": place, "class_name": name, "config": config, "registered_name": f"keras_hub>{name}"}


def _keras_dtype(name: str) -> dict[str, Any]:
    policy = {"name": name}
    return {"module": "keras", "class_name": "DTypePolicy", "config": policy, "registered_name": None}
