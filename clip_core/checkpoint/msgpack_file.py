"""Flax's msgpack weight files, read lazily and written without flax or msgpack.

A file is nested maps with arrays at the leaves: extension type 1 (or 3, a NumPy scalar), whose payload is again
msgpack: (shape, dtype name, bytes). Only this subset is accepted, so every length is checked against the file, and
the bytes of an array are read when they are used.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError
from .source import FileSource, stream
from .tensor import STORAGE, Tensor

MAX_DEPTH = 64
MAX_NAMES = 50_000
MAX_TEXT = 1 << 16
CHUNK = 2**30  # flax splits larger arrays
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY_EXTENSIONS = (1, 3)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(names joined by dots -> Tensor, {}). Raises CheckpointError, FileNotFoundError."""
    source = FileSource(path)
    reader = _Reader(source)
    try:
        tree = reader.value(0)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise CheckpointError(f"{source.path}: damaged msgpack at byte {reader.position}: {error}") from None
    if reader.position != source.size:
        raise CheckpointError(f"{source.path}: {source.size - reader.position} bytes after the end")
    if not isinstance(tree, dict):
        raise CheckpointError(f"{source.path}: wanted a map of weights, found a {type(tree).__name__}")
    found: dict[str, Tensor] = {}
    _flatten(tree, "", found, source.path)
    return found, {}


def _flatten(tree: Mapping[str, Any], prefix: str, found: dict[str, Tensor], path: Path) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and _CHUNKED in value:
            found[name] = _joined(value, name, path)
        elif isinstance(value, dict):
            _flatten(value, f"{name}.", found, path)
        elif isinstance(value, Tensor):
            if name in found:
                raise CheckpointError(f"{path}: {name}: there twice")
            found[name] = value


def _joined(value: Mapping[str, Any], name: str, path: Path) -> Tensor:
    """An array that flax split: {shape: {"0": n, ...}, chunks: {"0": flat array, ...}}."""
    shape: Any = value.get("shape")
    chunks: Any = value.get("chunks")
    try:
        sizes = tuple(shape[str(i)] for i in range(len(shape)))
        parts = [chunks[str(i)] for i in range(len(chunks))]
    except (TypeError, KeyError):
        raise CheckpointError(f"{path}: {name}: a chunked array without its shape or chunks") from None
    good = parts and all(isinstance(p, Tensor) and p.dtype == parts[0].dtype for p in parts)
    if not good or not all(type(n) is int and n >= 0 for n in sizes) or math.prod(sizes) != sum(p.size for p in parts):
        raise CheckpointError(f"{path}: {name}: the chunks don't make an array of shape {sizes}")
    storage = STORAGE[parts[0].dtype]

    def load() -> np.ndarray:
        whole = np.empty(math.prod(sizes), storage)
        position = 0
        for part in parts:  # one chunk in memory beside the array
            whole[position : position + part.size] = part.numpy().reshape(-1)
            position += part.size
        return whole.reshape(sizes)

    return Tensor(parts[0].dtype, sizes, load)


class _Reader:
    """A cursor over a file that reads msgpack's headers and skips the arrays' bytes."""

    def __init__(self, source: FileSource) -> None:
        self.source, self.position, self.count = source, 0, 0

    def take(self, count: int) -> bytes:
        if count > self.source.size - self.position:
            raise CheckpointError(
                f"{self.source.path}: at byte {self.position} {count} bytes are wanted, beyond the end of the file"
            )
        data = self.source.bytes(self.position, count)
        self.position += count
        return data

    def number(self, code: str) -> Any:
        return struct.unpack(f">{code}", self.take(struct.calcsize(code)))[0]

    def value(self, depth: int) -> Any:
        """The next value: dict, tuple, str, number, None, or a lazy Tensor."""
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NAMES:
            raise CheckpointError(f"{self.source.path}: nested too deeply, or more than {MAX_NAMES} values")
        byte = self.take(1)[0]
        if byte <= 0x7F:
            return byte
        if byte >= 0xE0:
            return byte - 256
        if byte <= 0x8F:
            return self.map(byte & 15, depth)
        if byte <= 0x9F:
            return self.items(byte & 15, depth)
        if byte <= 0xBF:
            return self.text(byte & 31)
        if byte in _SCALARS:
            return self.number(_SCALARS[byte])
        if byte in _CONSTANTS:
            return _CONSTANTS[byte]
        if byte in _SIZED:
            code, kind = _SIZED[byte]
            size = self.number(code) if code else 1 << (byte - 0xD4)
            return getattr(self, kind)(size, depth) if kind in ("map", "items") else getattr(self, kind)(size)
        raise CheckpointError(f"{self.source.path}: damaged msgpack at byte {self.position - 1}: code {byte:#x}")

    def map(self, size: int, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in result:
                raise CheckpointError(f"{self.source.path}: a key that is no text, or there twice: {str(key)[:60]!r}")
            result[key] = self.value(depth + 1)
        return result

    def items(self, size: int, depth: int) -> tuple[Any, ...]:
        return tuple(self.value(depth + 1) for _ in range(size))

    def text(self, size: int) -> str:
        if size > MAX_TEXT:
            raise CheckpointError(f"{self.source.path}: a text of {size} bytes")
        return self.take(size).decode("utf-8")

    def binary(self, size: int) -> tuple[int, int]:
        """Where bytes are; they aren't read."""
        start = self.position
        if size > self.source.size - start:
            raise CheckpointError(f"{self.source.path}: {size} bytes from {start} are beyond the end of the file")
        self.position += size
        return start, size

    def extension(self, size: int) -> Tensor:
        kind = self.number("b")
        end = self.position + size
        if kind not in _ARRAY_EXTENSIONS or end > self.source.size:
            raise CheckpointError(f"{self.source.path}: an extension {kind} of {size} bytes at {self.position}")
        described = self.value(MAX_DEPTH - 3)
        if self.position != end or not isinstance(described, tuple) or len(described) != 3:
            raise CheckpointError(f"{self.source.path}: damaged array before byte {end}")
        shape, dtype, place = described
        natural = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**63 for n in shape)
        if not natural or not isinstance(dtype, str) or dtype not in STORAGE or not isinstance(place, tuple):
            raise CheckpointError(f"{self.source.path}: an array of unknown dtype or bad shape before byte {end}")
        if len(place) != 2 or math.prod(shape) * STORAGE[dtype].itemsize != place[1]:
            raise CheckpointError(f"{self.source.path}: {dtype} {shape} has not {place[-1]} bytes")
        return self.source.tensor(place[0], dtype, shape)


