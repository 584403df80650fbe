"""The work: counting an input's samples, hashing a unit's samples, embedding a unit's samples."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from functools import cached_property, partial
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np

from clip_core.errors import DataError
from clip_core.machine import usable_cpus

from ..data.source import Source
from ..data.sources import check_samples, open_source
from ..search.runs import Input, Unit, read_record, units_of
from .chunks import Chunk, Reader, sample_digests
from .duplicates import Comparison, write_hashes
from .encoder import Encoder
from .settings import NEEDS, Job
from .shards import as_index, write_shard

OPEN_SOURCES = 3  # open inputs: the one being read, and the next ones
Result = TypeVar("Result")


class Step(NamedTuple):
    """Progress of `Worker.embed`: the number of samples done, and the record of a unit that was completed."""

    samples: int
    record: dict[str, Any] | None = None


class Threads(NamedTuple):
    """The reading threads: a pool, its number of threads, samples per task, and whether threads call the model too."""

    pool: Executor
    size: int
    batch: int
    compute: bool


class Worker:
    """Does the work of one process. The model is loaded at its first use."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        self._sources = _Sources(self._open)

    # -- input --------------------------------------------------------------------------------------------------------

    def count(self, number: int) -> Input:
        """The input with its number of samples and its damage."""
        one = self.job.inputs[number]
        try:
            source = self._sources.get(number)
        except DataError as error:  # an OSError may be temporary
            return Input(one.path, one.size, 0, [str(error)])
        return Input(one.path, one.size, len(source), list(source.damage))

    def check_input(self, number: int, samples: int) -> None:
        """Raise the first error if all of some samples, spread over an input, are broken, e.g. by a wrong column."""
        source = self._sources.get(number)
        check_samples(source, np.linspace(0, len(source) - 1, min(samples, len(source)), dtype=int).tolist())

    def _open(self, number: int) -> Source:
        settings, one = self.settings, self.job.inputs[number]
        keys: dict[str, Any] = {"image_key": settings.image_key, "caption_key": settings.caption_key}
        needs = [NEEDS[kind] for kind in settings.kinds]
        return open_source(one.path, settings.format, **keys, needs=needs, salvage=True, probe=False, index=None)

    def _source_of(self, unit: Unit) -> Source:
        source = self._sources.get(unit.input)
        if unit.stop > len(source):
            path = self.job.inputs[unit.input].path
            raise DataError(f"{path}: wanted {unit.stop} samples as when the run began, found {len(source)}")
        return source

    # -- the first pass ------------------------------------------------------------------------------------------------

    def hash(self, unit: Unit) -> None:
        """Write the hashes of a unit's pictures and captions."""
        found: dict[str, list[tuple[int, int, int]]] = {kind: [] for kind in self.settings.kinds}
        path = self.job.inputs[unit.input].path
        for kind, *item in sample_digests(self._source_of(unit), unit, self.settings.kinds, path):
            found[kind].append((item[0], item[1], item[2]))
        for kind, items in found.items():
            write_hashes(self.settings.output, kind, unit, items)

    # -- the second pass -----------------------------------------------------------------------------------------------

    @cached_property
    def encoder(self) -> Encoder:
        """The model, loaded by `embed` before threads use it."""
        return self.job.spec.load(self.settings.batch_size)

    @cached_property
    def _numbers(self) -> dict[Unit, int]:
        units = units_of(self.job.inputs, self.settings.samples_per_shard)
        return {one: number for number, one in enumerate(units)}

    def embed(self, units: Iterable[Unit]) -> Iterator[Step]:
        """Write the shards of units, each with its record; units finished meanwhile are skipped.

        The next batches, across units too, are read and decoded in threads while the model computes one; or each thread
        reads and computes batches, if the encoder has such threads.
        """
        threads = self._threads()
        tasks = self._tasks(units, threads)
        with threads.pool, closing(in_order(threads.pool, tasks, threads.size + 1)) as chunks:
            for unit, its_chunks in groupby(chunks, key=lambda chunk: chunk.unit):
                yield from self._finish(unit, its_chunks)

    def _finish(self, unit: Unit, chunks: Iterable[Chunk]) -> Iterator[Step]:
        whole = Chunk(unit)
        for chunk in chunks:
            if chunk.record is not None:
                yield Step(chunk.samples, chunk.record)
                return
            chunk.compute(self.encoder, self.settings.batch_size)
            whole.extend(chunk)
            yield Step(chunk.samples, self._write(whole) if chunk.last else None)

    def _threads(self) -> Threads:
        count = self.settings.threads or min(16, usable_cpus())
        own = getattr(self.encoder, "threads", lambda most: None)(count)
        if own is None:
            return Threads(ThreadPoolExecutor(count, "triclip-read"), count, self.settings.batch_size, False)
        workers, cores = own
        return Threads(workers, count, -(-self.settings.batch_size // cores), True)

    def _tasks(self, units: Iterable[Unit], threads: Threads) -> Iterator[Callable[[], Chunk]]:
        for unit in units:
            record = read_record(self.settings.output, unit)
            if record is not None:
                yield partial(Chunk, unit, record["samples"], last=True, record=record)
                continue
            comparisons = self._comparisons(unit)
            for start in range(unit.start, unit.stop, threads.batch):
                numbers = range(start, min(start + threads.batch, unit.stop))
                yield partial(self._chunk, unit, numbers, comparisons, threads)

    def _comparisons(self, unit: Unit) -> dict[str, Comparison]:
        if not self.settings.deduplicate:
            return {}
        output, number = self.settings.output, self._numbers[unit]
        return {kind: Comparison(output, kind, unit, number) for kind in self.settings.kinds}

    def _chunk(self, unit: Unit, numbers: range, comparisons: dict[str, Comparison], threads: Threads) -> Chunk:
        """In a thread: read and decode samples of a unit, and compute them if threads compute."""
        path = self.job.inputs[unit.input].path
        reader = Reader(unit, self._source_of(unit), path, self.settings.kinds, self.encoder, comparisons)
        chunk = reader.read(numbers)
        if threads.compute:
            chunk.compute(self.encoder, threads.batch)
        return chunk

    def _write(self, whole: Chunk) -> dict[str, Any]:
        """Write the shard of a unit with all its chunks; returns its record."""
        vectors = {"image": whole.vectors, "text": []}
        texts = [row["name"] for row in whole.rows["text"]]
        if texts:
            vectors["text"] = [self.encoder.texts(texts)]
        roots = {"image": self.job.root, "text": ""}  # the names of texts are these themselves
        indexes = {
            kind: as_index(vectors[kind], whole.rows[kind], self.job.spec.name, self.settings.store, roots[kind])
            for kind in self.settings.kinds
        }
        about = {"samples": whole.samples, "broken": whole.broken, "duplicates": whole.duplicates}
        return write_shard(self.settings, whole.unit, indexes, about)


class _Sources:
    """Open inputs: one thread opens an input while others that need it wait; the last few stay open."""

    def __init__(self, open_one: Callable[[int], Source]) -> None:
        self._open_one, self._lock = open_one, threading.Lock()
        self._opened: OrderedDict[int, Future[Source]] = OrderedDict()

    def get(self, number: int) -> Source:
        with self._lock:
            is_first = number not in self._opened
            opening = self._opened.setdefault(number, Future())
            self._opened.move_to_end(number)
            if len(self._opened) > OPEN_SOURCES:
                self._opened.popitem(last=False)
        if is_first:
            self._open(number, opening)
        return opening.result()

    def _open(self, number: int, opening: Future[Source]) -> None:
        try:
            opening.set_result(self._open_one(number))
        except BaseException as error:
            with self._lock:
                self._opened.pop(number, None)  # the next caller tries again
            opening.set_exception(error)


def in_order(pool: Executor, tasks: Iterable[Callable[[], Result]], ahead: int) -> Generator[Result, None, None]:
    """Results of the tasks in their order, with up to `ahead` further tasks running; closing cancels these."""
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
