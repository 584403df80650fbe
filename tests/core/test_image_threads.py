"""Work in two steps on several threads: everything once, in its place, within bounds, and errors in order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clip_core import ImageError, image_threads
from clip_core.image_threads import Memory, in_two_steps


@pytest.fixture(params=[1, 2, 3, 8])
def workers(request, monkeypatch):
    with ThreadPoolExecutor(request.param) as pool:
        monkeypatch.setattr(image_threads, "_threads", lambda process: pool)
        monkeypatch.setattr(image_threads.os, "cpu_count", lambda: request.param)
        yield request.param


class Work:
    """Two steps that take a while, keep what was seen, and fail where they are told to."""

    def __init__(self, first: float, second: float, failing: tuple[tuple[str, int], ...] = ()) -> None:
        self.seconds = {"first": first, "second": second}
        self.failing = failing
        self.seen: Counter[tuple[str, int]] = Counter()
        self.threads: set[str] = set()
        self.waiting = self.most_waiting = 0
        self.lock = threading.Lock()

    def note(self, step: str, number: int, more: int) -> None:
        time.sleep(self.seconds[step] * (1 + number % 3))
        with self.lock:
            self.seen[step, number] += 1
            self.threads.add(threading.current_thread().name)
            self.waiting += more
            self.most_waiting = max(self.most_waiting, self.waiting)
        if (step, number) in self.failing:
            raise ImageError(f"{step} {number}")

    def first(self, number: int) -> str | None:
        """A string, and None for every fifth."""
        whole = number % 5 == 4
        self.note("first", number, 0 if whole else 1)
        return None if whole else f"half {number}"

    def second(self, number: int, half: str | None) -> str:
        self.note("second", number, -1 if half else 0)
        return f"{half} done" if half else f"{number} whole"


def wanted(count: int) -> list[str]:
    return [f"{number} whole" if number % 5 == 4 else f"half {number} done" for number in range(count)]


@pytest.mark.parametrize("seconds", [(0, 0), (1e-3, 1e-5), (1e-5, 1e-3)], ids=["quick", "slow first", "slow second"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_each_is_done_once_and_few_wait(count, seconds, workers):
    work = Work(*seconds)
    if count:
        assert in_two_steps(count, work.first, work.second) == wanted(count)
    assert work.seen == Counter((step, number) for step in ("first", "second") for number in range(count))
    assert work.most_waiting <= max(image_threads.FEW, workers) + 2 * workers


def test_no_thread_is_idle_where_one_step_takes_all_the_time(workers):
    for seconds in ((3e-3, 0), (0, 3e-3)):
        work = Work(*seconds)
        in_two_steps(50, work.first, work.second)
        assert len(work.threads) == workers


@pytest.mark.parametrize("step", ["first", "second"])
def test_the_earliest_error_is_raised_and_no_more_is_begun(step, workers):
    work = Work(1e-4, 1e-4, ((step, 6), (step, 7), ("first", 8), ("second", 8)))  # 6 takes the least time, 8 the most
    with pytest.raises(ImageError, match=f"^{step} 6$"):
        in_two_steps(1000, work.first, work.second)
    assert len(work.seen) < 200
    later = Work(1e-3, 1e-3, ((step, 2), (step, 3)))  # the later one fails sooner
    with pytest.raises(ImageError, match=f"^{step} 2$"):
        in_two_steps(1000, later.first, later.second)
    assert in_two_steps(9, Work(0, 0).first, Work(0, 0).second) == wanted(9), "the threads go on"


def test_an_interrupted_caller_leaves_no_work_behind(workers):
    work = Work(1e-3, 1e-3)

    def first(number: int) -> str | None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, in the middle
        return work.first(number)

    with pytest.raises(KeyboardInterrupt):
        in_two_steps(1000, first, work.second)
    begun = sum(step == "first" for step, _ in tuple(work.seen))
    time.sleep(0.2)
    assert sum(step == "first" for step, _ in work.seen) <= begun + workers


def test_memory_is_used_again_and_has_one_owner():
    memory = Memory(np.int32)
    one, two = memory.take((10, 20)), memory.take((5, 5))
    assert one.shape == (10, 20) and one.dtype == np.int32 and not np.shares_memory(one, two)
    memory.give_back(one)
    smaller = memory.take((7, 3))
    assert smaller.shape == (7, 3) and np.shares_memory(one, smaller)
    memory.give_back(smaller)
    assert memory.take((100, 100)).shape == (100, 100), "longer than what is free"


def test_memory_that_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(image_threads.os, "cpu_count", lambda: 6)
    memory = Memory(np.int32)
    for array in [memory.take((3, 3)) for _ in range(50)]:
        memory.give_back(array)
    huge = memory.take((Memory.MOST_VALUES + 1,))
    memory.give_back(huge)
    assert len(memory._free) == 12 and all(array.size == 9 for array in memory._free)
