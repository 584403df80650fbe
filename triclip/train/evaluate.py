"""Retrieval and zero-shot evaluation on image-text data, of a model in training or of any `Clip`.

`evaluate_clip` is `triclip evaluate`; `Evaluator` runs during training. Both compute the same metrics
(`triclip.metrics`), independent of the batch size and the number of processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from clip_core.errors import DataError, InputError

from .. import metrics
from ..zero_shot import DEFAULT_TEMPLATES, as_templates, unit
from .config import TrainConfig
from .engine import Process
from .labels import check_labels, column, default_templates, names_in_data, numbered, read_labels
from .memory import explained

Paths = Sequence[str | os.PathLike] | str | os.PathLike
_ALONE = Process(0, 1)


class Encoder(Protocol):
    """Embeds pictures and texts: an Engine, or a `ClipEncoder`. See `engine.Engine` for the three methods."""

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray: ...

    def text_features(self, input_ids: np.ndarray) -> np.ndarray: ...

    def gather(self, rows: np.ndarray) -> np.ndarray: ...


class Predictions(NamedTuple):
    """Names of C classes; int [N] each, numbers into them: the pictures' true and predicted classes."""

    names: list[str]
    truth: np.ndarray
    predicted: np.ndarray


class Stopped(Exception):
    """The run was asked to stop during an evaluation."""


# -- of a Clip --------------------------------------------------------------------------------------------------------


class ClipEncoder:
    """A `Clip` as an Encoder, in one process."""

    def __init__(self, clip: Any) -> None:
        self._model, self._runner = clip.model, clip.runner
        self._none = np.empty((0, clip.config.projection_dim), np.float32)  # the model gets no empty batches

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        return unit(self._runner.image_features(self._model, pixel_values)) if len(pixel_values) else self._none

    def text_features(self, input_ids: np.ndarray) -> np.ndarray:
        if not len(input_ids):
            return self._none
        return unit(self._runner.text_features(self._model, _without_padding(input_ids).astype(np.int64)))

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return rows


def evaluate_clip(
    clip: Any,
    retrieval: Paths | None = None,
    zero_shot: Paths | None = None,
    labels: str | os.PathLike | Sequence[str] | None = None,
    templates: Sequence[str] | str | None = None,
    *,
    format: str = "auto",
    image_key: str | None = None,
    caption_key: str | None = None,
    label_key: str | None = None,
    batch_size: int = 64,
    progress: bool | None = None,
    predictions: list[Predictions] | None = None,
) -> dict[str, Any]:
    """Metrics of a model on data of any format that `triclip.data` reads.

    Args:
        clip: a `clip_core.Clip`, of any backend.
        retrieval: image-text data: files, folders or patterns.
        zero_shot: image-label data; also a folder with a folder of pictures per class.
        labels: a file of one label per line, a list, or "imagenet"; default the names in the data. Numbers in the data
            are line numbers, from 0, or, if the data name them, stand for the lines with these names. With numbers, a
            name may be that of several classes, as two of ImageNet's are.
        templates: sentences with {} for the label; default the model's own (`clip.templates`), with "imagenet" OpenAI's
            80.
        format, image_key, caption_key, label_key: see `triclip.data.open_source`.
        batch_size: samples per batch; the metrics do not depend on it.
        progress: None shows a bar on a terminal if it takes a while.
        predictions: a list to which the zero-shot predictions of every picture are appended.

    Returns {"retrieval": …, "zero_shot": …}, those asked for: the metrics of `metrics.retrieval` and
    `metrics.zero_shot` (with "classes"), and "skipped", the number of broken samples.

    Texts with equal tokens count as one, right for each of their pictures. Raises InputError if nothing is asked for;
    FileNotFoundError; DataError and ConfigError naming file and label.
    """
    from ..data import open_evaluation
    from ..progress import Progress

    if not retrieval and not zero_shot:
        raise InputError("retrieval, zero_shot: wanted data for at least one of the two, found neither")
    if getattr(clip, "text_encoder", None) is not None:  # texts come as the data pipeline tokenizes them
        raise InputError("clip: found one with a text_encoder: evaluation is of models with their own text tower")
    text = clip.config.text_config
    common: dict[str, Any] = {"format": format, "image_key": image_key, "batch_size": batch_size}
    common["length"] = text.max_position_embeddings
    names = read_labels(labels) if isinstance(labels, str | os.PathLike) else labels and check_labels(labels, "labels")
    encoder, found = ClipEncoder(clip), {}
    with explained([f"lower batch_size (now {batch_size})"]):
        if retrieval:
            data = open_evaluation(retrieval, clip.processor, caption_key=caption_key, **common)
            with Progress("pictures", data.samples, progress) as bar:
                found["retrieval"] = evaluate_retrieval(encoder, data, lambda batch: bar.advance(_samples(batch)))
        if zero_shot:
            data = open_evaluation(zero_shot, clip.processor, label_key=label_key, labelled=True, **common)
            templates = default_templates(labels) if templates is None else templates
            chosen = as_templates(clip.templates if templates is None else templates)
            with Progress("pictures", data.samples, progress) as bar:
                head = _HeadMaker(encoder, clip.processor, text.max_position_embeddings, chosen, batch_size)
                advance = lambda batch: bar.advance(_samples(batch))  # noqa: E731
                found["zero_shot"] = evaluate_zero_shot(encoder, data, names or None, head, advance, predictions)
    return found


