"""Reading parts of many files, and keeping many strings, both in little memory."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from clip_core.errors import DataError

OPEN_FILES = 16  # per thread: a few hundred shards must not meet the limit on open files


class Files:
    """Random access to a list of files, from any thread, in any process it is pickled to."""

    def __init__(self, paths: Iterable[str | os.PathLike]) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes of file `number` from `offset`. Raises DataError when there are fewer by now."""
        handles: OrderedDict[int, Any] = self._local.__dict__.setdefault("handles", OrderedDict())
        handle = handles.get(number)
        if handle is None:
            # Closed by reference count when it is dropped, or when its thread ends.
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


class PackedStrings:
    """A list of strings as two arrays: a million paths are one block of bytes, not a million objects."""

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
