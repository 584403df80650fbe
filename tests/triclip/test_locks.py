"""Locks on files: one holder at a time, on POSIX and by Windows' calls."""

import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from triclip.locks import locked

ROOT = Path(__file__).parents[2]


class Windows:
    """msvcrt's locks as its documentation has them."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self):
        self.held = set()

    def locking(self, descriptor, mode, count):
        place = os.fstat(descriptor).st_ino
        if mode == self.LK_UNLCK:
            self.held.remove(place)
        elif place in self.held:
            raise PermissionError(13, "Permission denied")
        else:
            self.held.add(place)


@pytest.fixture(params=["here", "Windows"])
def system(request, monkeypatch):
    if request.param == "Windows":
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", Windows())
    return request.param


def test_one_holder_at_a_time(system, tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass


def test_threads_wait_for_their_turn(system, tmp_path):
    inside, most = [], []

    def hold():
        for _ in range(5):
            with locked(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 15


def test_a_lock_ends_with_its_process(tmp_path):
    code = f"import os\nfrom triclip.locks import locked\nwith locked({str(tmp_path / 'lock')!r}): os._exit(1)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_lock_whose_file_was_removed_meanwhile(tmp_path):
    """Who waited for it takes the file that is there now."""
    path, taken = tmp_path / "lock", []

    def wait():
        with locked(path):
            taken.append(path.exists())

    with locked(path):
        thread = threading.Thread(target=wait)
        thread.start()
        path.unlink()
    thread.join()
    assert taken == [True]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    fcntl = types.SimpleNamespace(flock=refuse, LOCK_EX=2, LOCK_NB=4)
    monkeypatch.setitem(sys.modules, "fcntl", fcntl)
    with locked(tmp_path / "lock"), locked(tmp_path / "lock"):
        pass
    with pytest.raises(FileNotFoundError), locked(tmp_path / "no" / "lock"):
        pass
