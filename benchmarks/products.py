"""The ceiling of a model row: the matrix products that the model can't do without, alone, in the same run.

A chain of products with the shapes, the order and the number of weights of ViT-B/32's dense layers; nothing is computed
between them, and no bias is added. Of the last layer, what follows keys and values is for the pooled token alone, as in
triclip. Attention's own products, 2% of them, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import models

LAYERS = 12
VISION, TEXT = 768, 512  # widths
PATCHES, PIXELS = 49, 3072  # patches of a picture, values in a patch


def vision(batch: int = models.BATCH) -> list[tuple[int, int, int]]:
    """(M, K, N) of each product [M, K] @ [K, N] for a batch of pictures."""
    return [(batch * PATCHES, PIXELS, VISION), *tower(batch * (PATCHES + 1), batch, VISION)]


def text(texts: int = models.TEXTS, length: int = models.LENGTH) -> list[tuple[int, int, int]]:
    return tower(texts * length, texts, TEXT)


def tower(tokens: int, pooled: int, width: int) -> list[tuple[int, int, int]]:
    """Of all layers, for so many tokens, of which so many are pooled."""
    square, up, down = (width, width), (width, 4 * width), (4 * width, width)
    whole = [(tokens, *shape) for shape in (square, square, square, square, up, down)]
    last = [(tokens, *square)] * 2 + [(pooled, *shape) for shape in (square, square, up, down)]
    return whole * (LAYERS - 1) + last


def _arrays(shapes: Sequence[tuple[int, int, int]]) -> tuple[Any, list[Any]]:
    """The first factor, and weights [K, N] that keep the size of the numbers."""
    import numpy as np

    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((k, n), np.float32) / np.float32(k**0.5) for _, k, n in shapes]
    return rng.standard_normal(shapes[0][:2], np.float32), weights


def with_torch(shapes: Sequence[tuple[int, int, int]], dtype: str = "float32", times: int = 1) -> Callable[[], Any]:
    """By the operator that triclip takes here (`triclip inspect --machine`, "linear")."""
    import torch

    from clip_core import machine
    from clip_torch import layers

    x, weights = _arrays(shapes)
    x, *weights = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in (x, *(w.T.copy() for w in weights)))
    if getattr(torch, dtype) in (torch.bfloat16, torch.float16) and not layers.computes(getattr(torch, dtype)):
        x, weights = x.float(), [weight.float() for weight in weights]  # what such a processor computes with
    linear = layers.product if machine.choice("linear", layers.avx512) else torch.nn.functional.linear
    rows = [m for m, _, _ in shapes]

    @torch.inference_mode()
    def run() -> None:
        for _ in range(times):
            y = x
            for m, weight in zip(rows, weights, strict=True):
                y = _fitted(y, m, torch.cat)
                y = linear(y, weight, None)

    return run


def with_tf(shapes: Sequence[tuple[int, int, int]]) -> Callable[[], Any]:
    import tensorflow as tf

    x, weights = _arrays(shapes)
    x, weights = tf.constant(x), [tf.constant(weight) for weight in weights]

    @tf.function
    def chain(x: Any, weights: Any) -> Any:
        for (m, _, _), weight in zip(shapes, weights, strict=True):
            x = tf.linalg.matmul(_fitted(x, m, lambda parts: tf.concat(parts, 0)), weight)
        return x

    def run() -> None:
        chain(x, weights).numpy()

    return run


def with_jax(shapes: Sequence[tuple[int, int, int]]) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    x, weights = _arrays(shapes)
    x, weights = jnp.asarray(x), [jnp.asarray(weight) for weight in weights]

    @jax.jit
    def chain(x: Any, weights: Any) -> Any:
        for (m, _, _), weight in zip(shapes, weights, strict=True):
            x = _fitted(x, m, jnp.concatenate) @ weight
        return x

    def run() -> None:
        chain(x, weights).block_until_ready()

    return run


def _fitted(x: Any, rows: int, join: Callable[[Any], Any]) -> Any:
    """The first rows, or one more for each class token (which is seldom: once behind the patches)."""
    if x.shape[0] >= rows:
        return x if x.shape[0] == rows else x[:rows]
    return join([x, x[: rows - x.shape[0]]])
