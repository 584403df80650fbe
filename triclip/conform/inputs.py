"""The inputs of a comparison: given pictures and sentences, or synthetic ones, through the checkpoint's processor."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import InputError

from .trace import Trace

TEXTS = (
    "a photo of a cat",
    "two dogs playing in the snow",
    "red",
    "a diagram that shows how light is bent by a glass of water on a table near a window",
)


def make_inputs(folder: Path, config: Any, scope: str, images: Any, texts: Any) -> tuple[Trace, list[Any], list[str]]:
    """(the call's arrays, their pictures, notes)."""
    arrays: Trace = {}
    pictures: list[Any] = []
    notes: list[str] = []
    text = getattr(config, "text_config", config) if not scope.startswith("vision") else None
    vision = getattr(config, "vision_config", config) if not scope.startswith("text") else None
    if images is not None and vision is None or texts is not None and text is None:
        raise InputError(f"{folder}: {'images' if vision is None else 'texts'}: this model is one tower and takes none")
    if text is not None:
        arrays |= _texts(folder, text, texts, notes)
    if vision is not None:
        pictures = made_up_pictures(vision.image_size) if images is None else load_pictures(images)
        arrays["pixel_values"] = image_processor(folder, vision)(pictures, return_tensors="np")["pixel_values"]
        arrays["pixel_values"] = np.asarray(arrays["pixel_values"], np.float32)
    return arrays, pictures, notes


def _texts(folder: Path, config: Any, texts: Sequence[str] | None, notes: list[str]) -> Trace:
    limit = config.max_position_embeddings
    tokenizer = _tokenizer(folder, config)
    if tokenizer is not None:
        given = [texts] if isinstance(texts, str) else list(TEXTS if texts is None else texts)
        if not given:
            raise InputError("texts: wanted at least one sentence, found none")
        coded = tokenizer(given, padding=True, truncation=True, max_length=limit, return_tensors="np")
        arrays = {name: np.asarray(coded[name], np.int64) for name in ("input_ids", "attention_mask")}
        if arrays["input_ids"].max() < config.vocab_size:
            return arrays
    if texts is not None:
        raise InputError(f"{folder}: texts: there is no tokenizer for this vocabulary of {config.vocab_size} tokens")
    notes.append("no tokenizer: random token ids")
    length = min(limit, 12)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (4, length))
    mask = np.ones_like(ids)
    if 0 <= config.eos_token_id < config.vocab_size:
        for row, end in enumerate(range(length - 1, max(length - 5, -1), -1)):
            ids[row, end:], mask[row, end + 1 :] = config.eos_token_id, 0
    return {"input_ids": ids, "attention_mask": mask}


def _tokenizer(folder: Path, config: Any) -> Any:
    from clip_core.text.tokenizer import CLIPTokenizerFast

    if folder.is_dir() and any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return CLIPTokenizerFast.from_pretrained(folder)
    tokenizer = CLIPTokenizerFast()
    return tokenizer if len(tokenizer) == config.vocab_size else None


def image_processor(folder: Path, config: Any) -> Any:
    """The checkpoint's own, or OpenAI's preprocessing at the model's picture size."""
    from clip_core.image.processor import CLIPImageProcessor

    if folder.is_dir() and any((folder / f"{n}_config.json").is_file() for n in ("preprocessor", "processor")):
        return CLIPImageProcessor.from_pretrained(folder)
    side = config.image_size
    if config.num_channels != 3:
        raise InputError(f"{folder}: images: no preprocessor_config.json, and {config.num_channels} channels")
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def load_pictures(images: Any) -> list[Any]:
    """Paths opened as pictures, folders and patterns expanded; pictures and arrays unchanged."""
    from clip_core.image.input import load_image

    from ..pipeline import expand_images

    return [load_image(image) for image in expand_images(images)]


def made_up_pictures(side: int) -> list[Any]:
    """Four synthetic RGB pictures of unusual sizes: a colour ramp, a checkerboard, noise, and rings on white."""
    from PIL import Image

    ratios = ((1.31, 1.0), (1.0, 1.52), (0.77, 0.62), (2.3, 2.1))
    sizes = [(max(int(side * a), 2), max(int(side * b), 2)) for a, b in ratios]
    makers = (_ramp, _checkerboard, _noise, _rings)
    return [Image.fromarray(make(*size)) for make, size in zip(makers, sizes, strict=True)]


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:height, 0:width]
    return y / height, x / width


def _ramp(height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    return (np.stack([y, x, 1 - y * x], -1) * 255).astype(np.uint8)


def _checkerboard(height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    dark = (np.floor(y * 5) + np.floor(x * 7)) % 2
    return np.stack([dark * 230 + 12, dark * 90 + 60, 240 - dark * 200], -1).astype(np.uint8)


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _rings(height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    rings = np.sin(40 * np.hypot(y - 0.5, x - 0.5)) > 0
    return np.where(rings[..., None], np.array([200, 30, 60]), 255).astype(np.uint8)


def preprocessing_variants(folder: Path, config: Any, pictures: Sequence[Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(kind, description, pixel values) of the same pictures in other programs' preprocessings."""
    processor = image_processor(folder, config)
    side = processor.crop_size if processor.crop_size else {"height": config.image_size, "width": config.image_size}
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    openai = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    variants: list[tuple[str, str, dict[str, Any]]] = [
        ("normalisation", "no mean and deviation (do_normalize=False)", {"do_normalize": False}),
        ("normalisation", "mean 0.5 and deviation 0.5", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
        ("normalisation", "ImageNet's mean and deviation", imagenet),
        ("normalisation", "OpenAI's mean and deviation", openai),
        ("normalisation", "pixels from 0 to 255 (do_rescale=False)", {"do_rescale": False}),
        ("normalisation", "pixels rescaled twice", {"rescale_factor": processor.rescale_factor**2}),
        ("crop", "torchvision's resizing and crop (the open_clip profile)", {"profile": "open_clip"}),
        ("crop", "OpenAI's resizing and crop (the openai profile)", {"profile": "openai"}),
        ("crop", "transformers' resizing and crop (the hf profile)", {"profile": "hf"}),
        ("crop", "pictures squeezed to a square, not cropped", {"size": side, "do_center_crop": False}),
        ("resampling", "bilinear resampling", {"resample": 2}),
        ("resampling", "nearest-pixel resampling", {"resample": 0}),
        ("resampling", "Lanczos resampling", {"resample": 1}),
        ("resampling", "bicubic resampling", {"resample": 3}),
    ]
    for kind, words, options in variants:
        changed = copy_with_profile(processor, options.pop("profile", None))
        pixels = changed(list(pictures), return_tensors="np", **options)["pixel_values"]
        yield kind, words, np.asarray(pixels, np.float32)


def copy_with_profile(processor: Any, profile: str | None) -> Any:
    changed = copy.deepcopy(processor)
    if profile is not None:
        changed.profile = profile
    return changed
