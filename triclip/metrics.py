"""Retrieval and zero-shot metrics from vectors, in blocks, without a matrix of all pairs.

In retrieval, ties count against the model: a wrong candidate with the same score ranks before the right one, so that
equal vectors score zero. In zero-shot classification ties go to the first class, as with `argmax`: two classes of one
name (ImageNet has two such pairs) share their credit. open_clip's `topk` takes either of them, which is the same on
average.

Products are summed in float64 and compared in float32, so that equal vectors tie at any place in a block, and results
depend neither on the block's size nor on the BLAS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clip_core.errors import InputError

DEPTHS = (1, 5, 10)
_BLOCK = 2048


def retrieval(
    image_vectors: Any, text_vectors: Any, image_of_text: Any, text_counts: Any = None, block: int = _BLOCK
) -> dict[str, Any]:
    """Retrieval metrics in both directions.

    Args:
        image_vectors, text_vectors: [N, P] and [M, P]; compared by their dot products, so usually of unit length.
        image_of_text: int [M], the picture of each text (a picture may have several texts); or int [K, 2], pairs
            (picture, text), if a text belongs to several pictures.
        text_counts: int [M], the number of occurrences of each text, if equal texts were merged; default 1.
        block: rows and columns that are compared at a time; results do not depend on it.

    Returns {"image_to_text": {"R@1", "R@5", "R@10", "MRR"}, "text_to_image": {...}, "images": N, "texts": M}.
    R@k: the share of queries with a right answer among the first k; MRR: the mean of 1 / rank of the first right
    answer. Pictures without a text are candidates but not queries. Raises InputError naming the argument.
    """
    images, texts = _vectors(image_vectors, "image_vectors"), _vectors(text_vectors, "text_vectors")
    if images.shape[1] != texts.shape[1]:
        raise InputError(f"text_vectors: wanted width {images.shape[1]} as image_vectors, found {texts.shape[1]}")
    pairs = _pairs(image_of_text, len(images), len(texts))
    counts = _counts(text_counts, len(texts))
    of_images, of_texts = _ranks(images, texts, pairs, counts, block)
    asking = np.isin(np.arange(len(images)), pairs[:, 0])
    return {
        "image_to_text": _figures(of_images[asking], np.ones(int(asking.sum()))),
        "text_to_image": _figures(of_texts, counts),
        "images": len(images),
        "texts": int(counts.sum()),
    }


def _ranks(
    images: np.ndarray, texts: np.ndarray, pairs: np.ndarray, counts: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rank, from 1, of each picture's best text and of each text's best picture."""
    best_image, best_text = np.full(len(images), -np.inf, np.float32), np.full(len(texts), -np.inf, np.float32)
    for rows in _blocks(len(pairs), block):
        own_images, own_texts = pairs[rows].T
        own = np.einsum("kp,kp->k", images[own_images], texts[own_texts], dtype=np.float64).astype(np.float32)
        np.maximum.at(best_image, own_images, own)
        np.maximum.at(best_text, own_texts, own)
    image_ranks, text_ranks = np.ones(len(images)), np.ones(len(texts))
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    for rows in _blocks(len(images), block):
        left, right = np.searchsorted(pairs[:, 0], [rows.start, rows.stop])
        here = pairs[left:right]
        for columns in _blocks(len(texts), block):
            scores = _scores(images[rows], texts[columns])
            inside = here[(here[:, 1] >= columns.start) & (here[:, 1] < columns.stop)]
            scores[inside[:, 0] - rows.start, inside[:, 1] - columns.start] = -np.inf  # right ones never outrank
            image_ranks[rows] += (scores >= best_image[rows, None]) @ counts[columns]
            text_ranks[columns] += (scores >= best_text[columns]).sum(0)
    return image_ranks, text_ranks


