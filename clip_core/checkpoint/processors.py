"""Tokenizer and preprocessor files that belong to a checkpoint: taken along, or made where the source has none."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..reading import MAX_JSON, read_json_object
from .locate import in_hub_cache

if TYPE_CHECKING:
    from .opened import Checkpoint

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
_STANDARD_VOCABULARY = 49408
_BICUBIC, _BILINEAR = 3, 2
# Where a diffusers pipeline keeps what belongs to a component's folder
_PIPELINE = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "image_encoder": "feature_extractor"}
# Encoders trained by open_clip that pad with "!", id 0, as Stable Diffusion 2's and SDXL's tokenizers say
_ZERO_PADDED = ("cond_stage_model.model.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model.")


def present(read: Checkpoint) -> dict[str, Path]:
    """name -> path of the processor files that a checkpoint has."""
    if read.found is None or read.folder is None:
        return {}
    found = {name: read.found.file(name) for name in TOKENIZER_FILES + IMAGE_FILES}
    if read.dialect == "kerashub":  # its tokenizer.json is another thing
        assets = read.folder / "assets" / "tokenizer"
        del found["tokenizer.json"]
        found |= {"vocab.json": assets / "vocabulary.json", "merges.txt": assets / "merges.txt"}
    other = _PIPELINE.get(read.folder.name)
    if other:
        beside = read.folder.parent / other
        found |= {name: beside / name for name, path in found.items() if not path.is_file()}
    return {name: path for name, path in found.items() if path.is_file()}


def collect(read: Checkpoint, config: Mapping[str, Any], notes: list[str]) -> dict[str, bytes]:
    """name -> content of the files that go with a checkpoint.

    Those of the source are copied; where there are none, OpenAI's vocabulary (when its size fits) and preprocessing
    (open_clip's statistics, when the source states them) are written, and a note says so.
    """
    files = {}
    for name, path in present(read).items():
        refuse_link(path)
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are too many for such a file")
        files[name] = path.read_bytes()
    towers = {tower for tower in ("text", "vision") if any(n.startswith(f"{tower}_model.") for n in read.tensors)}
    if "text" in towers and not {"tokenizer.json", "vocab.json"} & set(files):
        files |= _bundled_tokenizer(config.get("text_config", config), read.prefix, notes)
    if "vision" in towers and not set(IMAGE_FILES) & set(files):
        files |= _image_processor(read, config.get("vision_config", config), notes)
    return files


def refuse_link(path: Path) -> None:
    """A link that leaves the folder is not copied, so that a checkpoint can't carry off another file's content."""
    if path.is_symlink() and path.resolve().parent != path.parent.resolve() and not in_hub_cache(path):
        raise CheckpointError(f"{path}: a link that leaves the folder is not copied: replace it by the file")


def _bundled_tokenizer(config: Mapping[str, Any], prefix: str, notes: list[str]) -> dict[str, bytes]:
    if config.get("vocab_size") != _STANDARD_VOCABULARY:
        notes.append(f"no tokenizer files: OpenAI's vocabulary doesn't fit vocab_size {config.get('vocab_size')}")
        return {}
    from ..text.tokenizer import CLIPTokenizerFast

    pad = {"pad_token": "!"} if prefix in _ZERO_PADDED else {}
    notes.append("the source has no tokenizer files: OpenAI's vocabulary was written")
    return _saved(CLIPTokenizerFast(**pad, model_max_length=config.get("max_position_embeddings", 77)))


def _image_processor(read: Checkpoint, config: Mapping[str, Any], notes: list[str]) -> dict[str, bytes]:
    from ..image.processor import CLIPImageProcessor

    side = int(config["image_size"])
    options: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    stated = read.found.file("open_clip_config.json") if read.found and read.folder else None
    pictures = json.loads(read.metadata["gguf"]) if "gguf" in read.metadata else {}
    if "clip.vision.image_mean" in pictures:
        options |= {
            key: [float(f"{x:.8g}") for x in pictures[f"clip.vision.{key}"]] for key in ("image_mean", "image_std")
        }
    elif stated is not None and stated.is_file():
        options |= from_open_clip(read_json_object(stated).get("preprocess_cfg"), side, notes)
    else:
        notes.append(f"the source has no preprocessor: OpenAI's, at {side} pixels, was written")
    return _saved(CLIPImageProcessor(**options))


def _saved(part: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        part.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def from_open_clip(stated: Any, side: int, notes: list[str]) -> dict[str, Any]:
    """open_clip's preprocess_cfg as arguments of CLIPImageProcessor."""
    stated = stated if isinstance(stated, dict) else {}
    options: dict[str, Any] = {}
    for own, other in (("image_mean", "mean"), ("image_std", "std")):
        if stated.get(other) is not None:
            value = stated[other]
            options[own] = list(value) if isinstance(value, list | tuple) else [value] * 3
    if stated.get("interpolation") == "bilinear":
        options["resample"] = _BILINEAR
    mode = stated.get("resize_mode", "shortest")
    if mode == "squash":
        options |= {"size": {"height": side, "width": side}, "do_center_crop": False}
    elif mode != "shortest":
        notes.append(f"open_clip's resize_mode {mode!r} has no counterpart: 'shortest' was written")
    return options


def to_open_clip(files: Mapping[str, bytes]) -> dict[str, Any]:
    """preprocess_cfg for the preprocessor among some files; empty (open_clip's defaults, OpenAI's) without one."""
    stated: dict[str, Any] = {}
    for name in reversed(IMAGE_FILES):
        if name in files:
            try:
                content = json.loads(files[name])
            except (ValueError, RecursionError) as error:
                raise CheckpointError(f"{name}: not a JSON file: {error}") from None
            inner = content.get("image_processor", content) if isinstance(content, dict) else None
            stated = inner if isinstance(inner, dict) else {}
    result = {other: stated[own] for own, other in (("image_mean", "mean"), ("image_std", "std")) if own in stated}
    if stated.get("resample") in (_BICUBIC, _BILINEAR):
        result["interpolation"] = "bicubic" if stated["resample"] == _BICUBIC else "bilinear"
    if stated:
        squash = isinstance(stated.get("size"), dict) and "height" in stated["size"]
        result["resize_mode"] = "squash" if squash else "shortest"
    return result
