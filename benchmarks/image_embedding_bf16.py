"""ViT-B/32 image embeddings in PyTorch, bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.harness import Pair, Row, Side
from benchmarks.image_embedding import _features

ROW = Row(
    title="ViT-B/32 image embeddings, PyTorch, bfloat16",
    about="As in float32, weights and computation in bfloat16.",
    data=("vit_b32",),
    sides={
        "triclip": Side("triclip", "ours"),
        "HF 4.57": Side("hf4", "peer"),
        "HF 5.23": Side("hf5", "peer"),
        "triclip, float32": Side("triclip", "exact"),
    },
    pairs=(Pair("triclip", "HF 4.57", at_least=1.25), Pair("triclip", "HF 5.23", at_least=1.25)),
    count=models.BATCH,
    unit="pictures",
    check="near_float32",
    limits=(
        "Both sides' products are oneDNN's. In milliseconds of one core for a layer of 16 pictures, measured beside "
        "other work: transformers' products 56.6, its activation 2.5, attention 3.5, norms and sums 0.8: 63.3, twelve "
        "times; triclip's products with the activation inside 55, attention 3.5, norms and sums 1.1: 59.2, eleven "
        "times, and 14 for the last layer. That is 1.14x. Were all but the products free, it would be 1.27x; weights "
        "packed beforehand would save another 1.8 a layer, but need a second copy that can't tell when the first is "
        "changed. A picture is 8.2 GFLOP here: the ceiling in the first table over that is the most there can be."
    ),
)


def ours(data: Path) -> Callable[[], Any]:
    return _features(models.torch_model(data, "bfloat16"), "bfloat16")


def peer(data: Path) -> Callable[[], Any]:
    return _features(models.hf_torch(data, "bfloat16"), "bfloat16")


def exact(data: Path) -> Callable[[], Any]:
    return _features(models.torch_model(data))


def near_float32(results: dict[str, Any]) -> str:
    import numpy as np

    want = results.pop("triclip, float32")
    errors = {label: float(np.linalg.norm(got - want) / np.linalg.norm(want)) for label, got in results.items()}
    assert max(errors.values()) <= 0.05, errors
    return "Root mean square error against float32: " + ", ".join(f"{k} {v:.2g}" for k, v in errors.items()) + "."
