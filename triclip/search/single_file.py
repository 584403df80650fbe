"""An index as one file: .npz; .npy with names and metadata in `<file>.json`; .parquet (extra `parquet`)."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from clip_core.errors import InputError, MissingDependencyError

from .columns import NAME

if TYPE_CHECKING:
    from .core import Index

FILES = (".npz", ".npy", ".parquet")
SUFFIXES = (*FILES, ".index")  # the last one is a folder
_COLUMN = "column."  # before the titles of metadata in .npz

Content = tuple[np.ndarray, list[str], str, dict[str, Any]]  # vectors, names, model, metadata


def check_output(path: str | os.PathLike) -> Path:
    """The path, if an index can be written there. Raises InputError or FileNotFoundError otherwise."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"--output {path}: wanted a name ending in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output {path}: the folder {path.parent} does not exist")
    if path.suffix == ".parquet":
        pyarrow_or_error()
    return path


def write_file(index: Index, path: Path) -> None:
    """By suffix, and at once: a crash leaves the old file, or the new one."""
    for target, write in files_of(index, path):
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp{target.suffix}")
        try:
            write(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def files_of(index: Index, path: Path) -> list[tuple[Path, Callable[[Path], None]]]:
    """(path, function that writes it to another path) of the files that an index at `path` consists of, in order."""
    files: list[tuple[Path, Callable[[Path], None]]] = [(path, lambda target: _WRITERS[path.suffix](index, target))]
    if path.suffix == ".npy":  # names first: a lone new .npy beside old names would be wrong
        files.insert(0, (_sidecar(path), lambda target: _write_names(index, target)))
    return files


def read_file(path: Path) -> Content:
    """What `write_file` wrote; .npy stays on disk, mapped. Raises FileNotFoundError or InputError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such index file")
    if path.suffix not in FILES:
        raise InputError(f"{path}: wanted a file ending in {', '.join(FILES)}, or an index folder")
    try:
        vectors, names, model, metadata = _READERS[path.suffix](path)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an index that `triclip embed` wrote: {error}") from error
    return vectors, [str(name) for name in names], str(model), metadata


def _metadata(index: Index) -> dict[str, list[Any]]:
    return {title: list(column) for title, column in index.columns.items() if title != NAME}


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def pyarrow_or_error() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(".parquet files need pyarrow: pip install 'triclip[parquet]'") from error
    return pyarrow


def _write_npz(index: Index, path: Path) -> None:
    arrays: dict[str, Any] = {_COLUMN + title: np.array(values) for title, values in _metadata(index).items()}
    names = np.array(index.names, dtype=np.str_)
    np.savez(path, vectors=index.vectors, names=names, model=np.str_(index.model), **arrays)


def _write_names(index: Index, path: Path) -> None:
    about = {"model": index.model, "names": index.names, "metadata": _metadata(index)}
    path.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def _write_npy(index: Index, path: Path) -> None:
    save_array(path, index.vectors)


def save_array(path: Path, array: np.ndarray) -> None:
    """As `np.save`, which takes no notice of a disk that is full when it closes its file: this raises OSError."""
    with open(path, "wb") as file:
        np.lib.format.write_array(_Plain(file), array, allow_pickle=False)


class _Plain:
    """Hides that it is a file, so that NumPy writes through Python, whose errors are seen."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def _write_parquet(index: Index, path: Path) -> None:
    pyarrow = pyarrow_or_error()
    flat = pyarrow.array(index.vectors.reshape(-1))
    vectors = pyarrow.FixedSizeListArray.from_arrays(flat, index.width)
    table = pyarrow.table({NAME: index.names, **_metadata(index), "vector": vectors})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"model": index.model}), path)


def _read_npz(path: Path) -> Content:
    with np.load(path, allow_pickle=False) as file:
        columns = {key.removeprefix(_COLUMN): file[key] for key in file.files if key.startswith(_COLUMN)}
        return file["vectors"], file["names"].tolist(), str(file["model"]), columns


def _read_npy(path: Path) -> Content:
    about = json.loads(_sidecar(path).read_text(encoding="utf-8"))
    vectors = np.load(path, mmap_mode="r" if path.stat().st_size >= 1 << 16 else None, allow_pickle=False)
    return vectors, about["names"], about["model"], about.get("metadata", {})


def _read_parquet(path: Path) -> Content:
    table = pyarrow_or_error().parquet.read_table(path)
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    model = (table.schema.metadata or {}).get(b"model", b"").decode()
    metadata = {title: table[title].to_pylist() for title in table.column_names if title not in (NAME, "vector")}
    width = flat.size // len(vectors) if len(vectors) else vectors.type.list_size
    return flat.reshape(len(vectors), width), table[NAME].to_pylist(), model, metadata


_WRITERS = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}
_READERS = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet}
