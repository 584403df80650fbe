"""ViT-B/32 in int8 on a CPU: pictures and texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.harness import Pair, Row, Side

ROW = Row(
    title="ViT-B/32 in int8",
    about=(
        "Batches of 16 pictures' pixels, and of 64 texts of 16 tokens: `Clip.from_pretrained(name, dtype='int8')`, and "
        "the exported towers in ONNX Runtime, as its `quantize_dynamic` makes them and in float32."
    ),
    data=("vit_b32", "onnx"),
    sides={
        "triclip": Side("triclip", "ours"),
        "ONNX Runtime int8": Side("onnx", "peer"),
        "ONNX Runtime float32": Side("onnx", "peer_float32"),
        "triclip, texts": Side("triclip", "ours_texts", count=models.TEXTS),
        "ONNX Runtime int8, texts": Side("onnx", "peer_texts", count=models.TEXTS),
    },
    pairs=(
        Pair("triclip", "ONNX Runtime int8", at_least=1.0),
        Pair("triclip", "ONNX Runtime float32"),
        Pair("triclip, texts", "ONNX Runtime int8, texts", at_least=1.0),
    ),
    count=models.BATCH,
    unit="pictures",
    check="near_float32",
    limits=(
        "Both sides' encoders are ONNX Runtime's. Here the last layer is computed for the pooled token alone and "
        "attention by one operator; embeddings, the first convolution of pictures and the projections are PyTorch's, "
        "in float32: an eighth of a picture's time where int8 products are quickest (AMX)."
    ),
)


def ours(data: Path) -> Callable[[], Any]:
    clip, pixels = _clip(data), models.pixels()
    return lambda: clip.runner.image_features(clip.model, pixels)


def ours_texts(data: Path) -> Callable[[], Any]:
    clip, ids = _clip(data), models.ids()
    return lambda: clip.runner.text_features(clip.model, ids)


def _clip(data: Path) -> Any:
    from triclip import Clip

    return Clip.from_pretrained(data / "vit_b32", dtype="int8")


def peer(data: Path) -> Callable[[], Any]:
    return _run(models.onnx_session(data, "vision_int8"), models.pixels())


def peer_float32(data: Path) -> Callable[[], Any]:
    return _run(models.onnx_session(data, "vision"), models.pixels())


def peer_texts(data: Path) -> Callable[[], Any]:
    return _run(models.onnx_session(data, "text_int8"), models.ids())


def _run(session: Callable[[Any], Any], array: Any) -> Callable[[], Any]:
    return lambda: session(array)


def near_float32(results: dict[str, Any]) -> str:
    import numpy as np

    unit = {label: x / np.linalg.norm(x, axis=1, keepdims=True) for label, x in results.items()}
    want = unit.pop("ONNX Runtime float32")
    least = {label: float((x * want).sum(1).min()) for label, x in unit.items() if "texts" not in label}
    assert min(least.values()) > 0.99, least
    return "Least cosine of a picture to float32: " + ", ".join(f"{k} {v:.4f}" for k, v in least.items()) + "."
