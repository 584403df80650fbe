"""Pictures on a thread for each core: libjpeg, Pillow and NumPy let go of the interpreter's lock while they work.

Each call that lets go of it has to get it back afterwards. Decoding a file is one long call, resizing it are many short
ones: threads that do both, one picture after the other, wait for each other several times a picture. So half of them
rather decode, and the other half rather resize what they find decoded; who finds nothing to do helps the others.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

FEW = 4  # results of a first step that may wait for the second where threads are fewer; with 2, both were often idle

First = TypeVar("First")
Second = TypeVar("Second")


def in_two_steps(
    count: int, first: Callable[[int], First | None], second: Callable[[int, First | None], Second]
) -> list[Second]:
    """`second(number, first(number))` of each number below `count`.

    The two may run in different threads, but where `first` gives None, in one. Of its other results only few exist at a
    time. The first error in the order of numbers is raised; after one, nothing more is begun.
    """
    workers = min(count, os.cpu_count() or 1)
    if workers == 1:
        return [second(number, first(number)) for number in range(count)]
    work = _Work(count, first, second, max(FEW, workers))
    # One future for each thread: one for each picture would wake the caller, and have it wait for the lock, at each.
    threads = _threads(os.getpid())
    try:
        for future in [threads.submit(work.run, worker % 2 == 1) for worker in range(workers)]:
            future.result()
    finally:
        work.begin_no_more()
    if work.failed:
        raise work.failed[min(work.failed)]
    return work.out


class _Work:
    """What the threads share; each takes a number, or what lies between the steps, in a call that nothing splits."""

    def __init__(self, count: int, first: Callable, second: Callable, most_between: int) -> None:
        self.first, self.second, self.most_between = first, second, most_between
        self.out: list[Any] = [None] * count
        self.failed: dict[int, Exception] = {}
        self.numbers = iter(range(count))
        self.between: deque[tuple[int, Any]] = deque()

    def run(self, rather_finish: bool) -> None:
        """One thread's part."""
        while True:
            if (rather_finish or len(self.between) >= self.most_between) and self._finish():
                continue
            number = next(self.numbers, None)
            if number is not None:
                self._begin(number)
            elif not self._finish():
                return  # what another thread is at, that one finishes

    def _begin(self, number: int) -> None:
        try:
            found = self.first(number)
            if found is None:
                self.out[number] = self.second(number, None)
            else:
                self.between.append((number, found))
        except Exception as error:
            self._fail(number, error)

    def _finish(self) -> bool:
        try:
            number, found = self.between.popleft()
        except IndexError:
            return False
        try:
            self.out[number] = self.second(number, found)
        except Exception as error:
            self._fail(number, error)
        return True

    def _fail(self, number: int, error: Exception) -> None:
        """Keeps any error of the steps for the caller, who raises the first."""
        self.failed[number] = error
        self.begin_no_more()

    def begin_no_more(self) -> None:
        deque(self.numbers, maxlen=0)


@lru_cache(maxsize=1)
def _threads(process: int) -> Any:
    """A thread per core, kept with its memory for the next call; a forked `process` has none and starts its own."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="triclip-images")


class Memory:
    """Arrays that any thread takes and gives back, since new memory is slow: the system clears it page by page."""

    MOST_VALUES = 1 << 22  # of an array that is kept; longer ones are new each time

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self._free: deque[np.ndarray] = deque(maxlen=2 * max(FEW, os.cpu_count() or 1))

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of any contents, the caller's until it gives it back or forgets it."""
        size = math.prod(shape)
        flat = None
        if size <= self.MOST_VALUES:
            try:
                flat = self._free.pop()
            except IndexError:
                pass
        if flat is None or flat.size < size:
            flat = np.empty(size, self.dtype)
        return flat[:size].reshape(shape)

    def give_back(self, array: np.ndarray) -> None:
        """What `take` gave."""
        assert array.base is not None
        if array.base.size <= self.MOST_VALUES:
            self._free.append(array.base)
