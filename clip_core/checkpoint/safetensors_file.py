"""safetensors files: a strict, lazy reader and a streaming writer.

Own code because the reader must be lazy, exact for bfloat16 without a framework, and must name what is wrong with a
bad file. The rules are the format's own: offsets that start at 0, leave no hole, don't overlap and end with the file.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .source import FileSource, stream
from .tensor import STORAGE, Tensor

MAX_HEADER = 100_000_000  # the format's own limit

# In the order in which the reference writer sorts tensors (widest last); sub-byte types have no use in CLIP.
DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_CODES = {name: code for code, name in DTYPES.items()}
_RANK = {name: rank for rank, name in enumerate(DTYPES.values())}


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(name -> Tensor, metadata) of a file. Reads the header only; each tensor reads its own bytes when used.

    Raises: CheckpointError for anything that isn't a well-formed file, FileNotFoundError.
    """
    source = FileSource(path)
    header, start = read_header(source)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{source.path}: __metadata__ must map strings to strings")
    entries = {name: _entry(source.path, name, entry) for name, entry in header.items()}
    _check_cover(source, start, entries)
    tensors = {name: source.tensor(start + begin, dtype, shape) for name, (dtype, shape, begin, _) in entries.items()}
    return tensors, metadata


def read_header(source: FileSource) -> tuple[dict[str, Any], int]:
    """(the header's JSON, where the data starts)."""
    if source.size < 8:
        raise CheckpointError(f"{source.path}: {source.size} bytes are too few for a safetensors file")
    (length,) = struct.unpack("<Q", source.bytes(0, 8))
    if length > min(MAX_HEADER, source.size - 8):
        raise CheckpointError(f"{source.path}: the header says it has {length} bytes; the file has {source.size}")
    raw = source.bytes(8, length)
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{source.path}: not a safetensors file (its header is not a JSON object)")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source.path}: the header can't be read: {error}") from None
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice!r}")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    def natural(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**63

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: {name}: wanted dtype, shape and data_offsets, found {str(entry)[:100]}")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise CheckpointError(f"{path}: {name}: unknown dtype {str(code)[:40]!r}; known: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(map(natural, shape)):
        raise CheckpointError(f"{path}: {name}: bad shape {str(shape)[:100]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(natural, offsets)):
        raise CheckpointError(f"{path}: {name}: bad data_offsets {str(offsets)[:100]}")
    begin, end = offsets
    wanted = math.prod(shape) * STORAGE[DTYPES[code]].itemsize
    if end - begin != wanted:
        raise CheckpointError(f"{path}: {name}: {code} {shape} needs {wanted} bytes, data_offsets give {end - begin}")
    return DTYPES[code], tuple(shape), begin, end


def _check_cover(source: FileSource, start: int, entries: Mapping[str, tuple[str, tuple[int, ...], int, int]]) -> None:
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise CheckpointError(f"{source.path}: {name}: data_offsets start at {begin}, wanted {position}: it {what}")
        position = end
    if start + position != source.size:
        raise CheckpointError(f"{source.path}: the tensors end at byte {start + position}, the file at {source.size}")


def write(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write tensors one by one; only one is in memory at a time. The bytes are those the safetensors package writes.

    Args:
        path: the file, overwritten in place (atomic replacement is the caller's).
        metadata: the file's `__metadata__`, e.g. {"format": "pt"}, which transformers demands.
        advance: called with the bytes of each tensor once it is written.
    """
    order = sorted(tensors, key=lambda name: (-_RANK[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        tensor = tensors[name]
        end = position + tensor.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)  # keeps every tensor aligned
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name in order:
            for piece in stream(tensors[name]):
                file.write(piece)
            if advance:
                advance(tensors[name].nbytes)
