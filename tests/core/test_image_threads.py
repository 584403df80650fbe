"""Work on several threads: each item once and in place, errors in order; and pictures shared by threads."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clip_core import CLIPImageProcessor, ImageError, machine
from clip_core.image import fast, resample
from clip_core.image.fast import on_threads


@pytest.fixture(params=[1, 2, 3, 8])
def workers(request, monkeypatch):
    monkeypatch.setattr(machine, "usable_cpus", lambda: request.param)
    return request.param


class Work:
    """A step that takes a while, keeps what was seen, and fails where it is told to."""

    def __init__(self, seconds: float, failing: tuple[int, ...] = ()) -> None:
        self.seconds, self.failing = seconds, failing
        self.seen: Counter[int] = Counter()
        self.threads: set[str] = set()
        self.lock = threading.Lock()

    def __call__(self, number: int) -> str:
        time.sleep(self.seconds * (1 + number % 3))
        with self.lock:
            self.seen[number] += 1
            self.threads.add(threading.current_thread().name)
        if number in self.failing:
            raise ImageError(f"at {number}")
        return f"{number} done"


@pytest.mark.parametrize("seconds", [0, 1e-3])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_each_is_done_once(count, seconds, workers):
    work = Work(seconds)
    assert on_threads(count, work) == [f"{number} done" for number in range(count)]
    assert work.seen == Counter(range(count))


def test_no_thread_is_idle(workers):
    work = Work(3e-3)
    on_threads(50, work)
    assert len(work.threads) == workers


def test_the_earliest_error_is_raised_and_no_more_is_begun(workers):
    work = Work(1e-4, (6, 7, 8))  # 6 takes the least time, 8 the most
    with pytest.raises(ImageError, match="^at 6$"):
        on_threads(1000, work)
    assert len(work.seen) < 200
    with pytest.raises(ImageError, match="^at 2$"):
        on_threads(1000, Work(1e-3, (2, 3)))  # the later one fails sooner
    assert on_threads(9, Work(0)) == [f"{number} done" for number in range(9)], "the threads go on"


@pytest.fixture
def interruptible():
    """SIGINT interrupts, as in the foreground: a program that a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_caller_leaves_no_work_behind(workers, interruptible):
    work = Work(1e-3)

    def interrupting(number: int) -> str:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, in the middle
        return work(number)

    with pytest.raises(KeyboardInterrupt):
        on_threads(1000, interrupting)
    begun = len(work.seen)
    time.sleep(0.2)
    assert len(work.seen) <= begun + workers


def test_another_number_of_processors_means_another_pool(monkeypatch):
    for count in (2, 4, 3):
        monkeypatch.setattr(machine, "usable_cpus", lambda count=count: count)
        work = Work(3e-3)
        on_threads(40, work)
        assert len(work.threads) == count


def test_a_threads_memory_is_used_again_and_bounded():
    first = resample.scratch("a test", (10, 20))
    again = resample.scratch("a test", (7, 3))
    assert again.shape == (7, 3) and np.shares_memory(first, again)
    large = (resample._Scratch.MOST_VALUES + 1,)
    assert not np.shares_memory(resample.scratch("a test", large), resample.scratch("a test", large))
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(pool.submit(resample.scratch, "a test", (7, 3)).result(), again)


# ---- pictures


def noise_file(seed: int = 0, kind: str = "JPEG", size: tuple[int, int] = (400, 300)) -> io.BytesIO:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(file, kind, exif=exif)
    return file


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"apply_exif_orientation": True}, {"profile": "openai"}])
def test_threads_on_one_unread_picture(kind, options, short_cuts):
    processor = CLIPImageProcessor(**options)
    for attempt in range(4):
        file = noise_file(attempt, kind)
        want = processor(Image.open(io.BytesIO(file.getvalue())))["pixel_values"][0]
        shared = Image.open(file)
        ready = threading.Barrier(8)

        def work(shared=shared, ready=ready):
            ready.wait()
            return processor(shared)["pixel_values"][0]

        with ThreadPoolExecutor(8) as pool:
            for found in [pool.submit(work) for _ in range(8)]:
                np.testing.assert_array_equal(found.result(), want)


def test_callers_on_many_threads(short_cuts):
    processor = CLIPImageProcessor()
    files = [noise_file(seed).getvalue() for seed in range(6)]
    want = [processor(Image.open(io.BytesIO(file)))["pixel_values"][0] for file in files]

    def batch(_: int) -> np.ndarray:
        return processor([Image.open(io.BytesIO(file)) for file in files], return_tensors="np")["pixel_values"]

    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(batch, range(12)):
            np.testing.assert_array_equal(found, want)


def test_reduced_twins_of_a_shared_picture(short_cuts):
    processor = CLIPImageProcessor(reduced_decoding=True)
    shared = Image.open(noise_file(1, size=(1000, 800)))
    want = processor(shared)["pixel_values"][0]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: processor(shared)["pixel_values"][0], range(24)):
            np.testing.assert_array_equal(found, want)
    assert fast.is_unread(shared)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_forked_process_starts_its_own_threads(short_cuts):
    code = """
import os, sys, threading, time, warnings
import numpy as np
from PIL import Image
from clip_core import CLIPImageProcessor
from clip_core.image import input
warnings.simplefilter("ignore")
picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
processor = CLIPImageProcessor()
want = processor([picture] * 4, return_tensors="np")["pixel_values"]
held = threading.Thread(target=lambda: [lock.acquire() for lock in input._LOCKS] and time.sleep(3), daemon=True)
held.start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(processor([picture] * 4, return_tensors="np")["pixel_values"], want) else 3)
for _ in range(200):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
sys.exit(4)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