def _classified(image_vectors: Any, head: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked inputs: pictures [N, P], the head's columns as rows [C, P], the pictures' true classes [N]."""
    images, columns = _vectors(image_vectors, "image_vectors"), _vectors(np.asarray(head).T, "head")
    if images.shape[1] != columns.shape[1]:
        raise InputError(f"head: wanted {images.shape[1]} rows as image_vectors has columns, found {columns.shape[1]}")
    labels = _numbers(labels, "labels", len(images), len(columns))
    return images, columns, labels


def class_ranks(image_vectors: Any, head: Any, labels: Any, block: int = _BLOCK) -> np.ndarray:
    """The rank, from 1, of each picture's true class: int [N]. `head`: columns [P, C]; `labels`: int [N].

    Of classes with equal scores, the first has the better rank.
    """
    images, columns, labels = _classified(image_vectors, head, labels)
    ranks = np.empty(len(images), np.int64)
    for rows in _blocks(len(images), block):
        scores = _scores(images[rows], columns)
        right = scores[np.arange(len(scores)), labels[rows]]
        before = np.arange(len(columns)) < labels[rows, None]
        ranks[rows] = 1 + (scores > right[:, None]).sum(1) + ((scores == right[:, None]) & before).sum(1)
    return ranks


def predicted_classes(image_vectors: Any, head: Any, labels: Any, block: int = _BLOCK) -> np.ndarray:
    """The predicted class of each picture: int [N], the first of those with the highest score.

    `head`: columns [P, C]; `labels`: int [N], the pictures' true classes.
    """
    images, columns, labels = _classified(image_vectors, head, labels)
    found = np.empty(len(images), np.int64)
    for rows in _blocks(len(images), block):
        found[rows] = _scores(images[rows], columns).argmax(1)
    return found


def accuracy(ranks: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """{"top1", "top5", "mean_per_class", "images"} from `class_ranks`; the mean is over the classes that occur."""
    ranks, labels = np.asarray(ranks), np.asarray(labels)
    if not len(ranks):
        raise InputError("ranks: wanted at least one picture, found none")
    hits = ranks == 1
    _, number = np.unique(labels, return_inverse=True)
    per_class = np.bincount(number, hits) / np.bincount(number)
    return {
        "top1": float(hits.mean()),
        "top5": float((ranks <= 5).mean()),
        "mean_per_class": float(per_class.mean()),
        "images": len(ranks),
    }


def zero_shot(image_vectors: Any, head: Any, labels: Any) -> dict[str, Any]:
    """Zero-shot classification: the metrics of `accuracy`, for pictures [N, P], a head [P, C] and classes int [N]."""
    return accuracy(class_ranks(image_vectors, head, labels), np.asarray(labels))


def _scores(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows.astype(np.float64) @ columns.astype(np.float64).T).astype(np.float32)


def _figures(ranks: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    figures = {f"R@{depth}": float(np.average(ranks <= depth, weights=counts)) for depth in DEPTHS}
    return {**figures, "MRR": float(np.average(1 / ranks, weights=counts))}


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _vectors(given: Any, name: str) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise InputError(f"{name}: wanted rows of numbers [N, P], found {array.dtype} {array.shape}")
    if not np.isfinite(array).all():  # no score is above NaN, so every rank would be the first
        raise InputError(f"{name}: wanted finite numbers, found NaN or infinity")
    return array


def _pairs(given: Any, images: int, texts: int) -> np.ndarray:
    """Distinct pairs (picture, text)."""
    array = np.asarray(given)
    if array.ndim == 1:
        array = np.stack([_numbers(array, "image_of_text", texts, images), np.arange(texts)], 1)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise InputError(f"image_of_text: wanted integers [M] or [K, 2], found {array.dtype} {array.shape}")
    _numbers(array[:, 0], "image_of_text", len(array), images)
    _numbers(array[:, 1], "image_of_text", len(array), texts)
    if len(np.unique(array[:, 1])) != texts:
        raise InputError("image_of_text: wanted a picture for every text, found texts without")
    return np.unique(array.astype(np.int64), axis=0)


def _numbers(given: Any, name: str, count: int, limit: int) -> np.ndarray:
    array = np.asarray(given)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(f"{name}: wanted {count} integers, found {array.dtype} {array.shape}")
    if count and not 0 <= array.min() <= array.max() < limit:
        raise InputError(f"{name}: wanted numbers from 0 to {limit - 1}, found {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _counts(given: Any, count: int) -> np.ndarray:
    if given is None:
        return np.ones(count)
    array = np.asarray(given)
    if array.shape != (count,) or array.dtype.kind not in "iu" or array.min() < 1:
        raise InputError(f"text_counts: wanted {count} integers from 1, found {array.dtype} {array.shape}")
    return array.astype(np.float64)
