"""Reading parts of many files, and storing many strings, both in little memory."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from clip_core.errors import DataError

logger = logging.getLogger("triclip")

T = TypeVar("T")
R = TypeVar("R")

OPEN_FILES = 16  # per thread: a few hundred shards must stay below the limit on open files


class MissingShards:
    """The missing or damaged shards of a set: each is named in the log; at most `limit` are allowed.

    Beyond the limit, and if no shard is left, the first one's error is raised; with a limit of 0 at the first one.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.names = limit, []  # type: int, list[str]
        self._first: Exception | None = None

    def skip(self, path: Any, error: DataError | OSError) -> None:
        """Count a shard. Raises its error if none may be missing, DataError beyond the limit."""
        if self.limit == 0:
            raise error
        self._first = self._first or error
        self.names.append(os.fspath(path))
        if len(self.names) > self.limit:
            raise DataError(
                f"{path}: wanted at most {self.limit} missing or damaged shards (data.skip_shards), found "
                f"{len(self.names)}, the first: {self._first}"
            ) from error
        logger.warning("skipped a shard (%d of at most %d): %s", len(self.names), self.limit, error)

    def passing_over(self, path: Any, read: Callable[[Any], Any]) -> Iterator[Any]:
        """Yields read(path), or nothing if the shard is skipped."""
        try:
            found = read(path)
        except (DataError, OSError) as error:
            self.skip(path, error)
            return
        yield found

    def check_some_left(self, left: Any) -> None:
        """Raise the first one's error if nothing is left."""
        if not left and self._first is not None:
            raise self._first


class Files:
    """Random access to a list of files; thread-safe, and can be pickled to other processes."""

    def __init__(self, paths: Iterable[str | os.PathLike]) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes of file `number` from `offset`. Raises DataError if the file has become shorter."""
        handles: OrderedDict[int, Any] = self._local.__dict__.setdefault("handles", OrderedDict())
        handle = handles.get(number)
        if handle is None:
            # Closed by its reference count when it is dropped or its thread ends.
            handle = handles[number] = open(self.paths[number], "rb", buffering=0)  # noqa: SIM115
            if len(handles) > OPEN_FILES:
                handles.popitem(last=False)
        handles.move_to_end(number)
        parts = []
        while size > 0:
            part = os.pread(handle.fileno(), size, offset)
            if not part:
                raise DataError(f"{self.paths[number]}: wanted {size} more bytes at {offset}, found its end")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Parts:
    """Consecutive numbers for the samples of several parts."""

    def __init__(self, lengths: Iterable[int]) -> None:
        self._first = np.cumsum([0, *lengths], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._first[-1])

    def place(self, number: int) -> tuple[int, int]:
        """(part, number in it). Raises IndexError."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = int(np.searchsorted(self._first, number, "right")) - 1
        return part, number - int(self._first[part])


def in_processes(function: Callable[[T], R], items: Sequence[T], workers: int, chunksize: int = 1) -> Iterator[R]:
    """function(item) for each item, in order, by `workers` new processes; by this one for fewer than two of either."""
    if workers < 2 or len(items) < 2:
        yield from map(function, items)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(workers, len(items)), get_context("spawn")) as pool:
        yield from pool.map(function, items, chunksize=chunksize)


class PackedStrings:
    """A list of strings as two arrays: a million paths in one block of bytes instead of a million objects."""

    def __init__(self, strings: Iterable[str]) -> None:
        block, ends = bytearray(), []
        for string in strings:
            block += os.fsencode(string)
            ends.append(len(block))
        self._block, self._ends = bytes(block), np.array([0, *ends], np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        return os.fsdecode(self._block[self._ends[number] : self._ends[number + 1]])
