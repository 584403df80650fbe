"""The config that a checkpoint's own files state: config.json, open_clip's, KerasHub's, or one in the weight file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..reading import is_there, read_json_object
from . import clip_cpp, resnet
from .foreign_config import from_kerashub, from_open_clip
from .opened import Checkpoint

CLIP_TYPES = ("clip", "clip_text_model", "clip_vision_model", resnet.FULL_KIND, resnet.KIND)


class Stated(NamedTuple):
    """config: in Hugging Face's form. hugging_face: what it leaves out has CLIPConfig's defaults; else it states all
    that shapes don't. path: the file, for messages."""

    config: dict[str, Any]
    hugging_face: bool
    path: Path


def stated(read: Checkpoint) -> Stated | None:
    """What the checkpoint states; None: nothing. Raises CheckpointError for a config of another architecture."""
    if read.found is not None and read.found.folder is not None:
        found = _in_folder(read)
    else:
        found = None
    if found is None and "config" in read.metadata:
        found = _inside(read)
    if found is None and read.dialect == "gguf":
        path = read.files[0]
        found = Stated(clip_cpp.config(json.loads(read.metadata["gguf"]), path), False, path)
    if found is not None and found.hugging_face:
        check_kind(found.config, str(found.path))
    return found


def check_kind(config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError unless a config in Hugging Face's form is a CLIP's."""
    kind = config.get("model_type")
    if kind is not None and kind not in CLIP_TYPES:
        raise CheckpointError(f"{where}: wanted a CLIP, found model_type {str(kind)[:60]!r}")


def _in_folder(read: Checkpoint) -> Stated | None:
    assert read.found is not None
    path = read.found.file("config.json")
    content = read_json_object(path) if is_there(path) else {}
    if "class_name" in content:
        return Stated(_with_kept(from_kerashub(content, path), read.found.file("metadata.json")), False, path)
    if content.get("model_type") or "text_config" in content or "hidden_size" in content:
        return Stated(content, True, path)
    other = read.found.file("open_clip_config.json")
    if is_there(other):
        return Stated(from_open_clip(read_json_object(other), other), False, other)
    return Stated(content, True, path) if content and read.dialect.startswith("hf") else None


def _inside(read: Checkpoint) -> Stated | None:
    path = read.files[0]
    try:
        content = json.loads(read.metadata["config"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the config inside can't be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: the config inside: wanted a JSON object, found {type(content).__name__}")
    if "class_name" in content:
        return Stated(from_kerashub(content, path), False, path)
    known = content.get("model_type") or "text_config" in content or "hidden_size" in content
    return Stated(content, True, path) if known else None  # other programs keep other things under this name


def _with_kept(own: dict[str, Any], metadata: Path) -> dict[str, Any]:
    """KerasHub's config with what our writer kept of the Hugging Face one; KerasHub's own values win.

    KerasHub pools at the largest id. Where that is the kept end of text's, the kept one says the same.
    """
    kept = read_json_object(metadata).get("transformers_config") if is_there(metadata) else None
    if not isinstance(kept, dict) or not all(isinstance(kept.get(key), dict) for key in own):
        return own
    parts = {key: {**kept[key], **part} for key, part in own.items()}
    text = kept["text_config"]
    if pools_at_largest(text):
        parts["text_config"]["eos_token_id"] = text.get("eos_token_id", 49407)
    return {**kept, **parts}


def pools_at_largest(text: Mapping[str, Any]) -> bool:
    """Whether a text config's rule of pooling finds the place of the largest id in every text that has its end."""
    end = text.get("eos_token_id", 49407)
    return end == 2 or end == text.get("vocab_size", 49408) - 1


def beside(read: Checkpoint, fits: Any) -> Stated | None:
    """A config.json in the folder of a single file, when it is a CLIP's and `fits(content)`."""
    if read.found is None:
        return None
    path = read.found.file("config.json")
    content = read_json_object(path) if is_there(path) else {}
    if content.get("model_type") not in CLIP_TYPES or not fits(content):
        return None
    return Stated(content, True, path)