_SCALARS = {
    0xCA: "f",
    0xCB: "d",
    0xCC: "B",
    0xCD: "H",
    0xCE: "I",
    0xCF: "Q",
    0xD0: "b",
    0xD1: "h",
    0xD2: "i",
    0xD3: "q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_SIZED: dict[int, tuple[str, str]] = dict(
    zip(
        (0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF),
        [(code, kind) for kind in ("binary", "extension", "text") for code in "BHI"]
        + [(code, kind) for kind in ("items", "map") for code in "HI"],
        strict=True,
    )
) | dict.fromkeys(range(0xD4, 0xD9), ("", "extension"))


def write(path: str | Path, tensors: Mapping[str, Tensor], advance: Callable[[int], None] | None = None) -> None:
    """Write dotted names as the nested maps that `flax.serialization.msgpack_restore` reads, one tensor at a time."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = tensor
    with open(path, "wb") as file:
        _put(file, tree, advance)


def _put(file: BinaryIO, value: Any, advance: Callable[[int], None] | None) -> None:
    if isinstance(value, Tensor):
        if value.nbytes > CHUNK:
            _put_chunks(file, value, advance)
            return
        _put_array(file, value)
        if advance:
            advance(value.nbytes)
        return
    file.write(_map(len(value)))
    for key, child in value.items():
        file.write(_text(key))
        _put(file, child, advance)


def _put_array(file: BinaryIO, tensor: Tensor) -> None:
    sizes = bytes([0x90 | len(tensor.shape)]) + b"".join(map(_integer, tensor.shape))
    head = b"\x93" + sizes + _text(tensor.dtype) + _header(tensor.nbytes, 0, 0, (0xC4, 0xC5, 0xC6))
    size = len(head) + tensor.nbytes
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(size)
    file.write(bytes([fixed]) if fixed else _header(size, 0, 0, (0xC7, 0xC8, 0xC9)))
    file.write(b"\x01" + head)
    for piece in stream(tensor):
        file.write(piece)


def _put_chunks(file: BinaryIO, tensor: Tensor, advance: Callable[[int], None] | None) -> None:
    step = CHUNK // STORAGE[tensor.dtype].itemsize
    flat = tensor.numpy().reshape(-1)
    starts = range(0, flat.size, step)
    file.write(_map(3) + _text(_CHUNKED) + b"\xc3" + _text("shape") + _map(len(tensor.shape)))
    for axis, size in enumerate(tensor.shape):
        file.write(_text(str(axis)) + _integer(size))
    file.write(_text("chunks") + _map(len(starts)))
    for number, start in enumerate(starts):
        part = flat[start : start + step]
        file.write(_text(str(number)))
        _put_array(file, Tensor.from_numpy(part, tensor.dtype))
        if advance:
            advance(part.nbytes)


def _header(size: int, short: int, limit: int, codes: tuple[int | None, int, int]) -> bytes:
    """The shortest header for a size: within the code below `limit`, or with 8, 16 or 32 bits after it."""
    if size < limit:
        return bytes([short | size])
    if size < 1 << 8 and codes[0] is not None:
        return bytes([codes[0], size])
    return struct.pack(">BH", codes[1], size) if size < 1 << 16 else struct.pack(">BI", codes[2], size)


def _map(size: int) -> bytes:
    return _header(size, 0x80, 16, (None, 0xDE, 0xDF))


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return _header(len(raw), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + raw


def _integer(value: int) -> bytes:
    return struct.pack(">BQ", 0xCF, value) if value >= 1 << 32 else _header(value, 0, 128, (0xCC, 0xCD, 0xCE))
