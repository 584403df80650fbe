"""Evaluation data: every sample once, in order, with all of its pictures and captions, prefetched in threads."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_core.machine import usable_cpus

from .config import Process
from .pictures import PictureReader
from .prepare import BROKEN, Broken, Texts
from .source import Source
from .sources import open_source

logger = logging.getLogger("triclip")

BATCHES_AHEAD = 2
MOST_THREADS = 16


@dataclass(frozen=True)
class EvaluationBatch:
    """Up to `batch_size` pictures and the captions of their samples; empty arrays in a process that has no more.

    pixel_values: float32 [I, C, H, W]; image_sample: int64 [I], the sample's number in the source.
    input_ids: int32 [T, S]; text_sample: int64 [T]. captions: the T texts.
    labels: one per picture, or empty if none were asked for.
    """

    pixel_values: np.ndarray
    image_sample: np.ndarray
    input_ids: np.ndarray
    text_sample: np.ndarray
    captions: list[str]
    labels: list[int | str]

    def __len__(self) -> int:
        return len(self.pixel_values)


class Evaluation:
    """One process's share of the evaluation data; can be iterated repeatedly.

    Every process has the same number of batches, so that all can compute together: contiguous samples, beginning with
    the first process; the last batches may be short or empty. Gathered in the order of the processes, results are in
    the order of the data.

    samples: the source's number of samples, over all processes. skipped: broken ones found by this process; they are
    named in the log and excluded from the figures. label_names: see `Source`.
    """

    def __init__(
        self, source: Source, pictures: PictureReader, texts: Texts, batch_size: int, process: Process, captions: bool
    ) -> None:
        self.source, self.samples, self.label_names = source, len(source), source.label_names
        self.batch_size, self.process = batch_size, process
        self._pictures, self._texts, self._captions = pictures, texts, captions
        self._broken: dict[int, Broken] = {}

    @property
    def skipped(self) -> int:
        return len(self._broken)

    def __len__(self) -> int:
        """Batches per process."""
        return -(-self._share() // self.batch_size)

    def _share(self) -> int:
        return -(-self.samples // self.process.count)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        """The batches, in order. Raises the source's DataError only if a whole file can't be read."""
        first = self.process.index * self._share()
        last = min(first + self._share(), self.samples)
        threads = min(MOST_THREADS, usable_cpus())
        pool = ThreadPoolExecutor(threads, thread_name_prefix="triclip-evaluation")
        pending: deque[list[Future]] = deque()
        starts = iter(range(first, first + len(self) * self.batch_size, self.batch_size))
        try:
            while True:
                while len(pending) < BATCHES_AHEAD and (start := next(starts, None)) is not None:
                    numbers = range(start, min(start + self.batch_size, last))
                    pending.append([pool.submit(self._prepare, number) for number in numbers])
                if not pending:
                    return
                yield self._batch([future.result() for future in pending.popleft()])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, number: int) -> tuple[int, np.ndarray, list[str], int | str | None] | Broken:
        """(number, pixel values [n, C, H, W], captions, label) of a sample."""
        try:
            sample = self.source[number]
            pixels = np.empty((len(sample.images), *self._pictures.shape), np.float32)
            for picture, out in zip(sample.images, pixels, strict=True):
                self._pictures.read(picture, sample.name, out, None)
            return number, pixels, list(sample.captions) if self._captions else [], sample.label
        except BROKEN as error:
            return Broken(number, self.source.name(number), str(error))

    def _batch(self, prepared: list[Any]) -> EvaluationBatch:
        pixels, images, texts, captions, labels = [], [], [], [], []  # type: list, list, list, list, list
        for sample in prepared:
            if isinstance(sample, Broken):
                if sample.number not in self._broken:
                    self._broken[sample.number] = sample
                    logger.warning("left out a broken sample: %s (%s)", sample.name, sample.reason)
                continue
            number, values, own, label = sample
            pixels.append(values)
            images += [number] * len(values)
            captions += own
            texts += [number] * len(own)
            labels += [] if label is None else [label] * len(values)
        none = np.empty((0, *self._pictures.shape), np.float32)
        return EvaluationBatch(
            pixel_values=np.concatenate(pixels) if pixels else none,
            image_sample=np.array(images, np.int64),
            input_ids=self._texts.encode(captions),
            text_sample=np.array(texts, np.int64),
            captions=captions,
            labels=labels,
        )


def open_evaluation(
    paths: Sequence[str | os.PathLike] | str | os.PathLike | Source,
    processor: Any,
    process: Process | None = None,
    *,
    format: str = "auto",
    image_key: str | None = None,
    caption_key: str | None = None,
    label_key: str | None = None,
    labelled: bool = False,
    batch_size: int = 256,
    length: int | None = None,
) -> Evaluation:
    """Image-text pairs, or labelled pictures, for an evaluation.

    Args:
        paths: as in `open_source`, or a source.
        processor: the model's CLIPProcessor. Pixel values are exactly its own.
        process: the process whose share to read; default all.
        format, image_key, caption_key, label_key: as in `open_source`.
        labelled: read labels instead of captions, by the usual names if `label_key` is None.
        batch_size: samples per process and batch.
        length: of the texts' rows, in tokens; default the tokenizer's `model_max_length`.
    Raises:
        see `open_source`; InputError for a batch size below 1.
    """
    if labelled and label_key is None:
        label_key = ""
    source = paths if isinstance(paths, Source) else open_source(paths, format, image_key, caption_key, label_key)
    pictures = PictureReader(processor.image_processor)
    texts = Texts(processor.tokenizer, length)
    return Evaluation(source, pictures, texts, max(1, batch_size), process or Process(0, 1), label_key is None)
