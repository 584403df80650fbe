"""An index as a folder: mapped at once, however large, and appended to without being rewritten.

    index.json                     the model, width, dtype, columns, and the parts in order
    part-00000.vectors.npy         [N, P] float32 or float16
    part-00000.column0.*.npy       the names; then one set per column (see `columns`)
    candidates-hnsw.json, .bin     an approximate index and the rows it covers, if one was built

A part is written before index.json, which is replaced as a whole, names it: a crash leaves the index as it was. Files
are NumPy's .npy, never pickles, and their names follow from numbers, so no manifest can point outside its folder.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import InputError
from clip_core.files import write_text

from . import approximate
from .columns import KINDS, NAME, Column, Strings, dtype_of
from .core import DTYPES, Index, longest
from .single_file import save_array

MANIFEST = "index.json"
_FORMAT, _VERSION = "triclip-index", 1
_MAPPED_FROM = 1 << 16  # bytes; a smaller file is read (an empty one can't be mapped)


class FolderIndex(Index):
    """An `Index` kept in a folder; see the module for its files.

    Opening reads the manifest alone. Raises FileNotFoundError, or InputError naming the file that is wrong.
    """

    path: Path

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._open()

    @classmethod
    def create(
        cls, path: str | os.PathLike, model: str, width: int, columns: Mapping[str, str], dtype: str = "float32"
    ) -> FolderIndex:
        """An empty index in a new folder. `columns`: title -> kind of the metadata; `dtype`: float32 or float16."""
        if dtype not in DTYPES:
            raise InputError(f"dtype: wanted one of {', '.join(DTYPES)}, found {dtype!r}")
        path = Path(path)
        path.mkdir()
        titles = [[NAME, "string"], *([title, kind] for title, kind in columns.items() if title != NAME)]
        about = {"format": _FORMAT, "version": _VERSION, "id": uuid.uuid4().hex, "model": model}
        _write_json(path / MANIFEST, {**about, "width": width, "dtype": dtype, "columns": titles, "parts": []})
        return cls(path)

    def _open(self) -> None:
        self.manifest = manifest = read_manifest(self.path)
        parts, stored = [], []
        for part in manifest["parts"]:
            vectors = _map(self._file(part["number"], "vectors"), manifest["dtype"], (part["rows"], manifest["width"]))
            parts.append(vectors)
            stored.append([self._map_column(part, i, kind) for i, (_, kind) in enumerate(manifest["columns"])])
        columns = {
            title: Column(kind, [part[i] for part in stored]) for i, (title, kind) in enumerate(manifest["columns"])
        }
        largest = max((part["largest_norm"] for part in manifest["parts"]), default=0.0)
        self._set(parts, columns, manifest["model"], manifest["width"], largest)

    def _no_rows(self) -> np.ndarray:
        return np.empty((0, self.width), self.manifest["dtype"])

    def _file(self, number: int, what: str) -> Path:
        return self.path / f"part-{number:05d}.{what}.npy"

    def _map_column(self, part: Mapping[str, Any], column: int, kind: str) -> Any:
        if kind != "string":
            return _map(self._file(part["number"], f"column{column}"), dtype_of(kind), (part["rows"],))
        offsets = _map(self._file(part["number"], f"column{column}.offsets"), np.int64, (part["rows"] + 1,))
        path = self._file(part["number"], f"column{column}.data")
        strings = Strings(offsets, _map(path, np.uint8))
        try:
            strings.check()
        except ValueError as error:
            raise InputError(f"{path}: not the strings of this index: {error}") from error
        return strings

    def append(
        self,
        vectors: np.ndarray,
        names: Sequence[str],
        metadata: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows; on disk when this returns, and before that not at all. Processes may append in turn.

        The vectors [N, P] are stored in the index's dtype; the metadata needs its columns. Raises InputError.
        """
        new = Index(np.asarray(vectors), names, self.model, metadata)
        self._check_new(new)
        with _lock(self.path):
            now = read_manifest(self.path)
            if now["id"] != self.manifest["id"]:
                raise InputError(f"{self.path}: was replaced by another index since it was opened")
            if len(new):
                number = 1 + max((part["number"] for part in now["parts"]), default=-1)
                part = {"number": number, "rows": len(new), "largest_norm": self._write_part(number, new)}
                _write_json(self.path / MANIFEST, {**now, "parts": [*now["parts"], part]})
            kept = self._candidates
            self._open()
            self._candidates = kept  # they cover the first rows still

    def _check_new(self, new: Index) -> None:
        if new.width != self.width:
            raise InputError(f"{self.path}: wanted vectors of width {self.width}, found {new.width}")
        wanted = {title: column.kind for title, column in self.columns.items()}
        found = {title: column.kind for title, column in new.columns.items()}
        for title in [title for title, kind in found.items() if kind == "integer" and wanted.get(title) == "number"]:
            new.columns[title] = Column("number", [new.columns[title].array().astype(np.float64)])
            found[title] = "number"
        if found != wanted and len(new):
            raise InputError(f"{self.path}: wanted the columns {_listed(wanted)}, found {_listed(found)}")

    def _write_part(self, number: int, new: Index) -> float:
        """Returns the length of the longest vector as it was stored."""
        dtype = self.manifest["dtype"]
        path = self._file(number, "vectors")
        out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(len(new), self.width))
        row = 0
        for block in new.blocks():
            with np.errstate(over="ignore"):  # becomes infinite, and is reported
                out[row : row + len(block)] = block
            row += len(block)
        out.flush()
        largest = longest(out[i : i + 4096] for i in range(0, len(new), 4096))
        for i, (title, kind) in enumerate(self.manifest["columns"]):
            column = new.columns[title]
            if kind == "string":
                strings = Strings.of(list(column)) if len(column.parts) != 1 else column.parts[0]
                save_array(self._file(number, f"column{i}.offsets"), strings.offsets)
                save_array(self._file(number, f"column{i}.data"), strings.data)
            else:
                save_array(self._file(number, f"column{i}"), column.array())
        return largest

    # -- approximate search -------------------------------------------------------------------------------------------

    def candidates(self, kind: str, library: str | None = None) -> tuple[approximate.Candidates, int]:
        """As `Index.candidates`; what is built is kept in the folder, and taken from there."""
        if kind not in self._candidates:
            kept = self._load_candidates(kind, library)
            if kept is not None:
                self._candidates[kind] = kept
        return super().candidates(kind, library)

    def rebuild_candidates(self, kind: str, library: str | None = None) -> None:
        """Build an approximate index over all rows anew, after many were appended."""
        self._candidates[kind] = self._build_candidates(kind, library), len(self)

    def _build_candidates(self, kind: str, library: str | None) -> approximate.Candidates:
        built = super()._build_candidates(kind, library)
        stem = self.path / f"candidates-{kind}"
        temporary = stem.with_name(f".{stem.name}.{os.getpid()}.tmp")
        try:
            built.save(temporary)
            size = temporary.stat().st_size
            stem.with_suffix(".json").unlink(missing_ok=True)  # never the new record with the old file
            os.replace(temporary, stem.with_suffix(".bin"))
        finally:
            temporary.unlink(missing_ok=True)
        record = {"id": self.manifest["id"], "library": built.library, "rows": len(self), "bytes": size}
        _write_json(stem.with_suffix(".json"), record)
        return built

    def _load_candidates(self, kind: str, library: str | None) -> tuple[approximate.Candidates, int] | None:
        record_path = self.path / f"candidates-{approximate.check_kind(kind)}.json"
        if not record_path.is_file():
            return None
        record = _read_json(record_path)
        wanted = {"id": str, "library": str, "rows": int, "bytes": int}
        if not _is_record(record, wanted) or not 0 < record["rows"] <= len(self):
            raise InputError(f"{record_path}: wanted the record of an approximate index, found {record!r}")
        if record["id"] != self.manifest["id"] or library not in (None, record["library"]):
            return None
        path = record_path.with_suffix(".bin")
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            raise InputError(f"{path}: wanted a file of {record['bytes']} bytes; remove {record_path} to build it anew")
        return approximate.load(kind, record["library"], path, record["rows"], self.width), record["rows"]


