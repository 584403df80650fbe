"""NumPy .npz files: stored or compressed arrays under their names, never pickled objects."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import CheckpointError
from .source import FileSource
from .tensor import STORAGE, Tensor

MAX_RATIO = 16  # how many bytes a compressed byte may stand for; weights hardly compress
_DAMAGE = (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error, NotImplementedError, SyntaxError)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(name -> Tensor, {}). Raises CheckpointError for damage, objects and bombs; FileNotFoundError."""
    source = FileSource(path)
    found = {}
    try:
        with zipfile.ZipFile(source.path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in found:
                    raise CheckpointError(f"{source.path}: {name}: there twice")
                with archive.open(info) as file:
                    shape, dtype = _header(file, source.path, name)
                nbytes = math.prod(shape) * STORAGE[dtype].itemsize
                if nbytes > info.file_size or info.file_size > MAX_RATIO * info.compress_size + 1024:
                    raise CheckpointError(f"{source.path}: {name}: {nbytes} bytes are kept in {info.compress_size}")
                found[name] = _tensor(source.path, info.filename, shape, dtype)
    except _DAMAGE as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{source.path}: a damaged npz file: {error}") from None
    return found, {}


def _header(file: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], str]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file, max_header_size=10_000)
    if dtype.hasobject or dtype.name not in STORAGE:
        raise CheckpointError(f"{path}: {name}: holds {dtype}, no plain numbers")
    return shape, dtype.name


def _tensor(path: Path, member: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    def load() -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except _DAMAGE as error:
            raise CheckpointError(f"{path}: {member}: {error}") from None
        return np.ascontiguousarray(array, STORAGE[dtype]).reshape(shape)

    return Tensor(dtype, shape, load)
