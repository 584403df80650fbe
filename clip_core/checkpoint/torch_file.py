"""PyTorch files (.bin, .pt, .pth, .ckpt, TorchScript archives, the older format), read without torch or execution.

A zip archive holds `<root>/data.pkl`, whose persistent ids name the records `<root>/data/<key>`; TorchScript adds
`code/` and `constants.pkl`, which are never looked at. Files from before torch 1.6 are a row of pickles followed by
the storages. Tensors are read from their records when used, at their offset and stride.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError
from .pickle_machine import Global, Machine, Opaque, PickleError, State, run
from .source import FileSource
from .tensor import STORAGE, Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE = 64 << 20
MAX_NAMES = 50_000
MAX_DEPTH = 64

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "UntypedStorage": "uint8",
}
STORAGE_CLASSES = {dtype: name for name, dtype in reversed(_STORAGE_DTYPES.items())}
_INERT = ("pytorch_lightning.", "lightning.")  # callbacks that Stable Diffusion's training left in its files, by name


class Storage(NamedTuple):
    """A run of bytes in the file: what `persistent id` stands for."""

    source: FileSource
    offset: int
    nbytes: int
    dtype: str
    big_endian: bool = False


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(name -> Tensor, {"config": text} when our writer put one in). Nested dicts and modules give dotted names.

    Raises: CheckpointError for damage and for anything a state dict has no business holding; FileNotFoundError.
    """
    source = FileSource(path)
    try:
        if source.size >= 4 and source.bytes(0, 4) == b"PK\x03\x04":
            value, extra = _read_zip(source)
        else:
            value, extra = _read_legacy(source), {}
        return flatten(value, source.path), extra
    except PickleError as error:
        raise CheckpointError(f"{source.path}: {error}") from None


def is_legacy(source: FileSource) -> bool:
    """Whether the file starts with the pickled magic number of torch < 1.6."""
    magic = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")
    return magic in source.bytes(0, min(32, source.size))  # a few bytes in: how many depends on the pickle protocol


# --- the zip format -------------------------------------------------------------------------------------------------


def _read_zip(source: FileSource) -> tuple[Any, dict[str, str]]:
    records = zip_records(source)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{source.path}: a zip file without one <name>/data.pkl: not a PyTorch file")
    root = pickles[0].removesuffix("data.pkl")

    def content(name: str, limit: int) -> bytes:
        offset, size = records[root + name]
        if size > limit:
            raise CheckpointError(f"{source.path}: {root}{name} has {size} bytes, more than {limit}")
        return source.bytes(offset, size)

    big_endian = root + "byteorder" in records and content("byteorder", 16) == b"big"

    def persistent(ident: Any) -> Storage:
        dtype, key, count = _storage_id(ident)
        if f"{root}data/{key}" not in records:
            raise PickleError(f"the record {root}data/{key} is missing")
        offset, size = records[f"{root}data/{key}"]
        needed = count * STORAGE[dtype].itemsize
        if needed > size:
            raise PickleError(f"the record {root}data/{key} has {size} bytes, wanted {needed}")
        return Storage(source, offset, needed, dtype, big_endian)

    extra = (
        {"config": content("extra/config.json", 1 << 20).decode("utf-8", "replace")}
        if (root + "extra/config.json" in records)
        else {}
    )
    return run(content("data.pkl", MAX_PICKLE), _machine(persistent)), extra


def _holds_weights(name: str) -> bool:
    root, _, rest = name.partition("/")
    return rest in ("data.pkl", "byteorder", "extra/config.json") or rest.startswith("data/")


