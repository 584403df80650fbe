"""The engines of a bulk run, with one interface: this process, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ..search.runs import Input, Unit
from .settings import Job
from .work import Step, Worker

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Distributes the work; results come in any order. Closed at the end of the run, also after an error."""

    def count(self, job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Input]]: ...

    def hash(self, job: Job, units: Sequence[Unit]) -> Iterator[Step]: ...

    def embed(self, job: Job, units: Sequence[Unit]) -> Iterator[Step]: ...

    def close(self) -> None: ...


class Local:
    """Work in this process; pictures are read and decoded in threads."""

    def count(self, job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Input]]:
        worker = Worker(job)
        return ((number, worker.count(number)) for number in numbers)

    def hash(self, job: Job, units: Sequence[Unit]) -> Iterator[Step]:
        worker = Worker(job)
        for unit in units:
            worker.hash(unit)
            yield Step(unit.stop - unit.start)

    def embed(self, job: Job, units: Sequence[Unit]) -> Iterator[Step]:
        return Worker(job).embed(units)

    def close(self) -> None:
        pass
