"""ViT-B/32 image embeddings in PyTorch, bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models, products
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
        "products alone": Side("triclip", "ceiling"),
    },
    pairs=(
        Pair("triclip", "HF 4.57", at_least=1.25),
        Pair("triclip", "HF 5.23", at_least=1.25),
        Pair("triclip", "triclip, float32", at_most=1.25),
        Pair("triclip", "triclip, float32", at_most=0.65, of="peak"),
        Pair("triclip", "products alone", at_least=0.88, share=True),
    ),
    count=models.BATCH,
    unit="pictures",
    check="near_float32",
    limits=(
        "Both sides' products are oneDNN's. In triclip they are 90% of one core's time, at 205 GFLOP a second, half of "
        "the ceiling of two cores in the first table; attention is 6.5%. Were all but the products free, it would be "
        "1.11x faster; weights packed beforehand would save 3%, but need a second copy that can't tell when the first "
        "is changed."
    ),
)


def ours(data: Path) -> Callable[[], Any]:
    return _features(models.torch_model(data, "bfloat16"), "bfloat16")


def peer(data: Path) -> Callable[[], Any]:
    return _features(models.hf_torch(data, "bfloat16"), "bfloat16")


def ceiling(data: Path) -> Callable[[], Any]:
    return products.with_torch(products.vision(), "bfloat16")


def exact(data: Path) -> Callable[[], Any]:
    return _features(models.torch_model(data))


def near_float32(results: dict[str, Any]) -> str:
    import numpy as np

    want = results.pop("triclip, float32")
    found = {label: got for label, got in results.items() if got is not None}
    errors = {label: float(np.linalg.norm(got - want) / np.linalg.norm(want)) for label, got in found.items()}
    assert max(errors.values()) <= 0.05, errors
    return "Root mean square error against float32: " + ", ".join(f"{k} {v:.2g}" for k, v in errors.items()) + "."