def _samples(batch: Any) -> int:
    return len(np.unique(np.concatenate([batch.image_sample, batch.text_sample])))


def _without_padding(input_ids: np.ndarray) -> np.ndarray:
    """The rows without trailing columns in which every row repeats its last token, of which the first is kept."""
    differs = np.flatnonzero((input_ids != input_ids[:, -1:]).any(0))
    return input_ids[:, : (differs[-1] if len(differs) else 0) + 2]


# -- in training ------------------------------------------------------------------------------------------------------


class Evaluator:
    """The evaluations of a run's configuration. The constructor finds errors in the data before training.

    Args: the checked configuration, the model's CLIPConfig, its processor, and this process.
    """

    def __init__(self, config: TrainConfig, model_config: Any, processor: Any, process: Process = _ALONE) -> None:
        from ..data import open_evaluation

        section = config.evaluate
        self._processor, self._process = processor, process
        self._length = model_config.text_config.max_position_embeddings
        self._batch_size = max(1, section.batch_size // process.count)
        own = getattr(model_config, "prompt_templates", None) or DEFAULT_TEMPLATES
        self._templates = as_templates(section.templates or default_templates(section.labels) or own)
        self._labels = None if section.labels is None else read_labels(section.labels)
        common: dict[str, Any] = {"format": section.format, "image_key": section.image_key}
        common["batch_size"] = self._batch_size
        common["length"] = self._length
        self._retrieval = self._zero_shot = None
        if section.retrieval:
            self._retrieval = open_evaluation(
                section.retrieval, processor, process, caption_key=section.caption_key, **common
            )
        if section.zero_shot:
            self._zero_shot = open_evaluation(
                section.zero_shot, processor, process, label_key=section.label_key, labelled=True, **common
            )

    def __bool__(self) -> bool:
        """Whether there is anything to evaluate."""
        return self._retrieval is not None or self._zero_shot is not None

    def run(self, encoder: Encoder, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """{"retrieval": …, "zero_shot": …}, the same in every process.

        `stopping` is called after every batch, equally often in every process; Stopped is raised if it returns True.
        """

        def after(batch: Any) -> None:
            if stopping():
                raise Stopped

        found = {}
        if self._retrieval is not None:
            found["retrieval"] = evaluate_retrieval(encoder, self._retrieval, after)
        if self._zero_shot is not None:
            head = _HeadMaker(encoder, self._processor, self._length, self._templates, self._batch_size, self._process)
            found["zero_shot"] = evaluate_zero_shot(encoder, self._zero_shot, self._labels, head, after)
        return found


# -- both -------------------------------------------------------------------------------------------------------------


def evaluate_retrieval(encoder: Encoder, data: Any, after: Callable[[Any], None] | None = None) -> dict[str, Any]:
    """The metrics of `metrics.retrieval` over `triclip.data.Evaluation`; called in every process."""
    images, owners, texts, keys, text_owners, text_keys = [], [], [], [], [], []  # type: Any, Any, Any, Any, Any, Any
    seen: set[bytes] = set()
    for batch in data:
        images.append(encoder.image_features(batch.pixel_values))
        owners.append(batch.image_sample)
        own_keys = [_key(row) for row in batch.input_ids]
        new = _first_of_each(own_keys, seen)
        texts.append(encoder.text_features(batch.input_ids[new]))
        keys += [own_keys[i] for i in new]
        text_owners.append(batch.text_sample)
        text_keys += own_keys
        if after is not None:
            after(batch)
    vectors, vector_keys = encoder.gather(_joined(texts)), encoder.gather(_key_rows(keys))
    image_vectors, image_owners = encoder.gather(_joined(images)), encoder.gather(column(_joined(owners)))[:, 0]
    captions = np.concatenate([column(_joined(text_owners)), _key_rows(text_keys)], 1)
    captions = encoder.gather(captions)
    skipped = _total(encoder, data.skipped)
    if not len(image_vectors) or not len(captions):
        raise DataError(f"retrieval: wanted pictures with captions, found none in {data.samples} samples")
    unique, first = np.unique(vector_keys, axis=0, return_index=True)  # processes may share a text
    number = _row_numbers(captions[:, 1:], unique)
    counts = np.bincount(number, minlength=len(unique))
    pairs = _pairs(image_owners, captions[:, 0], number)
    return {**metrics.retrieval(image_vectors, vectors[first], pairs, counts), "skipped": skipped}


def evaluate_zero_shot(
    encoder: Encoder,
    data: Any,
    names: Sequence[str] | None,
    make_head: Callable[[Sequence[str]], np.ndarray],
    after: Callable[[Any], None] | None = None,
    predictions: list[Predictions] | None = None,
) -> dict[str, Any]:
    """The metrics of `metrics.zero_shot` over labelled `triclip.data.Evaluation`; called in every process.

    names: the classes (see `labels.numbered`); None for those in the data.
    make_head: names -> columns [P, C].
    predictions: a list to which those of this process's pictures are appended.
    """
    vectors, labels = [], []  # type: list[np.ndarray], list[int | str]
    for batch in data:
        vectors.append(encoder.image_features(batch.pixel_values))
        labels += batch.labels
        if after is not None:
            after(batch)
    skipped = _total(encoder, data.skipped)
    if names is None:
        names = names_in_data(encoder.gather, data, labels)
    numbers = _in_all(encoder, lambda: numbered(labels, names, data.label_names))
    head = make_head(names)
    rows = _joined(vectors)
    ranks = metrics.class_ranks(rows, head, numbers) if len(rows) else np.empty(0, np.int64)
    if predictions is not None and len(rows):
        own = np.asarray(numbers, np.int64)
        predictions.append(Predictions(list(names), own, metrics.predicted_classes(rows, head, own)))
    ranks, numbers = encoder.gather(column(ranks))[:, 0], encoder.gather(column(numbers))[:, 0]
    if not len(ranks):
        raise DataError(f"zero_shot: wanted labelled pictures, found none in {data.samples} samples")
    return {**metrics.accuracy(ranks, numbers), "classes": len(names), "skipped": skipped}


class _HeadMaker:
    """Labels to a head [P, C]: for each label the normalised mean of its sentences' unit vectors.

    The sentences are distributed over the processes, with the same number of batches in each.
    """

    def __init__(
        self,
        encoder: Encoder,
        processor: Any,
        length: int,
        templates: Sequence[str],
        batch_size: int,
        process: Process = _ALONE,
    ) -> None:
        from ..data.prepare import Texts

        self._encoder, self._texts = encoder, Texts(processor.tokenizer, length)
        self._templates, self._batch_size, self._process = templates, batch_size, process

    def __call__(self, labels: Sequence[str]) -> np.ndarray:
        names = list(dict.fromkeys(labels))  # classes of one name get bit-identical columns
        sentences = [template.replace("{}", name) for name in names for template in self._templates]
        vectors = [self._encoder.text_features(self._texts.encode(part)) for part in self._parts(sentences)]
        rows = self._encoder.gather(np.concatenate(vectors))
        columns = unit(rows.reshape(len(names), len(self._templates), -1).mean(axis=1)).T
        return columns[:, [names.index(label) for label in labels]]

    def _parts(self, sentences: list[str]) -> Iterator[list[str]]:
        share = -(-len(sentences) // self._process.count)
        first = self._process.index * share
        own = sentences[first : first + share]
        return (own[start : start + self._batch_size] for start in range(0, share, self._batch_size))


def _first_of_each(keys: Sequence[bytes], seen: set[bytes]) -> list[int]:
    """Places of the keys that are not in `seen`; adds them to it."""
    new = []
    for place, key in enumerate(keys):
        if key not in seen:
            seen.add(key)
            new.append(place)
    return new


def _key(row: np.ndarray) -> bytes:
    """A 16-byte key of a text's tokens: texts without a difference for the model have equal keys."""
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _key_rows(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), np.int32).reshape(-1, 4)  # 32 bits, which every framework can exchange


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    if not parts:
        raise DataError("wanted samples to evaluate, found none")
    return np.concatenate(parts)


def _in_all(encoder: Encoder, work: Callable[[], Any]) -> Any:
    """The result of `work`, without communication. If it fails in one process, all raise, so that none waits."""
    problem, result = None, None
    try:
        result = work()
    except DataError as error:
        problem = error
    if _total(encoder, int(problem is not None)):
        raise problem or DataError("another process has met data that can't be used; it says which")
    return result


def _total(encoder: Encoder, count: int) -> int:
    return int(encoder.gather(np.array([[count]], np.int32)).sum())


def _row_numbers(rows: np.ndarray, unique: np.ndarray) -> np.ndarray:
    """The number of each row in `unique`, which contains all of them."""
    places = {row.tobytes(): number for number, row in enumerate(np.ascontiguousarray(unique))}
    return np.array([places[row.tobytes()] for row in np.ascontiguousarray(rows)], np.int64)


def _pairs(image_owners: np.ndarray, text_owners: np.ndarray, text_numbers: np.ndarray) -> np.ndarray:
    """Pairs (picture, text), int64 [K, 2], of the same sample."""
    order = np.argsort(image_owners, kind="stable")
    owners = image_owners[order]
    left = np.searchsorted(owners, text_owners, "left")
    count = np.searchsorted(owners, text_owners, "right") - left
    text = np.repeat(text_numbers, count)
    offset = np.arange(len(text)) - np.repeat(np.cumsum(count) - count, count)
    return np.stack([order[np.repeat(left, count) + offset], text], 1)
