"""Reading byte ranges of a regular file: bounded, counted by the caller, and safe against the file changing."""

from __future__ import annotations

import bisect
import math
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from .tensor import STORAGE, Tensor

_CHUNK = 1 << 30  # one read call never moves more than 2 GiB
_PIECE = 8 << 20  # bytes; small enough for the allocator to use the same memory again


class FileSource:
    """A file held open for reading.

    The file stays open for as long as a tensor refers to it, so tensors of a checkpoint keep their numbers when the
    file is replaced by a new one. Nothing is mapped unless a tensor's `map` is called: a file that shrinks gives an
    error, not a bus error.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():  # also refuses pipes and devices, which could block for ever
            raise FileNotFoundError(f"{self.path}: no such file")
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - kept open on purpose, see above
        self._lock = threading.Lock()
        self._mapping: mmap.mmap | None = None
        self._mapped: list[tuple[int, int]] = []  # the ranges of it that arrays have, in order
        self.size = os.fstat(self._file.fileno()).st_size

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read(self, offset: int, count: int) -> np.ndarray:
        """`count` bytes from `offset` as uint8. CheckpointError when the file doesn't have them."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CheckpointError(
                f"{self.path}: bytes {offset}..{offset + count} are beyond the end of the file ({self.size} bytes)"
            )
        data = np.empty(count, np.uint8)
        done = 0
        while done < count:
            with self._lock:
                self._file.seek(offset + done)
                step = self._file.readinto(data.data[done : done + _CHUNK])
            if not step:
                raise CheckpointError(
                    f"{self.path}: the file ended at {offset + done}; it was changed while being read"
                )
            done += step
        return data

    def bytes(self, offset: int, count: int) -> bytes:
        return self.read(offset, count).tobytes()

    def tensor(self, offset: int, dtype: str, shape: tuple[int, ...], big_endian: bool = False) -> Tensor:
        """The C-contiguous tensor that starts at `offset`."""
        storage = STORAGE[dtype]
        size = math.prod(shape)

        def part(start: int, stop: int) -> np.ndarray:
            data = self.read(offset + start * storage.itemsize, (stop - start) * storage.itemsize)
            return native(data.view(storage), big_endian)

        place = None if big_endian else offset
        mappable = size and offset % storage.itemsize == 0 and big_endian != np.little_endian
        mapped = (lambda: self._map(offset, storage, size).reshape(shape)) if mappable else None
        return Tensor(dtype, shape, lambda: part(0, size).reshape(shape), part, place, mapped)

    def _map(self, offset: int, storage: np.dtype, size: int) -> np.ndarray:
        """An array over the file's pages, which copies those that are written to.

        All share one mapping: Linux counts, and finds room for, megabytes around what is touched in each. But no two
        share bytes: neither sees what is written to the other.
        """
        end = offset + size * storage.itemsize
        if os.fstat(self._file.fileno()).st_size < end:
            raise CheckpointError(f"{self.path}: the file became shorter since it was opened")
        with self._lock:
            after = bisect.bisect_left(self._mapped, (offset, end))
            taken = self._mapped[max(after - 1, 0) : after + 1]  # the two that could overlap, if any does
            overlaps = any(start < end and offset < stop for start, stop in taken)
            if self._mapping is None or overlaps or len(self._mapping) < end:
                self._mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
                self._mapped, after = [], 0
            self._mapped.insert(after, (offset, end))
            return np.frombuffer(self._mapping, storage, size, offset)


def stream(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes as files have them, a large one in pieces where its source can be read so."""
    step = _PIECE // STORAGE[tensor.dtype].itemsize
    if tensor.part is None or tensor.size <= step:
        yield file_bytes(tensor.numpy())
        return
    for start in range(0, tensor.size, step):
        yield file_bytes(tensor.part(start, min(start + step, tensor.size)))


def native(array: np.ndarray, big_endian: bool = False) -> np.ndarray:
    """Bytes of a file as numbers of this machine."""
    if array.dtype.itemsize > 1 and big_endian == np.little_endian:
        return array.byteswap()
    return array


def file_bytes(array: np.ndarray) -> memoryview:
    """An array's bytes as files have them: C order, little-endian."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return (flat if np.little_endian else flat.byteswap()).view(np.uint8).data
