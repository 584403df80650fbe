"""Bulk runs on several machines: units of work for Ray Data's actors, which write their shards themselves.

Input and output must be on a file system that all machines share. Ray restarts a killed worker and gives it its units
again: finished ones are skipped, and the unit it died in is written again, with the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from clip_core.errors import InputError, MissingDependencyError

from ..search.runs import Input, Unit
from .engines import Local
from .settings import Job
from .work import Step, Worker

STORE = 1 << 28  # bytes of shared memory of a local cluster: only small messages pass through it
BLOCKS_PER_WORKER = 8  # parts in which units are distributed, so that a slow worker delays few


class Ray:
    """Work on a Ray cluster.

    Args:
        workers: the number of actors; default as many as the cluster's processors allow.
        address: of a cluster; default RAY_ADDRESS, else a local cluster on the loopback interface, which ends with the
            run. A cluster that the program is already connected to is used.
        cpus, gpus: of a worker.

    Raises MissingDependencyError without Ray.
    """

    def __init__(
        self, workers: int | None = None, address: str | None = None, cpus: float = 1, gpus: float = 0
    ) -> None:
        try:
            import ray
            import ray.data  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("engine 'ray' needs Ray Data: pip install 'triclip[ray]'") from error
        self.cpus, self.gpus, self._ours = cpus, gpus, not ray.is_initialized()
        if self._ours:
            _start(address or os.environ.get("RAY_ADDRESS"))
        able = int(ray.cluster_resources().get("CPU", 1) // max(cpus, 1e-9))
        self.workers = workers or max(1, able)

    def count(self, job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Input]]:
        if len(numbers) <= 4 * self.workers:  # finished before the workers would have started
            yield from Local().count(job, numbers)
            return
        for found in self._map(job, "count", [{"number": number} for number in numbers], gpus=0):
            yield found["number"], Input(*found["input"])

    def hash(self, job: Job, units: Sequence[Unit]) -> Iterator[Step]:
        for found in self._map(job, "hash", [{"unit": list(unit)} for unit in units], gpus=0):
            yield Step(found["samples"])

    def embed(self, job: Job, units: Sequence[Unit]) -> Iterator[Step]:
        threads = job.settings.threads or max(1, int(self.cpus))
        job = job._replace(settings=dataclasses.replace(job.settings, threads=threads))
        for found in self._map(job, "embed", [{"unit": list(unit)} for unit in units], self.gpus):
            yield Step(found["samples"], found["record"])

    def _map(self, job: Job, task: str, items: list[dict[str, Any]], gpus: float) -> Iterator[dict[str, Any]]:
        if not items:
            return
        with _quiet():
            for row in self._data(job, task, items, gpus).iter_rows():
                found = row["found"]
                if "error" in found:
                    raise (OSError if found["system"] else InputError)(found["error"])
                yield found

    def _data(self, job: Job, task: str, items: list[dict[str, Any]], gpus: float) -> Any:
        import ray.data

        workers = min(self.workers, len(items))
        blocks = min(len(items), workers * BLOCKS_PER_WORKER)
        data = ray.data.from_items([{"item": item} for item in items], override_num_blocks=blocks)
        return data.map(
            _Actor,
            fn_constructor_args=(job, task),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=self.cpus,
            num_gpus=gpus or None,
        )

    def close(self) -> None:
        import ray

        if self._ours:
            ray.shutdown()


def _start(address: str | None) -> None:
    """Join a cluster, or start a local one without Ray's usage statistics."""
    import ray

    if address:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
        return
    with _environment("RAY_USAGE_STATS_ENABLED", "0"):  # inherited by the cluster's processes
        ray.init(
            include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=STORE, log_to_driver=False,
            logging_level="warning",
        )  # fmt: skip


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable's default for processes that are started in the block."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Ray Data's own progress bars and messages during this run."""
    import ray.data

    logger, context = logging.getLogger("ray.data"), ray.data.DataContext.get_current()
    before = logger.level, context.enable_progress_bars
    logger.setLevel(logging.ERROR)
    context.enable_progress_bars = False
    try:
        yield
    finally:
        logger.setLevel(before[0])
        context.enable_progress_bars = before[1]


class _Actor:
    """A `Worker` in another process. Errors are returned as text, because Ray would add its own traceback."""

    def __init__(self, job: Job, task: str) -> None:
        self.worker, self.task = Worker(job), task

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = row["item"]
        try:
            return {"found": self._do(item)}
        except (OSError, ValueError, ImportError) as error:
            return {"found": {"error": str(error), "system": isinstance(error, OSError)}}

    def _do(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.task == "count":
            one = self.worker.count(item["number"])
            return {"number": item["number"], "input": [one.path, one.size, one.samples, one.damage]}
        unit = Unit(*item["unit"])
        if self.task == "hash":
            self.worker.hash(unit)
            return {"samples": unit.stop - unit.start}
        record: dict[str, Any] | None = None
        for step in self.worker.embed([unit]):
            record = step.record or record
        assert record is not None
        brief = {"rows": record["rows"], "broken": len(record["broken"]), "duplicates": record["duplicates"]}
        return {"samples": unit.stop - unit.start, "record": brief}
