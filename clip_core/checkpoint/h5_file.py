"""HDF5 weight files (TensorFlow's, Keras', KerasHub's, and those inside a .keras archive), read and written with h5py.

Only plain content is followed: hard links and datasets kept in the file itself. External links, soft links, external
storage and virtual datasets, which would read other files or loop, are refused. The numbers of a contiguous dataset
are read from the file directly, when they are used.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, MissingDependencyError
from .source import FileSource
from .tensor import STORAGE, Tensor
from .torch_file import zip_records

MAX_NAMES = 50_000
MAX_DEPTH = 64
MAX_RATIO = 16  # how many bytes a stored byte may stand for; weights hardly compress
_PIECE = 8 << 20  # bytes of a large tensor that are read and written at a time
_INNER = "model.weights.h5"  # inside a .keras archive
_ATTRIBUTE_LIMIT = 64512  # HDF5's limit of an attribute, less its header; longer lists are split as Keras splits them


def h5py() -> Any:
    """The h5py module. MissingDependencyError names the extra."""
    try:
        import h5py as module
    except ImportError:
        raise MissingDependencyError(
            "HDF5 files (TensorFlow's tf_model.h5, KerasHub's presets) need h5py: pip install 'triclip[tf]' or h5py"
        ) from None
    return module


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(path of the dataset -> Tensor, {}). Raises CheckpointError, FileNotFoundError, MissingDependencyError."""
    module = h5py()
    source = FileSource(path)
    base, size, extra = 0, source.size, {}
    if source.bytes(0, min(4, source.size)) == b"PK\x03\x04":
        records = zip_records(source, lambda name: name in (_INNER, "config.json"))
        if _INNER not in records:
            raise CheckpointError(f"{source.path}: a .keras archive without {_INNER}")
        base, size = records[_INNER]
        if "config.json" in records:
            extra["config"] = source.bytes(*records["config.json"]).decode("utf-8", "replace")
    tensors: dict[str, Tensor] = {}
    try:
        with module.File(_Window(source, base, size), "r") as file:
            _walk(file, "", 0, {}, tensors, source, base)
    except CheckpointError:
        raise
    # h5py reports damage as any of these, wherever HDF5 stumbles
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{source.path}: a damaged HDF5 file: {error}") from None
    return tensors, extra


class _Window(io.RawIOBase):
    """The part of a file that is the HDF5 file, for h5py to read."""

    def __init__(self, source: FileSource, base: int, size: int) -> None:
        self.source, self.base, self.size, self.position = source, base, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.size - self.position))
        memoryview(buffer)[:count] = self.source.read(self.base + self.position, count).data
        self.position += count
        return count


def _walk(
    group: Any, prefix: str, depth: int, seen: dict[int, str], found: dict[str, Tensor], source: FileSource, base: int
) -> None:
    module = h5py()
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{source.path}: {prefix}: groups nested more than {MAX_DEPTH} deep")
    for name in group:
        path = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), module.HardLink):
            raise CheckpointError(f"{source.path}: {path} is a soft or external link; only plain content is read")
        item = group[name]
        address = module.h5o.get_info(item.id).addr
        if address in seen:
            raise CheckpointError(f"{source.path}: {path} is the same object as {seen[address]}")
        seen[address] = path
        if len(seen) > MAX_NAMES:
            raise CheckpointError(f"{source.path}: more than {MAX_NAMES} objects")
        if isinstance(item, module.Group):
            _walk(item, f"{path}/", depth + 1, seen, found, source, base)
        elif isinstance(item, module.Dataset) and (tensor := _tensor(item, path, source, base)) is not None:
            found[path] = tensor


def _tensor(dataset: Any, path: str, source: FileSource, base: int) -> Tensor | None:
    """A dataset lazily; None for one that holds no numbers (text that Keras keeps beside the weights)."""
    dtype = _dtype(dataset)
    if dtype is None or dataset.shape is None:
        return None
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(f"{source.path}: {path} is kept in other files; only plain content is read")
    shape = tuple(int(n) for n in dataset.shape)
    nbytes = math.prod(shape) * STORAGE[dtype].itemsize
    stored = int(dataset.id.get_storage_size())
    if nbytes > MAX_RATIO * stored:
        raise CheckpointError(f"{source.path}: {path}: {nbytes} bytes of {shape} are kept in {stored}")
    big_endian = dataset.dtype.byteorder == ">"
    offset = dataset.id.get_offset()
    if offset is not None and dataset.chunks is None and nbytes:
        if offset + nbytes > source.size - base:
            raise CheckpointError(f"{source.path}: {path} ends beyond the end of the file")
        return source.tensor(base + offset, dtype, shape, big_endian)
    array = np.empty(shape, dataset.dtype)  # compact or chunked: small, or bounded by the ratio above
    if nbytes:
        dataset.read_direct(array)
    native = array.view(STORAGE[dtype]) if array.dtype.kind == "V" else array.astype(STORAGE[dtype], copy=False)
    return Tensor.from_numpy(native, dtype)


