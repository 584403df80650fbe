"""ViT-B/32 image embeddings in Flax: under jit, and as the classes are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models, products
from benchmarks.harness import Pair, Row, Side

ROW = Row(
    title="ViT-B/32 image embeddings, Flax",
    about="Batches of 16 pictures' pixels through `get_image_features`, float32: inside a jax.jit, and called plainly.",
    data=("vit_b32",),
    sides={
        "triclip, jit": Side("triclip", "ours_jit"),
        "HF 4.57, jit": Side("hf4", "peer_jit"),
        "triclip": Side("triclip", "ours"),
        "HF 4.57": Side("hf4", "peer"),
        "products alone": Side("triclip", "ceiling"),
    },
    pairs=(
        Pair("triclip, jit", "HF 4.57, jit", at_least=1.1),
        Pair("triclip", "HF 4.57", at_least=1.5),
        Pair("triclip, jit", "products alone", at_least=0.88, share=True),
    ),
    count=models.BATCH,
    unit="pictures",
    check="same_vectors",
    limits=(
        "The same XLA products on both sides. The last layer for the class token alone is 6.6% fewer of them: 1.07x by "
        "itself. In milliseconds of all cores for 16 pictures, measured beside other work: patches 44 as a product (78 "
        "as a convolution), and a layer: MLP 78 (76 of them products), projections 40, attention 4.7 (6.1 with the "
        "heads behind the tokens), norms 0.7. A picture is 8.2 GFLOP here: the ceiling in the first table over that is "
        "the most there can be."
    ),
)


def ours(data: Path) -> Callable[[], Any]:
    import numpy as np

    model, pixels = models.flax_model(data), models.pixels()
    return lambda: np.asarray(model.get_image_features(pixels))


def peer(data: Path) -> Callable[[], Any]:
    import numpy as np

    model, pixels = models.hf_flax(data), models.pixels()
    return lambda: np.asarray(model.get_image_features(pixels))


def ours_jit(data: Path) -> Callable[[], Any]:
    return _jitted(models.flax_model(data))


def peer_jit(data: Path) -> Callable[[], Any]:
    return _jitted(models.hf_flax(data))


def ceiling(data: Path) -> Callable[[], Any]:
    return products.with_jax(products.vision())


def _jitted(model: Any) -> Callable[[], Any]:
    import jax
    import numpy as np

    pixels = jax.numpy.asarray(models.pixels())
    run = jax.jit(lambda params, x: model.get_image_features(x, params=params))
    return lambda: np.asarray(run(model.params, pixels))


def same_vectors(results: dict[str, Any]) -> str:
    return models.compare(results, 1e-5)
