"""The work itself: counting an input's samples, hashing a unit's, embedding a unit's."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clip_core.errors import DataError
from clip_core.machine import usable_cpus

from ..data.prepare import BROKEN
from ..data.sources import Sample, Source, open_source
from .duplicates import MISSING, Comparison, digest, write_hashes
from .encoder import Encoder
from .settings import NEEDS, Input, Job, Unit, units_of
from .shards import as_index, plain, read_record, write_shard

OPEN_SOURCES = 3  # the one being read, and the next ones


@dataclass
class Chunk:
    """Some samples of a unit, read and decoded: rows of each kind, and what the pictures' vectors are computed from.

    With threads of the encoder's own, these have computed the vectors too.
    """

    unit: Unit
    samples: int
    last: bool
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"image": [], "text": []})
    pixels: list[np.ndarray] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0


class Step(NamedTuple):
    """What `Worker.embed` yields: samples that are behind it, and the record of a unit that has become whole."""

    samples: int
    record: dict[str, Any] | None = None


class Worker:
    """Does the work of one process. The model is loaded when it is first needed."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        self._lock = threading.Lock()
        self._sources: OrderedDict[int, _Opening] = OrderedDict()
        self._loading = threading.Lock()
        self._encoder: Encoder | None = None
        self._numbers: dict[Unit, int] | None = None
        self._batch = job.settings.batch_size  # samples that one thread takes
        self._computing = False  # whether the threads that read compute too

    # -- input --------------------------------------------------------------------------------------------------------

    def count(self, number: int) -> Input:
        """The input with its number of samples, and what is wrong with it."""
        one = self.job.inputs[number]
        try:
            source = self._source(number)
        except DataError as error:  # an OSError may be gone at the next try
            return Input(one.path, one.size, 0, [str(error)])
        return Input(one.path, one.size, len(source), list(source.damage))

    def _source(self, number: int) -> Source:
        with self._lock:
            opening = self._sources.setdefault(number, _Opening())
            self._sources.move_to_end(number)
            if len(self._sources) > OPEN_SOURCES:
                self._sources.popitem(last=False)
        with opening.lock:  # others go on with another source meanwhile
            if opening.source is None:
                opening.source = self._open(number)
            return opening.source

    def _open(self, number: int) -> Source:
        settings, one = self.settings, self.job.inputs[number]
        keys = {"image_key": settings.image_key, "caption_key": settings.caption_key}
        needs = [NEEDS[kind] for kind in settings.kinds]
        return open_source(one.path, settings.format, **keys, needs=needs, salvage=True, probe=False)

    def check_input(self, number: int, samples: int) -> None:
        """Raise the first sample's error when all of some, spread over an input, are broken: a wrong column, say."""
        from ..data.sources import check_samples

        source = self._source(number)
        check_samples(source, np.linspace(0, len(source) - 1, min(samples, len(source)), dtype=int).tolist())

    def _samples(self, unit: Unit, numbers: range, broken: list[tuple[str, str]]) -> Iterator[tuple[int, Sample]]:
        source = self._source(unit.input)
        if unit.stop > len(source):
            path = self.job.inputs[unit.input].path
            raise DataError(f"{path}: wanted {unit.stop} samples as when the run began, found {len(source)}")
        for number in numbers:
            try:
                yield number, source[number]
            except BROKEN as error:
                self._check_there(unit, error)
                broken.append((plain(_name(source, number)), plain(str(error))))

    def _check_there(self, unit: Unit, error: Exception) -> None:
        """A sample is not broken when the disk it is on has gone: then the run ends, and can be gone on with."""
        path = self.job.inputs[unit.input].path
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: was there when the run began, and is no more") from error

    # -- the first pass ------------------------------------------------------------------------------------------------

    def hash(self, unit: Unit) -> None:
        """Write the hashes of a unit's pictures and captions."""
        items: dict[str, list[tuple[int, int, int]]] = {kind: [] for kind in self.settings.kinds}
        for number, sample in self._samples(unit, range(unit.start, unit.stop), []):
            for kind in items:
                for content in sample.images if kind == "image" else sample.captions:
                    items[kind].append((number, *self._digest(content, kind)[1]))
        for kind, found in items.items():
            write_hashes(self.settings.output, kind, unit, found)

    @staticmethod
    def _digest(content: bytes | str, kind: str) -> tuple[str, tuple[int, int]]:
        try:
            if isinstance(content, str):
                content = _read(content) if kind == "image" else content.encode("utf-8", "surrogatepass")
            return digest(content)
        except OSError:
            return "", MISSING

    def _comparisons(self, unit: Unit) -> dict[str, Comparison]:
        if not self.settings.deduplicate:
            return {}
        with self._lock:
            if self._numbers is None:
                units = units_of(self.job.inputs, self.settings.samples_per_shard)
                self._numbers = {one: number for number, one in enumerate(units)}
        output = self.settings.output
        return {kind: Comparison(output, kind, unit, self._numbers[unit]) for kind in self.settings.kinds}

    # -- the second pass -----------------------------------------------------------------------------------------------

    @property
    def encoder(self) -> Encoder:
        with self._loading:
            if self._encoder is None:
                self._encoder = self.job.spec.load(self.settings.batch_size)
            return self._encoder

    def embed(self, units: Iterable[Unit]) -> Iterator[Step]:
        """Write the shards of units, each with its record; a unit that is finished by now is passed over.

        The next batches are read and decoded in threads while the model computes one, across units too; or each thread
        reads and computes a batch, where the encoder has such threads.
        """
        parts: list[_Part] = []
        for chunk in self._chunks(units):
            if isinstance(chunk, dict):
                yield Step(chunk["samples"], chunk)
                continue
            if not parts or parts[-1].unit != chunk.unit:
                parts = [_Part(chunk.unit)]
            part = parts[-1]
            part.add(chunk, self._vectors(chunk.pixels))
            record = part.write(self.job, self.encoder) if chunk.last else None
            yield Step(chunk.samples, record)

    def _chunks(self, units: Iterable[Unit]) -> Iterator[Chunk | dict[str, Any]]:
        """The chunks of all units in order, some of them ahead of time; the record of a unit that is finished."""
        threads = self.settings.threads or min(16, usable_cpus())
        waiting: deque[Future[Chunk] | dict[str, Any]] = deque()
        with self._pool(threads) as pool:
            try:
                for task in self._tasks(units):
                    waiting.append(task if isinstance(task, dict) else pool.submit(task))
                    while len(waiting) > threads + 1:
                        yield _result(waiting.popleft())
                while waiting:
                    yield _result(waiting.popleft())
            finally:
                for future in waiting:
                    if isinstance(future, Future):
                        future.cancel()

    def _pool(self, threads: int) -> Executor:
        own = getattr(self.encoder, "threads", lambda most: None)(threads)  # loaded before threads ask for it
        if own is None:
            return ThreadPoolExecutor(threads, "triclip-read")
        workers, count = own
        self._computing, self._batch = True, -(-self.settings.batch_size // count)
        return workers

    def _tasks(self, units: Iterable[Unit]) -> Iterator[Callable[[], Chunk] | dict[str, Any]]:
        size = self._batch
        for unit in units:
            record = read_record(self.settings.output, unit)
            if record is not None:
                yield record
                continue
            comparisons = self._comparisons(unit)
            for start in range(unit.start, unit.stop, size):
                yield _Task(self, unit, range(start, min(start + size, unit.stop)), comparisons)

    def chunk(self, unit: Unit, numbers: range, comparisons: dict[str, Comparison]) -> Chunk:
        """Read and decode some samples; compute their pictures' vectors, if this thread is one to do so."""
        chunk = Chunk(unit, len(numbers), numbers.stop == unit.stop)
        path = self.job.inputs[unit.input].path
        for number, sample in self._samples(unit, numbers, chunk.broken):
            key = sample.name.removeprefix(path).lstrip(":/\\ ") or sample.name
            for kind in self.settings.kinds:
                contents: Sequence[Any] = sample.images if kind == "image" else sample.captions
                expected = comparisons[kind].of(number) if comparisons else None
                if expected is not None and len(expected.keep) != len(contents):
                    raise DataError(f"{sample.name}: has changed since the run began")
                for place, content in enumerate(contents):
                    columns: dict[str, Any] = {}
                    if expected is not None:
                        if not expected.keep[place]:
                            chunk.duplicates += 1
                            continue
                        columns["sha256"], found = self._digest(content, kind)
                        if found != expected.hashes[place]:
                            raise DataError(f"{sample.name}: has changed since the run began")
                    try:
                        self._add(chunk, kind, sample, content, {"key": plain(key), "number": place, **columns})
                    except BROKEN as error:
                        self._check_there(unit, error)
                        chunk.broken.append((plain(sample.name), plain(str(error))))
        if self._computing:
            chunk.vectors, chunk.pixels = self._vectors(chunk.pixels), []
        return chunk

    def _vectors(self, pixels: list[np.ndarray]) -> list[np.ndarray]:
        starts = range(0, len(pixels), self._batch)  # samples may have several pictures
        return [self.encoder.images(np.stack(pixels[start : start + self._batch])) for start in starts]

    def _add(self, chunk: Chunk, kind: str, sample: Sample, content: Any, columns: dict[str, Any]) -> None:
        """One row. Raises one of BROKEN for what can't be embedded."""
        if kind == "image":
            chunk.pixels.append(self.encoder.read(content, sample.name))
            name = content if isinstance(content, str) else sample.name
            caption = sample.captions[0] if sample.captions else ""
            chunk.rows[kind].append({"name": plain(name), **columns, "caption": plain(caption)})
            return
        if plain(content) != content:
            raise DataError(f"{sample.name}: wanted a caption in Unicode, found half a surrogate pair")
        image = next((one for one in sample.images if isinstance(one, str)), "")
        chunk.rows[kind].append({"name": content, **columns, "image": plain(image)})


class _Opening:
    """A source that one thread opens while others wait for it."""

    def __init__(self) -> None:
        self.lock, self.source = threading.Lock(), None  # type: threading.Lock, Source | None


class _Task:
    def __init__(self, worker: Worker, unit: Unit, numbers: range, comparisons: dict[str, Comparison]) -> None:
        self.worker, self.arguments = worker, (unit, numbers, comparisons)

    def __call__(self) -> Chunk:
        return self.worker.chunk(*self.arguments)


class _Part:
    """A unit whose chunks are coming in."""

    def __init__(self, unit: Unit) -> None:
        self.unit, self.broken, self.duplicates = unit, [], 0  # type: Unit, list[tuple[str, str]], int
        self.rows: dict[str, list[dict[str, Any]]] = {"image": [], "text": []}
        self.vectors: list[np.ndarray] = []

    def add(self, chunk: Chunk, vectors: list[np.ndarray]) -> None:
        self.vectors += chunk.vectors + vectors
        for kind, rows in chunk.rows.items():
            self.rows[kind] += rows
        self.broken += chunk.broken
        self.duplicates += chunk.duplicates

    def write(self, job: Job, encoder: Encoder) -> dict[str, Any]:
        settings, indexes = job.settings, {}
        for kind in settings.kinds:
            rows = self.rows[kind]
            if kind == "text":
                found = [encoder.texts([row["name"] for row in rows])] if rows else []
            else:
                found = self.vectors
            vectors = np.concatenate(found) if found else np.empty((0, 1), np.float32)
            indexes[kind] = as_index(vectors, rows, job.spec.name, settings.store)
        about = {"samples": self.unit.stop - self.unit.start, "broken": self.broken, "duplicates": self.duplicates}
        return write_shard(settings, self.unit, indexes, about)


def _result(waiting: Future[Chunk] | dict[str, Any]) -> Chunk | dict[str, Any]:
    return waiting.result() if isinstance(waiting, Future) else waiting


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _name(source: Source, number: int) -> str:
    try:
        return source.name(number)
    except BROKEN:
        return f"sample {number}"
