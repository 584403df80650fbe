"""Beyond one machine: units of work through Ray Data's actors, which write their shards themselves.

Input and output have to be on a file system that all machines see. A worker that is killed is started anew by Ray and
given its units again: those that are finished are passed over, the one it died in is written again, to the same bytes.
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

STORE = 1 << 28  # bytes of shared memory of a cluster of this machine alone: only notes pass through it
BLOCKS_PER_WORKER = 8  # units are dealt out in so many parts, so that a slow worker holds up few


class Ray:
    """Work on a Ray cluster.

    Args:
        workers: how many actors; default as many as the cluster's processors allow.
        address: of a cluster; default RAY_ADDRESS, else a cluster of this machine alone, on its loopback interface,
            which ends with the run. A cluster that the program is connected to already is used as it is.
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
        if len(numbers) <= 4 * self.workers:  # done before the workers would have started
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
    """Join a cluster, or start one of this machine alone, which then reports nothing to Ray's makers."""
    import ray

    if address:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
        return
    with _environment("RAY_USAGE_STATS_ENABLED", "0"):  # the cluster's processes inherit it
        ray.init(
            include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=STORE, log_to_driver=False,
            logging_level="warning",
        )  # fmt: skip


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable's default for processes that are started in the block."""
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
    """While Ray Data works for this run: no bars and messages of its own, which are of no use here."""
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
    """A `Worker` in a process of its own. Errors come back as words: Ray would add a page of its own to them."""

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