def _dtype(dataset: Any) -> str | None:
    stored = dataset.dtype
    if stored.kind == "V" and stored.itemsize == 2 and stored.names is None:
        name = dataset.attrs.get("dtype", "bfloat16")  # Keras keeps bfloat16 as two opaque bytes
        return "bfloat16" if name in ("bfloat16", b"bfloat16") else None
    return stored.name if stored.name in STORAGE and stored.kind in "biufc" else None


class Writer:
    """Writes datasets one by one into a new file; a context manager."""

    def __init__(self, path: str | Path) -> None:
        self._file = h5py().File(path, "w")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, path: str, tensor: Tensor) -> None:
        """One dataset; bfloat16 as Keras keeps it."""
        brain = tensor.dtype == "bfloat16"
        stored = np.dtype("V2") if brain else STORAGE[tensor.dtype]
        dataset = self._file.create_dataset(path, tensor.shape, stored, track_times=False)
        if brain:
            dataset.attrs["dtype"] = "bfloat16"
        if tensor.part is None or tensor.nbytes <= _PIECE:
            dataset[...] = tensor.numpy().view(stored)
            return
        step = max(1, _PIECE * tensor.shape[0] // tensor.nbytes)
        for start in range(0, tensor.shape[0], step):
            stop = min(start + step, tensor.shape[0])
            dataset[start:stop] = tensor.rows(start, stop).numpy().view(stored)

    def attribute(self, group: str, name: str, value: Any) -> None:
        self._file.require_group(group).attrs[name] = value

    def names(self, group: str, name: str, values: list[str]) -> None:
        """A list of names, split over `name0`, `name1`, ... where it is too long for one attribute."""
        array = np.array([value.encode() for value in values]) if values else np.array([], "S1")
        parts = -(-array.nbytes // _ATTRIBUTE_LIMIT) or 1
        attrs = self._file.require_group(group).attrs
        if parts == 1:
            attrs[name] = array
        else:
            for number, part in enumerate(np.array_split(array, parts)):
                attrs[f"{name}{number}"] = part


def write_tf(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    model: str,
    sharded: bool,
    advance: Callable[[int], None] | None = None,
    main: Collection[str] | None = None,
) -> None:
    """A file that transformers' TF classes load.

    Args:
        tensors: name after `clip/` -> tensor, in the dialect's layout.
        main: those of the layer "clip"; the others belong to layers that a subclass has beside it. Default all.
        model: the Keras name of the model, "tfclip_model".
        sharded: the layout of shards, which has no model's name.
    """
    names = {name: f"clip/{name}" if main is None or name in main else name for name in tensors}
    layers = list(dict.fromkeys(name.partition("/")[0] for name in names.values()))
    with Writer(path) as file:
        for name, tensor in tensors.items():
            layer = names[name].partition("/")[0]
            file.put(names[name] if sharded else f"{layer}/{model}/{names[name]}", tensor)
            if advance:
                advance(tensor.nbytes)
        if sharded:
            file.names("/", "layer_names", list(names.values()))
            return
        file.names("/", "layer_names", layers)
        for layer in layers:
            own = [f"{model}/{name}" for name in names.values() if name.startswith(f"{layer}/")]
            file.names(layer, "weight_names", own)
        file.attribute("/", "backend", "tensorflow")
        file.attribute("/", "keras_version", "2.15.0")


def write_plain(path: str | Path, tensors: Mapping[str, Tensor], advance: Callable[[int], None] | None = None) -> None:
    """A file of datasets at their paths (Keras 3's weights.h5)."""
    with Writer(path) as file:
        for name, tensor in tensors.items():
            file.put(name, tensor)
            if advance:
                advance(tensor.nbytes)
