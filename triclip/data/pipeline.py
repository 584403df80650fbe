"""Training batches: the same bytes for a seed with any backend, number of processes and number of workers."""

from __future__ import annotations

import atexit
import functools
import logging
import math
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from clip_core.errors import ConfigError, DataError, MissingDependencyError

from .config import Batch, PipelineConfig, Process
from .order import Order
from .pictures import PictureReader
from .prepare import Broken, Patches, Rows, Texts
from .source import Source
from .sources import open_source

logger = logging.getLogger("triclip")

CHUNK = 16  # rows of one unit of work for threads and workers
MOST_THREADS = 16
BATCHES_AHEAD = 2
CLOSING_ATTEMPTS = 100
SHARED_MEMORY = "/dev/shm"  # where workers put their rows, on Linux
STEPS = 1 << 40  # more steps than any run has

Part = tuple[dict[str, np.ndarray], list[Broken]]  # rows of a batch, and the broken samples found


class Pipeline:
    """An endless iterator of one process's rows of every step (see `config.Batch`).

    samples: the source's number of samples. skipped: broken ones found by this process; each is named in the log once
    and replaced by another, the same with every number of processes.

    Close it (or use `with`) to end its threads and worker processes.
    """

    def __init__(self, rows: Rows, process: Process, workers: int) -> None:
        self.samples, self.skipped = len(rows.source), 0
        self._rows, self._process, self._workers = rows, process, workers
        self._skipped: set[int] = set()
        self._step = 0
        self._iterator: Any = None

    @property
    def source(self) -> Source:
        """The samples."""
        return self._rows.source

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> Batch:
        """The next step's rows. Raises DataError if too few samples are usable, or if a worker process has died."""
        if self._iterator is None:
            self._iterator = iter(self._dataset())
            _close_at_exit(self)
        try:
            joined = next(self._iterator)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # grain's message
                raise
            self.close()
            raise DataError(_worker_lost(error, self._workers)) from error
        if isinstance(joined, DataError):
            self.close()
            raise joined
        batch, broken = joined
        self._step += 1
        for sample in broken:
            self._report(sample)
        return batch

    def next(self) -> Batch:
        """As `next(pipeline)`."""
        return self.__next__()

    def get_state(self) -> dict[str, Any]:
        """The position in the data, as JSON: the same for any number of processes and workers."""
        order = self._rows.order
        return {
            "step": self._step,
            "samples": order.samples,
            "batch_size": order.batch_size,
            "seed": order.seed,
            "shuffle": order.shuffle,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `get_state`. Raises ConfigError if the data or their order differ."""
        for key, value in self.get_state().items():
            if key != "step" and state.get(key) != value:
                raise ConfigError(
                    f"data: the checkpoint was written with {key} = {state.get(key)!r}, found {value!r}; the run can "
                    f"only go on with the same data, data.batch_size, data.shuffle and seed"
                )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stop threads and worker processes. The next call continues from the same place."""
        iterator, self._iterator = self._iterator, None
        for _ in range(CLOSING_ATTEMPTS if iterator is not None else 0):
            try:
                iterator.close()
                return
            except AssertionError:  # grain can't join a worker that is still starting
                time.sleep(0.1)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _check_shared_memory(self, rows: int) -> None:
        """Warn if workers will run out of shared memory, for which the system kills them without a message."""
        wanted = (BATCHES_AHEAD + 1) * rows * math.prod(self._rows.pictures.shape) * 4
        if os.path.isdir(SHARED_MEMORY) and (free := shutil.disk_usage(SHARED_MEMORY).free) < wanted:
            logger.warning(
                "data.workers: about %d MB will be wanted in %s, found %d; in a container raise it (--shm-size), or "
                "set data.workers to 0",
                *(wanted >> 20, SHARED_MEMORY, free >> 20),
            )

    def _report(self, sample: Broken) -> None:
        if sample.number not in self._skipped:
            self._skipped.add(sample.number)
            self.skipped = len(self._skipped)
            logger.warning("skipped a broken sample: %s (%s)", sample.name, sample.reason)

    def _dataset(self) -> Any:
        """grain's pipeline from the current step on: chunks in threads or workers, joined to prefetched batches."""
        import grain

        own = range(self._process.index, self._rows.order.batch_size, self._process.count)
        chunks = -(-len(own) // CHUNK)
        make = functools.partial(_make_chunk, self._rows, own, chunks, CHUNK)
        data = grain.MapDataset.range(self._step * chunks, STEPS * chunks).map(make)
        if self._workers:
            # One thread in each worker; grain distributes and collects the chunks round-robin.
            data = data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
            _mark_flags_parsed()
            self._check_shared_memory(len(own))
            ahead = max(1, BATCHES_AHEAD * chunks // self._workers)
            options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=ahead)
            data = data.mp_prefetch(options, worker_init_fn=_begin_worker)
        else:
            threads = min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
            ahead = max(chunks, 2 * threads)
            data = data.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
        data = data.batch(chunks, batch_fn=_join)
        return grain.experimental.ThreadPrefetchIterDataset(data, prefetch_buffer_size=BATCHES_AHEAD - 1)


def open_pipeline(
    config: PipelineConfig, processor: Any, process: Process, source: Source | None = None, model_config: Any = None
) -> Pipeline:
    """The training batches of one process.

    Args:
        config: its `data`, `seed`, `model.patch_dropout` and `loss.anchors` are used.
        processor: the model's CLIPProcessor; its image size is the model's.
        process: this process; `data.batch_size` must be a multiple of their number.
        source: the samples; default those of `config.data.train`.
        model_config: the model's CLIPConfig, for the length of texts and for patch_dropout.
            Without it texts have the tokenizer's `model_max_length`.
    Raises:
        ConfigError: a batch that can't be divided among the processes, or is larger than the data; a processor of
        another picture size.
        DataError, FileNotFoundError: see `open_source`. MissingDependencyError: without grain.
    """
    try:
        import grain  # noqa: F401  (found missing here, not at the first step)
    except ImportError as error:
        raise MissingDependencyError("training needs grain: pip install 'triclip[train]'") from error
    data = config.data
    if data.batch_size % process.count:
        raise ConfigError(
            f"data.batch_size: wanted a multiple of the number of processes ({process.count}), found {data.batch_size}"
        )
    if source is None:
        reading: dict[str, Any] = {"skip_shards": data.skip_shards, "workers": data.workers}
        reading |= {"index": data.index or None, "separator": data.separator or None}
        source = open_source(data.train, data.format, data.image_key, data.caption_key, **reading)
    pictures = PictureReader(processor.image_processor, data.augment)
    length = None
    if model_config is not None:
        length = model_config.text_config.max_position_embeddings
        wanted = model_config.vision_config.image_size
        if pictures.shape[1:] != (wanted, wanted):
            raise ConfigError(f"image_size: wanted the image processor's {pictures.shape[1:]}, found {wanted}")
    order = Order(len(source), data.batch_size, config.seed, data.shuffle)
    patches = Patches.of(config.model.patch_dropout, model_config)
    texts = Texts(processor.tokenizer, length)
    rows = Rows(source, order, pictures, texts, patches, config.loss.anchors is not None)
    return Pipeline(rows, process, data.workers)


def _make_chunk(rows: Rows, own: range, chunks: int, size: int, number: int) -> Part | DataError:
    """Some rows of a step. Errors in the data are returned, because grain would wrap raised ones in its own message."""
    step, chunk = divmod(number, chunks)
    try:
        return rows.make(step, own[chunk * size : (chunk + 1) * size])
    except DataError as error:
        return error


def _join(parts: list[Part | DataError]) -> Part | DataError:
    """The chunks of a step as one batch."""
    whole: list[Part] = []
    for part in parts:
        if isinstance(part, DataError):
            return part
        whole.append(part)
    keys = whole[0][0]
    batch = {key: np.concatenate([np.asarray(part[key]) for part, _ in whole]) for key in keys}
    return batch, [sample for _, broken in whole for sample in broken]


def _worker_lost(error: Exception, workers: int) -> str:
    reason = str(error)
    if "code -9" in reason:
        reason = "killed, as systems do when memory runs out"
    elif "code -7" in reason:
        reason = "no shared memory was left"
    return (
        f"data.workers: a worker process ended ({reason}): set fewer than {workers}, or 0 for threads, or a smaller "
        f"data.batch_size; in a container raise its memory and --shm-size"
    )


_OPEN: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _close_at_exit(pipeline: Pipeline) -> None:
    """Stop a pipeline's workers at exit if it was not closed, before multiprocessing terminates them."""
    if not _OPEN:
        atexit.unregister(_close_all)
        atexit.register(_close_all)  # handlers run in reverse order of registration
    _OPEN.add(pipeline)


def _close_all() -> None:
    for pipeline in list(_OPEN):
        pipeline.close()


def _mark_flags_parsed() -> None:
    """Mark absl's flags as parsed: grain passes them to workers, but only programs started by absl parse them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _begin_worker(index: int, count: int) -> None:
    """Ignore signals sent to the whole group, which the parent handles; a worker ends when told or orphaned."""
    import multiprocessing

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)  # a killed parent can't tell its workers

    threading.Thread(target=watch, daemon=True).start()