def write_folder(index: Index, path: Path) -> None:
    """A copy of an index as a folder in one part, in place of an index that is there."""
    build_folder(path, [index])


def build_folder(path: str | os.PathLike, sources: Iterable[Index], dtype: str | None = None) -> FolderIndex:
    """One folder index from several of the same model, one part for each.

    `dtype`: float32 or float16; default that of the first. An index at `path` is replaced when the new one is whole.
    Raises InputError when the sources differ in model, width or columns, or when something else is in the way.
    """
    path = Path(path)
    if path.exists() and not (path / MANIFEST).is_file():
        raise InputError(f"{path}: exists and is no index folder; it is not replaced")
    stage = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(stage, ignore_errors=True)  # of a process of this number that was killed
    try:
        target: FolderIndex | None = None
        for source in sources:
            if target is None:
                kinds = {title: column.kind for title, column in source.columns.items()}
                target = FolderIndex.create(stage, source.model, source.width, kinds, dtype or source.dtype.name)
            append_index(target, source)
        if target is None:
            raise InputError(f"{path}: wanted at least one index to build it from, found none")
        _swap(stage, path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return FolderIndex(path)


def append_index(target: FolderIndex, source: Index) -> None:
    """All rows of another index of the same model. Raises InputError when it is of another one."""
    if source.model != target.model:
        raise InputError(f"index: wanted vectors of the model {target.model!r}, found some of {source.model!r}")
    metadata: dict[str, Any] = {
        title: list(column) if column.kind == "string" else column.array()
        for title, column in source.columns.items()
        if title != NAME
    }
    target.append(source.vectors, source.names, metadata)


def _swap(stage: Path, path: Path) -> None:
    """One folder in place of another: two renames, the old one kept beside until the second is done."""
    if not path.exists():
        os.replace(stage, path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    os.replace(path, old)
    try:
        os.replace(stage, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a folder index. Raises FileNotFoundError or InputError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no index: it holds no {MANIFEST}")
    manifest = _read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise InputError(f"{path}: wanted the manifest of an index, found something else")
    if manifest.get("version") != _VERSION:
        raise InputError(f"{path}: wanted version {_VERSION} of the format, found {manifest.get('version')!r}")
    wanted = {"id": str, "model": str, "width": int, "dtype": str, "columns": list, "parts": list}
    for key, kind in wanted.items():
        if not _is_record(manifest, {key: kind}):
            raise InputError(f"{path}: {key}: wanted {kind.__name__}, found {manifest.get(key)!r}")
    if manifest["dtype"] not in DTYPES or manifest["width"] < 1:
        found = f"{manifest['dtype']}, {manifest['width']}"
        raise InputError(f"{path}: wanted float32 or float16 and a width, found {found}")
    columns, parts = manifest["columns"], manifest["parts"]
    pairs = [one for one in columns if isinstance(one, list) and len(one) == 2 and all(isinstance(x, str) for x in one)]
    if len(pairs) < len(columns) or not pairs or pairs[0] != [NAME, "string"] or not {k for _, k in pairs} <= {*KINDS}:
        raise InputError(f"{path}: columns: wanted pairs of a title and a kind, found {columns!r}")
    for part in parts:
        good = _is_record(part, {"number": int, "rows": int, "largest_norm": float})
        if not good or not all(part[key] >= 0 for key in ("number", "rows", "largest_norm")):
            raise InputError(f"{path}: parts: wanted a number, rows and largest_norm, found {part!r}")
    return manifest


def _is_record(found: Any, wanted: Mapping[str, type]) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(key), kind) and not isinstance(found[key], bool) for key, kind in wanted.items()
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: wanted JSON, found a file that does not parse: {error}") from error


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def _map(path: Path, dtype: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A .npy file, mapped when it is large. Raises InputError unless it is whole and of this dtype and shape."""
    try:
        large = path.stat().st_size >= _MAPPED_FROM
        array = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: a part of the index is missing or damaged: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or shape not in (None, array.shape):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"{path}: wanted {np.dtype(dtype)} {shape or ''}, found {found}")
    return array


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{title} ({kind})" for title, kind in kinds.items())


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One writer at a time; the system lets go of the lock when a process ends, however it ends."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: writers have to take turns by themselves
        yield
        return
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
