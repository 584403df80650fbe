"""A lock on a file, which the system releases when its holder ends in any way.

Written here instead of using the package filelock, because `embed` works with the base dependencies and little is
needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

_PAUSE = 0.05  # seconds between two tries on Windows, whose own wait is limited to ten seconds


@contextmanager
def locked(path: str | os.PathLike, wait: bool = True) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made if missing, for one thread of one process.

    wait: wait for another holder (default). False: raise BlockingIOError if there is one.

    On a file system without locks there is no exclusion. Raises FileNotFoundError if the folder is missing.
    """
    while True:
        with open(path, "ab") as file:
            _take(file, wait)
            if not _is_at(file, Path(path)):  # its last holder removed it
                continue
            try:
                yield
            finally:
                _release(file)
            return


def _take(file: BinaryIO, wait: bool) -> None:
    try:
        fcntl: Any = import_module("fcntl")
    except ModuleNotFoundError:
        _take_on_windows(file, wait)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        pass


def _take_on_windows(file: BinaryIO, wait: bool) -> None:
    msvcrt: Any = import_module("msvcrt")
    while True:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            return
        except PermissionError as error:
            if not wait:
                raise BlockingIOError(error.errno, "locked by another process", file.name) from error
            time.sleep(_PAUSE)


def _release(file: BinaryIO) -> None:
    """Release explicitly: closing a file releases its lock too, but on Windows possibly later."""
    try:
        import_module("fcntl")
    except ModuleNotFoundError:
        msvcrt: Any = import_module("msvcrt")
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
