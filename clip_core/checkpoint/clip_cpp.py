"""clip.cpp's models (github.com/monatis/clip.cpp, convert_hf_to_gguf.py): what a GGUF file of it says, and is told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .containers import Content
from .tensor import Tensor

_SCALE = "triclip.logit_scale"  # clip.cpp compares without one
_PUBLISHED_SCALE = math.log(100)  # at which OpenAI's training clips, and the published CLIPs end
_SIZES = {"embedding_length": "hidden_size", "feed_forward_length": "intermediate_size"}
_SIZES |= {"block_count": "num_hidden_layers", "attention.head_count": "num_attention_heads"}


def opened(content: Content, where: str) -> tuple[Content, list[str]]:
    """The content with the logit scale that the file has beside its tensors, and notes.

    Raises: CheckpointError for llama.cpp's vision towers of language models.
    """
    if content.container != "gguf":
        return content, []
    values = json.loads(content.metadata["gguf"])
    if values.get("clip.has_llava_projector") or any(name.startswith("mm.") for name in content.tensors):
        raise CheckpointError(f"{where}: a vision tower of a language model (llama.cpp's mmproj), no CLIP")
    whole = {"t.token_embd.weight", "v.class_embd"} <= set(content.tensors)
    if not whole or "logit_scale" in content.tensors:
        return content, []
    scale = values.get(_SCALE, _PUBLISHED_SCALE)
    notes = (
        [] if _SCALE in values else [f"the file has no logit_scale: {scale:.4f} was taken, which published CLIPs have"]
    )
    tensor = Tensor.from_numpy(np.array(scale, np.float32))
    return content._replace(tensors={**content.tensors, "logit_scale": tensor}), notes


def config(values: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """What the header says in Hugging Face's terms. Sizes are left to the weights."""
    found: dict[str, Any] = {}
    activation = "gelu" if values.get("clip.use_gelu") else "quick_gelu"
    for tower in ("text", "vision"):
        if not values.get(f"clip.has_{tower}_encoder"):
            continue
        heads, eps = (values.get(f"clip.{tower}.attention.{key}") for key in ("head_count", "layer_norm_epsilon"))
        if type(heads) is not int or heads < 1 or not isinstance(eps, float):
            raise CheckpointError(f"{where}: clip.{tower}.attention: wanted head_count and layer_norm_epsilon")
        part = {"num_attention_heads": heads, "hidden_act": activation, "layer_norm_eps": float(f"{eps:.6g}")}
        if tower == "vision" and type(values.get("clip.vision.image_size")) is int:
            part["image_size"] = values["clip.vision.image_size"]
        if tower == "text":  # it pools at the last token that it is given, which is the end of the text
            part["eos_token_id"] = values.get("end_of_text", 2)
        found[f"{tower}_config"] = part
    return found


def header(
    config: Mapping[str, Any], towers: tuple[str, ...], scale: float, files: Mapping[str, bytes]
) -> dict[str, Any]:
    """The values of a file's header, in clip.cpp's order. Raises CheckpointError for what it can't compute."""
    parts = {tower: config.get(f"{tower}_config") or config for tower in towers}
    acts = {part["hidden_act"] for part in parts.values()}
    if acts not in ({"gelu"}, {"quick_gelu"}):
        raise CheckpointError(f"gguf: hidden_act: wanted gelu or quick_gelu in all towers, found {sorted(acts)}")
    values: dict[str, Any] = {"general.architecture": "clip"}
    values |= {f"clip.has_{tower}_encoder": tower in towers for tower in ("text", "vision")}
    values |= {"general.file_type": 1, "general.name": "CLIP", "general.description": " and ".join(towers)}
    values |= {"clip.use_gelu": acts == {"gelu"}}
    width = config.get("projection_dim", 512)
    for tower, part in parts.items():
        if part.get("pruned_heads"):
            raise CheckpointError(f"gguf: {tower}: pruned_heads have no place there")
        values |= {f"clip.{tower}.{key}": part[own] for key, own in _SIZES.items()}
        values[f"clip.{tower}.projection_dim"] = width
        values[f"clip.{tower}.attention.layer_norm_epsilon"] = float(part["layer_norm_eps"])
    if "text" in parts:
        values["clip.text.context_length"] = parts["text"]["max_position_embeddings"]
        values["tokenizer.ggml.tokens"] = _tokens(files, parts["text"]["vocab_size"])
    if "vision" in parts:
        values |= _pictures(parts["vision"], files)
    return values | {_SCALE: scale, "triclip.config": json.dumps(config)}


def _tokens(files: Mapping[str, bytes], count: int) -> list[str]:
    """The vocabulary in the order of its ids."""
    vocabulary = json.loads(files["vocab.json"]) if "vocab.json" in files else {}
    if not vocabulary and "tokenizer.json" in files:
        vocabulary = json.loads(files["tokenizer.json"])["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if len(tokens) != count:
        raise CheckpointError(
            f"gguf: the vocabulary goes into the file: wanted {count} tokens, found {len(tokens)} in the model's "
            "vocab.json or tokenizer.json"
        )
    return tokens


def _pictures(part: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    from ..image.processor import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    if part.get("num_channels", 3) != 3:
        raise CheckpointError(f"gguf: num_channels: wanted 3, found {part['num_channels']}")
    stated = json.loads(files.get("preprocessor_config.json", b"{}"))
    return {
        "clip.vision.image_size": part["image_size"],
        "clip.vision.patch_size": part["patch_size"],
        "clip.vision.image_mean": list(stated.get("image_mean", OPENAI_CLIP_MEAN)),
        "clip.vision.image_std": list(stated.get("image_std", OPENAI_CLIP_STD)),
    }
