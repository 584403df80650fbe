"""Writes PyTorch's zip format without torch: what `torch.load(weights_only=True)` reads."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .source import stream
from .tensor import Tensor
from .torch_file import STORAGE_CLASSES

_ALIGNMENT = 64  # PyTorch aligns storages so that they can be mapped


def write(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write a state dict, an OrderedDict of tensors; only one tensor is in memory at a time.

    Args:
        path: the file, overwritten in place (atomic replacement is the caller's).
        metadata: {"config": text} is kept as the record `extra/config.json`, which PyTorch ignores and our reader
            uses: a state dict alone names neither the heads nor the activation.
        advance: called with the bytes of each tensor once it is written.
    """
    import zipfile

    root = "archive"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _record(archive, f"{root}/data.pkl", *_one(_state_dict(tensors)))
        _record(archive, f"{root}/byteorder", *_one(b"little"))
        for number, tensor in enumerate(tensors.values()):
            _record(archive, f"{root}/data/{number}", tensor.nbytes, stream(tensor))
            if advance:
                advance(tensor.nbytes)
        if metadata and "config" in metadata:
            _record(archive, f"{root}/extra/config.json", *_one(metadata["config"].encode()))
        _record(archive, f"{root}/version", *_one(b"3\n"))


def _one(data: bytes) -> tuple[int, list[bytes]]:
    return len(data), [data]


def _record(archive: Any, name: str, size: int, pieces: Iterable[bytes | memoryview]) -> None:
    import zipfile

    info = zipfile.ZipInfo(name)  # the constant date of 1980 keeps files reproducible
    info.file_size = size
    zip64 = size * 1.05 > zipfile.ZIP64_LIMIT
    start = archive.fp.tell() + 30 + len(name.encode()) + 4 + (20 if zip64 else 0)
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding  # the field that PyTorch pads with
    with archive.open(info, "w", force_zip64=zip64) as record:
        for piece in pieces:
            record.write(piece)


def _state_dict(tensors: Mapping[str, Tensor]) -> bytes:
    """The pickle (protocol 2) of an OrderedDict of `torch._utils._rebuild_tensor_v2` calls."""
    ordered = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02", ordered, b"("]
    for number, (name, tensor) in enumerate(tensors.items()):
        if tensor.dtype not in STORAGE_CLASSES:
            raise CheckpointError(f"{name}: {tensor.dtype} can't be written to a PyTorch file; ask for another dtype")
        stride: list[int] = []
        step = 1
        for size in reversed(tensor.shape):
            stride.insert(0, step)
            step *= size
        storage = STORAGE_CLASSES[tensor.dtype].encode()
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("]
        parts += [_text("storage"), b"ctorch\n" + storage + b"\n", _text(str(number)), _text("cpu")]
        parts += [_integer(tensor.size), b"tQ", _integer(0), _tuple(tensor.shape), _tuple(stride)]
        parts += [b"\x89", ordered, b"tR"]  # requires_grad False, no hooks
    return b"".join([*parts, b"u."])


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def _tuple(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
