"""Which container a file is, and its tensors. The first bytes decide; a wrong file ending does no harm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError
from ..reading import IMPOSTOR_BYTES, impostor
from .source import FileSource
from .tensor import Tensor


class Content(NamedTuple):
    """What is in one file, or in one set of shards."""

    container: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def kind(path: Path) -> str:
    """'safetensors', 'torch', 'npz', 'keras', 'h5', 'gguf' or 'msgpack'. CheckpointError when it is none of them."""
    source = FileSource(path)
    start = source.bytes(0, min(IMPOSTOR_BYTES, source.size))
    what = "an empty file" if not start else impostor(start)
    if what:
        raise CheckpointError(f"{path}: wanted weights, found {what}")
    if start.startswith(b"PK\x03\x04"):
        return {".npz": "npz", ".keras": "keras"}.get(path.suffix, "torch")
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < source.size:
        return "safetensors"
    if path.suffix in (".safetensors", ".msgpack", ".h5", ".npz"):
        return path.suffix[1:]
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return "torch"
    raise CheckpointError(f"{path}: not a checkpoint: neither safetensors, PyTorch, HDF5 nor msgpack")


def read(path: Path) -> Content:
    """The tensors of one file, lazily. Raises CheckpointError, FileNotFoundError, MissingDependencyError."""
    container = kind(path)
    if container == "safetensors":
        from .safetensors_file import read as reader
    elif container == "torch":
        from .torch_file import read as reader
    elif container in ("h5", "keras"):
        from .h5_file import read as reader
    elif container == "gguf":
        from .gguf_file import read as reader
    elif container == "msgpack":
        from .msgpack_file import read as reader
    else:
        from .npz_file import read as reader
    tensors, metadata = reader(path)
    return Content(container, tensors, metadata)


def read_shards(paths: list[Path], listed: Mapping[str, str], index: Path) -> Content:
    """The tensors of shards, checked against the index: every listed name in its file, no name in two."""
    tensors: dict[str, Tensor] = {}
    homes: dict[str, str] = {}
    content = Content("", {}, {})
    for path in paths:
        content = read(path)
        for name, tensor in content.tensors.items():
            if name in tensors:
                raise CheckpointError(f"{index}: {name} is in {homes[name]} and in {path.name}")
            tensors[name], homes[name] = tensor, path.name
    names = {_own_spelling(name, content.container): shard for name, shard in listed.items()}
    wrong = [f"{name} (in {shard})" for name, shard in names.items() if homes.get(name) != shard]
    if wrong:
        raise CheckpointError(f"{index}: {len(wrong)} tensors are not in the files it names: {', '.join(wrong[:5])}")
    return Content(content.container, tensors, content.metadata)


def _own_spelling(name: str, container: str) -> str:
    """A name in an index as our readers spell it: transformers' Flax index has slashes, its TF index the model's
    name in front, which the shards lack."""
    if container == "msgpack":
        return name.replace("/", ".")
    return name[name.find("/") + 1 :] if container == "h5" else name