def zip_records(source: FileSource, wanted: Callable[[str], bool] = _holds_weights) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) of the wanted records of a zip file, which must be stored plain."""
    import zipfile

    try:
        with zipfile.ZipFile(source.path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError) as error:
        raise CheckpointError(f"{source.path}: not a whole zip file: {error}") from None
    records: dict[str, tuple[int, int]] = {}
    for info in infos:
        if not wanted(info.filename) or info.filename.endswith("/"):
            continue
        if info.filename in records:
            raise CheckpointError(f"{source.path}: the record {info.filename} is there twice")
        if info.compress_type != 0 or info.compress_size != info.file_size or info.flag_bits & 1:
            raise CheckpointError(
                f"{source.path}: {info.filename} is compressed or encrypted; weights are stored plain"
            )
        header = source.bytes(info.header_offset, 30)
        if header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"{source.path}: {info.filename} has no local header")
        name_length, extra_length = struct.unpack("<HH", header[26:])
        offset = info.header_offset + 30 + name_length + extra_length
        if offset + info.file_size > source.size:
            raise CheckpointError(f"{source.path}: {info.filename} ends beyond the end of the file")
        records[info.filename] = (offset, info.file_size)
    return records


def _storage_id(ident: Any) -> tuple[str, str, int]:
    """(dtype, key, number of elements) of ('storage', class, key, location, count, ...)."""
    if not isinstance(ident, tuple) or len(ident) < 5 or ident[0] != "storage" or not isinstance(ident[1], Global):
        raise PickleError("damaged pickle: a persistent id that names no storage")
    dtype = _STORAGE_DTYPES.get(ident[1].name)
    key, count = ident[2], ident[4]
    if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
        raise PickleError(f"a storage of an unknown kind: {ident[1]}")
    return dtype, key, count


# --- the format before torch 1.6 ------------------------------------------------------------------------------------


def _read_legacy(source: FileSource) -> Any:
    if not is_legacy(source):
        raise CheckpointError(f"{source.path}: neither a zip archive nor an old PyTorch file")
    # Storages come after the pickles and may be large: the pickles are read through a bounded window.
    window = _Window(source)
    pending: dict[str, tuple[str, int]] = {}
    views: dict[str, list[Storage]] = {}

    def persistent(ident: Any) -> _Pending:
        dtype, key, count = _storage_id(ident)
        start, size = 0, count
        if len(ident) > 5 and ident[5] is not None:  # a view of a storage: (key, offset, size)
            view = ident[5]
            if not isinstance(view, tuple) or len(view) != 3 or not all(type(v) is int and v >= 0 for v in view[1:]):
                raise PickleError("damaged pickle: a bad view of a storage")
            start, size = view[1], view[2]
        if pending.setdefault(key, (dtype, count)) != (dtype, count) or start + size > count:
            raise PickleError(f"damaged pickle: the storage {key} is described in two ways")
        return _Pending(key, dtype, start, size, views)

    no_storages = _machine(lambda ident: _refuse("a storage where none can be"))
    if no_storages.run(window) != LEGACY_MAGIC:
        raise PickleError("not an old PyTorch file")
    _machine(_refuse).run(window)  # protocol version
    info = _machine(_refuse).run(window)
    value = _machine(persistent).run(window)
    keys = _machine(_refuse).run(window)
    big_endian = isinstance(info, dict) and info.get("little_endian") is False
    position = window.tell()
    for key in keys if isinstance(keys, list) else ():
        if key not in pending:
            raise PickleError(f"an unknown storage {str(key)[:40]!r}")
        dtype, count = pending.pop(key)
        (stored,) = struct.unpack(">q" if big_endian else "<q", source.bytes(position, 8))
        if stored != count:
            raise PickleError(f"the storage {key} has {stored} elements, wanted {count}")
        nbytes = count * STORAGE[dtype].itemsize
        if position + 8 + nbytes > source.size:
            raise PickleError(f"the storage {key} ends beyond the end of the file")
        views[key] = [Storage(source, position + 8, nbytes, dtype, big_endian)]
        position += 8 + nbytes
    if pending:
        raise PickleError(f"the storages {sorted(pending)[:5]} are missing")
    return value


class _Pending(NamedTuple):
    """A storage whose place in the file is known only once the pickles have been read."""

    key: str
    dtype: str
    start: int
    size: int
    places: dict[str, list[Storage]]

    def resolve(self) -> Storage:
        if self.key not in self.places:
            raise PickleError(f"the storage {self.key} is missing")
        whole = self.places[self.key][0]
        item = STORAGE[self.dtype].itemsize
        return whole._replace(offset=whole.offset + self.start * item, nbytes=self.size * item)


class _Window:
    """What `pickletools` needs of a file: read, readline and tell over a FileSource, in bounded steps."""

    def __init__(self, source: FileSource) -> None:
        self.source, self.position = source, 0
        self.first, self.buffer = 0, b""

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes:
        start = self.position - self.first
        if start + count > len(self.buffer):
            wanted = min(max(count, 1 << 16), self.source.size - self.position)
            if self.position + wanted > MAX_PICKLE + (1 << 16):
                raise PickleError(f"its pickles have more than {MAX_PICKLE} bytes")
            self.first, self.buffer, start = self.position, self.source.bytes(self.position, wanted), 0
        data = self.buffer[start : start + count]
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) < 4096 and (byte := self.read(1)):
            line += byte
        return line


def _refuse(ident: Any) -> Any:
    raise PickleError("damaged pickle: a storage where none can be")


# --- what the pickles may hold --------------------------------------------------------------------------------------


class Description(NamedTuple):
    """A tensor as the pickle describes it, before its storage is known."""

    storage: Any
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None


def _machine(persistent: Callable[[Any], Any]) -> Machine:
    def mention(what: Global) -> bool:
        return (
            (what.module in ("torch", "torch.cuda", "torch.storage") and what.name in _STORAGE_DTYPES)
            or (what.module == "torch" and what.name in STORAGE)
            or what.module.startswith(_INERT)
            or what in (Global("builtins", "dict"), Global("__builtin__", "dict"))
        )

    return Machine(_CALLS, mention, lambda what: what.module.split(".")[0] == "__torch__", persistent)


def _rebuild_tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> Description:
    return _description(storage, offset, shape, stride)


def _rebuild_tensor_v3(storage: Any, offset: int, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any):
    if not isinstance(dtype, Global) or dtype.name not in STORAGE:
        raise PickleError("a tensor of an unknown dtype")
    return _description(storage, offset, shape, stride, dtype.name)


def _description(storage: Any, offset: Any, shape: Any, stride: Any, dtype: str | None = None) -> Description:
    if not isinstance(storage, Storage | _Pending):
        raise PickleError("damaged pickle: a tensor without a storage")
    axes = (shape, stride)
    if not all(isinstance(a, tuple | list) and len(a) <= 32 for a in axes) or len(shape) != len(stride):
        raise PickleError("damaged pickle: a tensor with a bad shape")
    if not all(type(n) is int and 0 <= n < 2**63 for a in ((offset,), *axes) for n in a):
        raise PickleError("a tensor whose shape, stride or offset is no natural number")
    return Description(storage, offset, tuple(shape), tuple(stride), dtype)


def _first(value: Any, *_: Any) -> Any:
    return value


def _mapping(items: Any = (), *_: Any) -> dict[Any, Any]:
    """collections.OrderedDict(pairs), defaultdict(factory)."""
    if isinstance(items, list | tuple):
        return {pair[0]: pair[1] for pair in items if isinstance(pair, list | tuple) and isinstance(pair[0], str | int)}
    return {}


def _encode(text: Any, *_: Any) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else b""


def _opaque(*_: Any) -> Opaque:
    return Opaque()


_CALLS: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): _mapping,
    Global("collections", "defaultdict"): _mapping,
    Global("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    Global("torch._utils", "_rebuild_parameter"): _first,
    Global("torch._utils", "_rebuild_parameter_with_state"): _first,
    Global("torch", "Size"): _first,
    Global("torch", "device"): _opaque,
    Global("torch.jit._pickle", "build_intlist"): _first,
    Global("torch.jit._pickle", "build_doublelist"): _first,
    Global("torch.jit._pickle", "build_boollist"): _first,
    Global("torch.jit._pickle", "build_tensorlist"): _first,
    Global("torch.jit._pickle", "restore_type_tag"): _first,
    Global("_codecs", "encode"): _encode,
    Global("numpy", "dtype"): _opaque,
    Global("numpy.core.multiarray", "scalar"): _opaque,
    Global("numpy._core.multiarray", "scalar"): _opaque,
    Global("argparse", "Namespace"): _opaque,
    Global("builtins", "set"): _opaque,
    Global("__builtin__", "set"): _opaque,
    Global("pathlib", "PosixPath"): _opaque,
}


def flatten(value: Any, path: os.PathLike[str]) -> dict[str, Tensor]:
    """Every tensor in nested dicts and modules, under its dotted name; everything else is left out."""
    found: dict[str, Tensor] = {}
    open_: list[tuple[str, Any, int]] = [("", value, 0)]
    visited = 0
    while open_:
        prefix, node, depth = open_.pop()
        for key, child in reversed(list(_children(node))):
            visited += 1
            if visited > MAX_NAMES or depth > MAX_DEPTH:
                raise CheckpointError(f"{path}: nested too deeply, or more than {MAX_NAMES} entries")
            open_.append((f"{prefix}.{key}" if prefix else str(key), child, depth + 1))
        if isinstance(node, Description):
            if prefix in found:
                raise CheckpointError(f"{path}: {prefix}: there twice")
            found[prefix] = _tensor(node, prefix, path)
    return found


def _children(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, State):
        return node.attributes.items()
    if isinstance(node, dict):
        return ((key, child) for key, child in node.items() if isinstance(key, str | int))
    return ()


def _tensor(what: Description, name: str, path: os.PathLike[str]) -> Tensor:
    storage = what.storage.resolve() if isinstance(what.storage, _Pending) else what.storage
    dtype = what.dtype or storage.dtype
    item = STORAGE[dtype].itemsize
    size = math.prod(what.shape)
    last = what.offset + sum((n - 1) * s for n, s in zip(what.shape, what.stride, strict=True)) if size else 0
    if size * item > storage.nbytes or (size and (last + 1) * item > storage.nbytes):
        raise CheckpointError(
            f"{path}: {name}: shape {what.shape}, stride {what.stride}, offset {what.offset} need more than the "
            f"{storage.nbytes} bytes of its storage"
        )
    if _is_contiguous(what.shape, what.stride) or not size:
        start = storage.offset + what.offset * item if size else storage.offset
        return storage.source.tensor(start, dtype, what.shape, storage.big_endian)
    flat = storage.source.tensor(storage.offset, dtype, (storage.nbytes // item,), storage.big_endian)

    def load() -> np.ndarray:
        data = flat.numpy()[what.offset :]
        strides = tuple(s * item for s in what.stride)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(data, what.shape, strides, writeable=False))

    return Tensor(dtype, what.shape, load)


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
