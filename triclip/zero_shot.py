"""Zero-shot classification: one unit vector per label, the mean over sentences with the label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from clip_core.errors import InputError

DEFAULT_TEMPLATES = ("a photo of a {}.",)


def as_templates(templates: str | Iterable[str]) -> list[str]:
    """One template or several, each with one `{}` for the label. Raises InputError otherwise."""
    templates = [templates] if isinstance(templates, str) else list(templates)
    if not templates:
        raise InputError("templates: wanted at least one, found none")
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise InputError(f"templates: wanted a sentence with {{}} for the label, found {template!r}")
    return templates


def as_labels(labels: Iterable[str], distinct: bool = True) -> list[str]:
    """A list of labels. Raises InputError for no labels, a single string, other values than strings, empty strings,
    and, unless allowed, duplicates."""
    if isinstance(labels, str):
        raise InputError(f"labels: wanted a list of strings, found the string {labels!r}")
    labels = list(labels)
    if not labels:
        raise InputError("labels: wanted at least one, found none")
    for label in labels:
        if not isinstance(label, str):
            raise InputError(f"labels: wanted strings, found {label!r}")
        if not label.strip():
            raise InputError(f"labels: wanted words, found the empty label {label!r}")
    if distinct and len(set(labels)) < len(labels):
        twice = next(label for i, label in enumerate(labels) if label in labels[:i])
        raise InputError(f"labels: wanted distinct labels, found {twice!r} twice: their probabilities would be shared")
    return labels


def zero_shot_head(
    encode: Callable[[list[str]], np.ndarray], labels: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Unit columns [P, C]: for each label the normalised mean of its sentences' unit vectors (OpenAI's recipe).

    `encode` maps sentences to unit rows [N, P].
    """
    sentences = [template.replace("{}", label) for label in labels for template in templates]
    vectors = encode(sentences).reshape(len(labels), len(templates), -1)
    return unit(vectors.mean(axis=1)).T


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Classification:
    """Probabilities of every label for every picture.

    Attributes:
        labels: C strings.
        probabilities: float32 [pictures, C], each row sums to 1.
        sources: the picture of each row; empty if vectors were classified.
        skipped: (picture, reason) of unreadable ones.

    Index or iterate for the ranked (label, probability) pairs of each picture; a slice is a Classification.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    sources: tuple[Any, ...] = ()
    skipped: tuple[tuple[Any, str], ...] = ()

    def __len__(self) -> int:
        return len(self.probabilities)

    @overload
    def __getitem__(self, index: int) -> list[tuple[str, float]]: ...
    @overload
    def __getitem__(self, index: slice) -> Classification: ...
    def __getitem__(self, index: int | slice) -> list[tuple[str, float]] | Classification:
        if isinstance(index, slice):
            return replace(self, probabilities=self.probabilities[index], sources=self.sources[index])
        row = self.probabilities[index]
        return [(self.labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")]

    def __iter__(self) -> Iterator[list[tuple[str, float]]]:
        return (self[i] for i in range(len(self)))

    @property
    def best(self) -> list[str]:
        """The most probable label of each picture."""
        return [self.labels[i] for i in self.probabilities.argmax(axis=-1)]
