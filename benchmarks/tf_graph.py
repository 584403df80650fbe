"""ViT-B/32 image embeddings in TensorFlow, as a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models, products
from benchmarks.harness import Pair, Row, Side

ROW = Row(
    title="ViT-B/32 image embeddings, TensorFlow graph",
    about="Batches of 16 pictures' pixels through `tf.function(model.get_image_features)`, float32.",
    data=("vit_b32",),
    sides={
        "triclip": Side("triclip", "ours"),
        "HF 4.57": Side("hf4", "peer", environ={"TF_USE_LEGACY_KERAS": "1"}),
        "products alone": Side("triclip", "ceiling"),
    },
    pairs=(
        Pair("triclip", "HF 4.57", at_least=1.08),
        Pair("triclip", "products alone", at_least=0.88, share=True),
    ),
    count=models.BATCH,
    unit="pictures",
    check="same_vectors",
    limits=(
        "The same oneDNN products on both sides. The last layer for the class token alone is 6.6% fewer of them: 1.07x "
        "by itself. In milliseconds of all cores for a layer of 16 pictures, measured beside other work: MLP 73.6 (72 "
        "of them products; 78.6 with the bias and the activation outside of the products' kernels), projections 40, "
        "attention 4.7, norms 3.2. A picture is 8.2 GFLOP here: the ceiling in the first table over that is the most "
        "there can be."
    ),
)


def ours(data: Path) -> Callable[[], Any]:
    return _features(models.tf_model(data))


def peer(data: Path) -> Callable[[], Any]:
    return _features(models.hf_tf(data))


def ceiling(data: Path) -> Callable[[], Any]:
    return products.with_tf(products.vision())


def _features(model: Any) -> Callable[[], Any]:
    import tensorflow as tf

    pixels = tf.constant(models.pixels())
    graph = tf.function(lambda x: model.get_image_features(x))
    return lambda: graph(pixels).numpy()


def same_vectors(results: dict[str, Any]) -> str:
    return models.compare(results, 1e-5)
