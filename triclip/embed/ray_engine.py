"""Beyond one machine: units of work through Ray Data's actors, which write their shards themselves.

Input and output have to be on a file system that all machines see. A worker that is killed is started anew by Ray and
given its units again: those that are finished are passed over, the one it died in is written again, to the same bytes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from clip_core.errors import InputError, MissingDependencyError

from .engines import Local
from .settings import Input, Job, Unit
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
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise MissingDependencyError("engine 'ray' needs Ray Data: pip install 'triclip[ray]'") from error
        self.cpus, self.gpus, self._ours = cpus, gpus, not ray.is_initialized()
        if self._ours:
            address = address or os.environ.get("RAY_ADDRESS")
            alone = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "object_store_memory": STORE}
            ray.init(address=address, log_to_driver=False, logging_level="warning", **({} if address else alone))
        able = int(ray.cluster_resources().get("CPU", 1) // max(cpus, 1e-9))
        self.workers = workers or max(1, able)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it says much that is of no use here

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
        import ray.data

        if not items:
            return
        workers = min(self.workers, len(items))
        blocks = min(len(items), workers * BLOCKS_PER_WORKER)
        data = ray.data.from_items([{"item": item} for item in items], override_num_blocks=blocks)
        data = data.map(
            _Actor,
            fn_constructor_args=(job, task),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=self.cpus,
            num_gpus=gpus or None,
        )
        for row in data.iter_rows():
            found = row["found"]
            if "error" in found:
                raise (OSError if found["system"] else InputError)(found["error"])
            yield found

    def close(self) -> None:
        import ray

        if self._ours:
            ray.shutdown()


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
