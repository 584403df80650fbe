"""GGUF, the container of ggml's programs: a bounded, lazy reader of versions 2 and 3, and a writer of version 3.

Own code because the `gguf` package, which is there to write files, trusts what it reads. Plain numbers need no package;
quantised blocks are computed by `gguf.quants` (extra `gguf`), as float32. The format: ggml's docs/gguf.md.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, MissingDependencyError
from .source import FileSource, stream
from .tensor import STORAGE, Tensor

ALIGNMENT = 32
MAX_HEADER = 64 << 20
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_FLAG, _UINT, _FLOAT, _STRING, _ARRAY = 7, 4, 6, 8, 9
_PLAIN = {0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16"}
_CODES = {name: code for code, name in _PLAIN.items()}
_TOKENS, _KEPT = "tokenizer.ggml.tokens", 64  # longer arrays are of a tokenizer, and not kept


class _Header:
    """What is read one after the other from the front of a file."""

    def __init__(self, source: FileSource) -> None:
        self.source, self.at = source, 0
        self.data = source.bytes(0, min(source.size, 1 << 20))

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            if end > min(self.source.size, MAX_HEADER):
                raise CheckpointError(f"{self.source.path}: a GGUF header of {end} bytes, in {self.source.size}")
            self.data = self.source.bytes(0, min(self.source.size, MAX_HEADER, 2 * end))
        self.at = end
        return self.data[end - count : end]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth:
            raise CheckpointError(f"{self.source.path}: unknown type {kind} in a GGUF header")
        inner, count = self.number("<I"), self.number("<Q")
        self._check_count(count, 8 if inner == _STRING else 1)
        return [self.value(inner, depth + 1) for _ in range(count)]

    def counted(self, smallest: int) -> range:
        count = self.number("<Q")
        self._check_count(count, smallest)
        return range(count)

    def _check_count(self, count: int, smallest: int) -> None:
        if count * smallest > min(self.source.size, MAX_HEADER):
            raise CheckpointError(f"{self.source.path}: a GGUF header that counts {count} entries")


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(name -> Tensor, metadata): "gguf", the header's values as JSON, without long arrays but with "end_of_text".

    Raises: CheckpointError for damage, and for types that are not known; FileNotFoundError.
    """
    source = FileSource(path)
    header = _Header(source)
    magic, version = header.take(4), header.number("<I")
    if magic != b"GGUF" or version not in (2, 3):
        raise CheckpointError(f"{source.path}: wanted GGUF of version 2 or 3, little-endian, found {magic!r} {version}")
    entries, pairs = header.counted(24), header.counted(12)
    values: dict[str, Any] = {}
    for _ in pairs:
        key = header.text()
        values[key] = header.value(header.number("<I"))
    places = {}
    for _ in entries:
        name = header.text()
        if name in places:
            raise CheckpointError(f"{source.path}: {name}: there twice")
        sizes = [header.number("<Q") for _ in range(header.number("<I") % 256)]
        places[name] = (tuple(reversed(sizes)), header.number("<I"), header.number("<Q"))
    align = values.get("general.alignment", ALIGNMENT)
    if type(align) is not int or not 0 < align <= 1 << 20:
        raise CheckpointError(f"{source.path}: general.alignment: {str(align)[:40]}")
    start = -(-header.at // align) * align
    tensors = {n: _tensor(source, n, shape, kind, start + at) for n, (shape, kind, at) in places.items()}
    return tensors, {"gguf": json.dumps(_kept(values)), **_config(values)}


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in values.items() if not isinstance(v, list) or len(v) <= _KEPT}
    tokens = values.get(_TOKENS)
    if isinstance(tokens, list) and "<|endoftext|>" in tokens:
        kept["end_of_text"] = tokens.index("<|endoftext|>")
    return kept


def _config(values: Mapping[str, Any]) -> dict[str, str]:
    own = values.get("triclip.config")
    return {"config": own} if isinstance(own, str) else {}


def _tensor(source: FileSource, name: str, shape: tuple[int, ...], kind: int, place: int) -> Tensor:
    where = f"{source.path}: {name}"
    if len(shape) > 4 or math.prod(shape) > 1 << 40:
        raise CheckpointError(f"{where}: a shape of {shape}")
    if kind in _PLAIN:
        dtype = _PLAIN[kind]
        _check_inside(source, place, math.prod(shape) * STORAGE[dtype].itemsize, where)
        return source.tensor(place, dtype, shape)
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
    except ImportError:
        raise MissingDependencyError(f"{where}: ggml's type {kind} needs gguf: pip install 'triclip[gguf]'") from None
    try:
        form = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[form]
    except (ValueError, KeyError):
        raise CheckpointError(f"{where}: ggml's type {kind} is not known") from None
    if not shape or shape[-1] % block:
        raise CheckpointError(f"{where}: rows of {shape} are no blocks of {block}")
    count = math.prod(shape) // block * size
    _check_inside(source, place, count, where)

    def load() -> np.ndarray:
        try:
            rows = quants.dequantize(source.read(place, count).reshape(*shape[:-1], -1), form)
        except NotImplementedError:
            raise CheckpointError(f"{where}: {form.name} is not read here") from None
        return np.ascontiguousarray(rows, np.float32).reshape(shape)

    return Tensor("float32", shape, load)


def _check_inside(source: FileSource, place: int, count: int, where: str) -> None:
    if place + count > source.size:
        raise CheckpointError(f"{where}: bytes {place}..{place + count} are beyond the file's end ({source.size})")


def write(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write tensors one by one. values: strings, flags, integers from 0, floats, lists of floats or of strings."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, value in values.items():
        kind, raw = _packed(value)
        head += _text(key) + struct.pack("<I", kind) + raw
    position = 0
    for name, tensor in tensors.items():
        sizes = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += _text(name) + struct.pack("<I", len(tensor.shape)) + sizes
        head += struct.pack("<IQ", _CODES[tensor.dtype], position)
        position += tensor.nbytes + _padding(tensor.nbytes)
    with open(path, "wb") as file:
        file.write(head + bytes(_padding(len(head))))
        for tensor in tensors.values():
            for piece in stream(tensor):
                file.write(piece)
            file.write(bytes(_padding(tensor.nbytes)))
            if advance:
                advance(tensor.nbytes)


def _padding(count: int) -> int:
    return -count % ALIGNMENT


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _packed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return _STRING, _text(value)
    if isinstance(value, Sequence):
        inner = _STRING if value and isinstance(value[0], str) else _FLOAT
        raw = b"".join(_text(x) if inner == _STRING else struct.pack("<f", x) for x in value)
        return _ARRAY, struct.pack("<IQ", inner, len(value)) + raw
    kind = _FLAG if isinstance(value, bool) else _UINT if isinstance(value, int) else _FLOAT
    return kind, struct.pack(_SCALARS[kind], value)
