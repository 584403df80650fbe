"""The configurations of other libraries in Hugging Face's form, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

# Settings that change what is computed, and the only value with which the result is a plain CLIP.
_PLAIN_TEXT = {"no_causal_mask": (False,), "pool_type": ("argmax", "eos"), "proj_bias": (False,), "embed_cls": (False,)}
_PLAIN_VISION = {
    "pool_type": ("tok",),
    "attentional_pool": (False,),
    "final_ln_after_pool": (False,),
    "no_ln_pre": (False,),
    "timm_model_name": (None,),
}


def from_open_clip(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """open_clip_config.json -> what it says in Hugging Face's terms. Sizes are left to the weights.

    Raises: CheckpointError for models that are no plain CLIP.
    """
    model = content.get("model_cfg", content)
    text, vision = (model.get(key) for key in ("text_cfg", "vision_cfg")) if isinstance(model, dict) else (None, None)
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise CheckpointError(f"{path}: no model_cfg with text_cfg and vision_cfg")
    if "hf_model_name" in text:
        raise CheckpointError(f"{path}: its text tower is {text['hf_model_name']!r}, no plain CLIP")
    for part, plain in ((text, _PLAIN_TEXT), (vision, _PLAIN_VISION)):
        odd = [f"{key} {part[key]!r}" for key, values in plain.items() if part.get(key, values[0]) not in values]
        if odd:
            raise CheckpointError(f"{path}: no plain CLIP: {', '.join(odd)}")
    quick = bool(model.get("quick_gelu", False))
    text_config = _shared(text, quick)
    vision_config = _shared(vision, quick)
    if _natural(text.get("heads")):
        text_config["num_attention_heads"] = text["heads"]
    head_width = vision.get("head_width", 64)
    if _natural(vision.get("width")) and _natural(head_width):
        vision_config["num_attention_heads"] = vision["width"] // head_width
    return {"text_config": text_config, "vision_config": vision_config}


def _natural(value: Any) -> bool:
    return type(value) is int and value > 0


def _shared(part: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    act = part.get("act_kwargs") or {}
    tanh = not quick and isinstance(act, dict) and act.get("approximate") == "tanh"
    norm = part.get("norm_kwargs") or {}
    eps = norm.get("eps", 1e-5) if isinstance(norm, dict) else 1e-5
    return {
        "hidden_act": "quick_gelu" if quick else "gelu_pytorch_tanh" if tanh else "gelu",
        "layer_norm_eps": eps,
    }


def to_open_clip(config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip_config.json's content for a full model's config in Hugging Face's form.

    Raises: CheckpointError where open_clip has no such model.
    """
    text, vision = config["text_config"], config["vision_config"]
    if text["hidden_act"] != vision["hidden_act"] or text["hidden_act"] not in ("quick_gelu", "gelu"):
        raise CheckpointError(
            f"open_clip: hidden_act must be quick_gelu or gelu in both towers, found {text['hidden_act']!r} and "
            f"{vision['hidden_act']!r}"
        )
    for name, tower in (("text", text), ("vision", vision)):
        if tower["hidden_size"] % tower["num_attention_heads"]:
            raise CheckpointError(f"open_clip: {name}: num_attention_heads don't divide hidden_size")
    model: dict[str, Any] = {"embed_dim": config["projection_dim"]}
    if text["hidden_act"] == "quick_gelu":
        model["quick_gelu"] = True
    model["vision_cfg"] = {
        "image_size": vision["image_size"],
        "layers": vision["num_hidden_layers"],
        "width": vision["hidden_size"],
        "patch_size": vision["patch_size"],
        "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
    }
    model["text_cfg"] = {
        "context_length": text["max_position_embeddings"],
        "vocab_size": text["vocab_size"],
        "width": text["hidden_size"],
        "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"],
        "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
    }
    for part, tower in ((model["vision_cfg"], vision), (model["text_cfg"], text)):
        if tower["layer_norm_eps"] != 1e-5:
            part["norm_kwargs"] = {"eps": tower["layer_norm_eps"]}
        if part["mlp_ratio"] == 4.0:
            del part["mlp_ratio"]
    return {"model_cfg": model, "preprocess_cfg": dict(preprocess)}


def from_kerashub(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """KerasHub's preset config.json -> what it says in Hugging Face's terms. Sizes are left to the weights."""
    inner = content.get("config")
    if content.get("class_name") != "CLIPBackbone" or not isinstance(inner, dict):
        raise CheckpointError(f"{path}: wanted KerasHub's CLIPBackbone, found {str(content.get('class_name'))[:60]!r}")
    result = {}
    for tower in ("text", "vision"):
        encoder = inner.get(f"{tower}_encoder")
        part = encoder.get("config") if isinstance(encoder, dict) else None
        if not isinstance(part, dict) or not _natural(part.get("num_heads")):
            raise CheckpointError(f"{path}: no num_heads of the {tower} encoder")
        result[f"{tower}_config"] = {
            "num_attention_heads": part["num_heads"],
            "hidden_act": part.get("intermediate_activation", "quick_gelu"),
        }
    return result


def to_kerashub(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """KerasHub's preset config.json for a full model's config in Hugging Face's form.

    Raises: CheckpointError for an activation that Keras hasn't by that name.
    """
    text, vision = config["text_config"], config["vision_config"]
    for part in (text, vision):
        if part["hidden_act"] not in ("quick_gelu", "gelu", "relu", "selu"):
            raise CheckpointError(f"kerashub: no activation {part['hidden_act']!r} there")
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
