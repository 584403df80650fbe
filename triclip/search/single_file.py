"""An index as one file: .npz; .npy with names and metadata in `<file>.json`; .parquet (extra `parquet`)."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_core.errors import InputError, MissingDependencyError
from clip_core.files import replace_file

from .columns import NAME
from .origin import FACTS
from .writing import naming, replaced, save_array

if TYPE_CHECKING:
    from .core import Index

FILES = (".npz", ".npy", ".parquet")
SUFFIXES = (*FILES, ".index")  # the last is a folder
_COLUMN = "column."  # prefix of metadata titles in .npz
_NEXT = "next"  # key of the new names in a .npy's JSON, while vectors are replaced
_MAPPED_FROM = 1 << 16  # bytes

Facts = dict[str, str]  # see `Origin`
Content = tuple[np.ndarray, list[str], str, dict[str, Any], Facts]  # vectors, names, model, metadata


def check_output(path: str | os.PathLike) -> Path:
    """The path, after a check that an index can be written there. Raises InputError or FileNotFoundError."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"--output {path}: wanted a name ending in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output {path}: the folder {path.parent} does not exist")
    if path.suffix == ".parquet":
        pyarrow_or_error()
    return path


def write_file(index: Index, path: Path) -> None:
    """Write by suffix, in one step: a process killed at any moment leaves the old index or the new one."""
    if path.suffix == ".npy" and path.is_file() and _sidecar(path).is_file():
        _replace_pair(index, path)
        return
    for target, write in files_of(index, path):
        with replaced(target) as draft:
            write(draft)


def _replace_pair(index: Index, path: Path) -> None:
    """Replace vectors and names. In between, the JSON file has both lists of names, and the vectors select one."""
    try:
        old = _names_of(path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # damaged
        old = {}
    new = _about(index)
    with replace_file(path) as draft:
        with naming(path):
            _write_npy(index, draft)
        _write_sidecar(path, {**old, _NEXT: {**new, "vectors": _digest(draft)}})
    _write_sidecar(path, new)


def _write_sidecar(path: Path, about: dict[str, Any]) -> None:
    with replaced(_sidecar(path)) as draft:
        draft.write_text(json.dumps(about), encoding="utf-8")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(index: Index, path: Path) -> list[tuple[Path, Callable[[Path], None]]]:
    """(path, function that writes it to another path) of the files of an index at `path`, in order."""
    files: list[tuple[Path, Callable[[Path], None]]] = [(path, lambda target: _WRITERS[path.suffix](index, target))]
    if path.suffix == ".npy":  # names first: a new .npy with only old names would be wrong
        files.insert(0, (_sidecar(path), lambda target: _write_names(index, target)))
    return files


def read_file(path: Path) -> Content:
    """Read a file of `write_file`; .npy is mapped. Raises FileNotFoundError or InputError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such index file")
    if path.suffix not in FILES:
        raise InputError(f"{path}: wanted a file ending in {', '.join(FILES)}, or an index folder")
    try:
        vectors, names, model, metadata, facts = _READERS[path.suffix](path)
        _check_facts(facts)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path}: not an index that `triclip embed` wrote: {error}") from error
    return vectors, [str(name) for name in names], str(model), metadata, facts


def _check_facts(facts: Any) -> None:
    if not all(isinstance(value, str) for value in facts.values()):
        raise ValueError(f"wanted strings as {', '.join(FACTS)}, found {facts!r}")


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
    arrays |= {key: np.str_(value) for key, value in index.origin.facts.items()}
    np.savez(path, vectors=index.vectors, names=names, model=np.str_(index.model), **arrays)


def _about(index: Index) -> dict[str, Any]:
    return {"model": index.model, **index.origin.facts, "names": index.names, "metadata": _metadata(index)}


def _write_names(index: Index, path: Path) -> None:
    path.write_text(json.dumps(_about(index)), encoding="utf-8")  # in ASCII: a name may be no text


def _write_npy(index: Index, path: Path) -> None:
    save_array(path, index.vectors)


def _write_parquet(index: Index, path: Path) -> None:
    pyarrow = pyarrow_or_error()
    flat = pyarrow.array(index.vectors.reshape(-1))
    vectors = pyarrow.FixedSizeListArray.from_arrays(flat, index.width)
    columns = {NAME: index.names, **_metadata(index)}
    strings = {title for title, column in index.columns.items() if column.kind == "string"}
    # Parquet holds Unicode alone: bytes of a file's name that are none are written out, as in bulk runs.
    plain = {title: list(map(_plain, values)) if title in strings else values for title, values in columns.items()}
    table = pyarrow.table({**plain, "vector": vectors})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"model": index.model, **index.origin.facts}), path)


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _read_npz(path: Path) -> Content:
    with np.load(path, allow_pickle=False) as file:
        columns = {key.removeprefix(_COLUMN): file[key] for key in file.files if key.startswith(_COLUMN)}
        facts = {key: str(file[key]) for key in FACTS if key in file.files}
        return file["vectors"], file["names"].tolist(), str(file["model"]), columns, facts


def _names_of(path: Path) -> dict[str, Any]:
    """The names of the current vectors, also if a writer was killed between the two files."""
    about = json.loads(_sidecar(path).read_text(encoding="utf-8"))
    following = about.pop(_NEXT, None)
    return about if following is None or _digest(path) != following.pop("vectors") else following


def _versions(path: Path) -> list[tuple[int, int]]:
    """Values that change if one of both files is replaced."""
    found = [one.stat() for one in (path, _sidecar(path))]
    return [(one.st_ino, one.st_mtime_ns) for one in found]


def _read_npy(path: Path) -> Content:
    before = None
    while before != (before := _versions(path)):  # they differ while a writer is at work
        about = _names_of(path)
        vectors = np.load(path, mmap_mode="r" if path.stat().st_size >= _MAPPED_FROM else None, allow_pickle=False)
    facts = {key: about[key] for key in FACTS if key in about}
    return vectors, about["names"], about["model"], about.get("metadata", {}), facts


def _read_parquet(path: Path) -> Content:
    table = pyarrow_or_error().parquet.read_table(path)
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    known = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    facts = {key: known[key] for key in FACTS if key in known}
    metadata = {title: table[title].to_pylist() for title in table.column_names if title not in (NAME, "vector")}
    width = flat.size // len(vectors) if len(vectors) else vectors.type.list_size
    return flat.reshape(len(vectors), width), table[NAME].to_pylist(), known.get("model", ""), metadata, facts


_WRITERS = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}
_READERS = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet}
