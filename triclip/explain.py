"""Explaining a similarity by the relevance of patches and words.

Two methods, both from attention weights:

- "rollout": the flow from each token into the pooled one when attention is multiplied through the layers, residual
  connections included (Abnar and Zuidema, arXiv:2005.00928). It is independent of the other side of the pair.
- "relevance": the same product, with each layer's attention weighted by the gradient of the pair's logit and clipped to
  positive values (Chefer, Gur and Wolf, arXiv:2103.15679, equations 5 and 6). It explains this pair's similarity.

B 1, L layers, H heads, N patches + 1, S tokens, h and w patches high and wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_core.errors import InputError
from clip_core.weights import is_resnet

from .pipeline import Clip

METHODS = ("relevance", "rollout")
_SHOWN_PIXELS = 224  # a smaller model's picture is enlarged to this


@dataclass(frozen=True)
class Explanation:
    """The explanation of one picture and one text.

    Attributes:
        picture: uint8 [height, width, 3], as the model saw it: resized and cropped, at least 224 pixels high.
        patches: float32 [h, w], at least 0; comparable within the picture.
        words: the text's words, as written.
        word_scores: float32 [words], at least 0; comparable within the text.
        similarity: the pair's cosine.
        method: "relevance" or "rollout".
    """

    picture: np.ndarray
    patches: np.ndarray
    words: tuple[str, ...]
    word_scores: np.ndarray
    similarity: float
    method: str


def explain(clip: Clip, image: Any, text: str, method: str = "relevance", first_layer: int = 0) -> Explanation:
    """Explain the similarity of a picture and a text.

    Args:
        clip: of any backend. Its model is not changed, frozen parameters included.
        image: a path, a Pillow image or an array.
        text: a sentence; truncated to the model's length.
        method: "relevance" (default) or "rollout".
        first_layer: layers before it are left out; -1 uses only the last one, as in the notebook of the authors of
            "relevance" for CLIP. Default all.

    Raises InputError, and ImageError for a picture that can't be read.
    """
    if method not in METHODS:
        raise InputError(f"method: wanted one of {', '.join(METHODS)}, found {method!r}")
    if not isinstance(text, str):
        raise InputError(f"text: wanted one string, found {text!r}")
    if is_resnet(clip.config):
        raise InputError("clip: its vision tower is a ResNet, whose layers have no attention that could be followed")
    if getattr(clip, "text_encoder", None) is not None:
        raise InputError("clip: found one with a text_encoder, whose words can't be looked into: wanted one without")
    count = min(part.num_hidden_layers for part in (clip.config.vision_config, clip.config.text_config))
    if not -count <= first_layer < count:
        raise InputError(f"first_layer: wanted a layer of the model, from {-count} to {count - 1}, found {first_layer}")
    pixels, picture = _pixels(clip, image)
    ids, words, word_of_token = _tokens(clip, text)
    gradients = method == "relevance"
    found = clip.runner.pair_attentions(clip.model, pixels, ids, gradients)
    vision, words_flow = (
        rollout(weights[first_layer:]) if slopes is None else relevance(weights[first_layer:], slopes[first_layer:])
        for weights, slopes in ((found.vision, found.vision_gradients), (found.text, found.text_gradients))
    )
    patch = clip.config.vision_config.patch_size
    grid = pixels.shape[2] // patch, pixels.shape[3] // patch
    from_tokens = words_flow[_end_of_text(clip.config.text_config, ids[0])]
    scores = np.zeros(len(words), np.float32)
    for token, word in enumerate(word_of_token):
        if word is not None:
            scores[word] += from_tokens[token]
    similarity = found.logit / clip.logit_scale
    return Explanation(picture, vision[0, 1:].reshape(grid), words, scores, similarity, method)


def rollout(attentions: np.ndarray) -> np.ndarray:
    """Attention rollout: attentions [L, H, N, N] -> float32 [N, N], rows sum to 1.

    Heads are averaged, attention and residual connection have equal weights, and layers are multiplied (arXiv:
    2005.00928, section 3).
    """
    layers = _checked(attentions, "attentions")
    flow = np.eye(layers.shape[-1])
    for weights in layers:  # the first layer first
        flow = 0.5 * (weights.mean(0) + np.eye(len(flow))) @ flow
    return flow.astype(np.float32)


def relevance(attentions: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Gradient relevance: attentions and the score's gradients [L, H, N, N] -> float32 [N, N], at least 0.

    R starts as the identity; each layer adds mean over heads of max(0, gradient * attention), times R (arXiv:
    2103.15679, equations 5 and 6). The identity, a token's relevance to itself, is subtracted at the end.
    """
    layers, slopes = _checked(attentions, "attentions"), _checked(gradients, "gradients")
    if layers.shape != slopes.shape:
        raise InputError(f"gradients: wanted the attentions' shape {layers.shape}, found {slopes.shape}")
    found = np.eye(layers.shape[-1])
    for weights, slope in zip(layers, slopes, strict=True):
        found = found + np.maximum(weights * slope, 0).mean(0) @ found
    return (found - np.eye(len(found))).astype(np.float32)


def _checked(given: Any, name: str) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != 4 or array.shape[-1] != array.shape[-2] or not array.size or array.dtype.kind != "f":
        raise InputError(f"{name}: wanted floats [layers, heads, N, N], found {array.dtype} {array.shape}")
    return array.astype(np.float64)


def _pixels(clip: Clip, image: Any) -> tuple[np.ndarray, np.ndarray]:
    """(the model's input, float32 [1, C, H, W]; the same part of the picture for display, uint8)."""
    from clip_core.image.input import flatten, load_image

    processor, picture = clip.processor.image_processor, load_image(image)
    if not isinstance(picture, np.ndarray):
        picture = flatten(picture, clip.background)
    pixels = processor([picture], return_tensors="np")["pixel_values"]
    factor = -(-_SHOWN_PIXELS // min(pixels.shape[2:]))
    larger = {
        name: {key: value * factor for key, value in getattr(processor, name).items()}
        for name, used in (("size", processor.do_resize), ("crop_size", processor.do_center_crop))
        if used and processor.do_resize
    }
    options = {"do_rescale": False, "do_normalize": False, "data_format": "channels_last"}
    shown = processor([picture], return_tensors="np", **options, **larger)["pixel_values"][0]
    return pixels, np.clip(np.round(shown), 0, 255).astype(np.uint8)


def _tokens(clip: Clip, text: str) -> tuple[np.ndarray, tuple[str, ...], list[int | None]]:
    """(ids int64 [1, S], the words, the number of each token's word)."""
    limit = clip.config.text_config.max_position_embeddings
    encoded = clip.processor.tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
    spans: dict[int, list[int]] = {}
    word_of_token = encoded.word_ids()
    for word, (start, end) in zip(word_of_token, encoded["offset_mapping"], strict=True):
        if word is not None:
            span = spans.setdefault(word, [start, end])
            span[1] = max(span[1], end)
    numbers = {word: i for i, word in enumerate(spans)}
    words = tuple(text[start:end] for start, end in spans.values())
    found = [None if word is None else numbers[word] for word in word_of_token]
    return np.array([encoded["input_ids"]], np.int64), words, found


def _end_of_text(config: Any, ids: np.ndarray) -> int:
    """The position of the pooled token: see `CLIPTextTransformer.end_of_text`."""
    return int(ids.argmax() if config.eos_token_id == 2 else (ids == config.eos_token_id).argmax())
