"""An index as a folder: memory-mapped at any size, and appended to without a rewrite.

    index.json                     the model, width, dtype, columns, and the parts in order
    part-00000.vectors.npy         [N, P] float32 or float16
    part-00000.column0.*.npy       the names; then one set per column (see `columns`)
    candidates-hnsw.json, .bin     an approximate index and the rows it covers, if one was built

A part is written before index.json, which is replaced as a whole, names it (see `parts`), so that a process killed at
any moment leaves the old or the new index. Files are NumPy's .npy, never pickles.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import InputError

from . import approximate, parts
from .columns import NAME
from .core import Index
from .origin import Origin
from .parts import MANIFEST, is_record, read_json, read_manifest
from .writing import replaced, write_json

_SAME = 1e-3  # between a unit vector's numbers: above the changes by float16 and by other batch sizes


class FolderIndex(Index):
    """An `Index` in a folder; see the module for its files.

    Opening reads only the manifest. Raises FileNotFoundError, or InputError naming the damaged file.
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
        parts.create(Path(path), parts.new_manifest(Path(path), Origin(model), width, columns, dtype))
        return cls(path)

    def _open(self) -> None:
        self.manifest, vectors, columns = parts.open_parts(self.path)
        largest = max((part["largest_norm"] for part in self.manifest["parts"]), default=0.0)
        self._set(vectors, columns, parts.origin_of(self.manifest, self.path), self.manifest["width"], largest)

    def _no_rows(self) -> np.ndarray:
        return np.empty((0, self.width), self.manifest["dtype"])

    def append(
        self,
        vectors: np.ndarray,
        names: Sequence[str],
        metadata: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows; they are on disk when this returns, and not visible before. Several processes may append.

        The vectors [N, P] are stored in the index's dtype; the metadata must have its columns. Raises InputError.
        """
        self.extend(Index(np.asarray(vectors), names, self.model, metadata, **self.origin.facts))

    def extend(self, source: Index) -> None:
        """Add all rows of another index of the same model, as `append` does."""
        with parts.writing(self.path):
            now = read_manifest(self.path)
            if now["id"] != self.manifest["id"]:
                raise InputError(f"{self.path}: was replaced by another index since it was opened")
            more = parts.with_part(self.path, now, source)
            if more != now:
                write_json(self.path / MANIFEST, more)
        kept = self._candidates
        self._open()
        self._candidates = kept  # they still cover the first rows

    # -- approximate search -------------------------------------------------------------------------------------------

    def candidates(self, kind: str) -> tuple[approximate.Candidates, int]:
        """As `Index.candidates`, but kept in the folder and loaded from there."""
        if kind not in self._candidates:
            kept = self._load_candidates(kind)
            if kept is not None:
                self._candidates[kind] = kept
        return super().candidates(kind)

    def rebuild_candidates(self, kind: str) -> None:
        """Rebuild an approximate index over all rows, after many were appended."""
        self._candidates[kind] = self._build_candidates(kind), len(self)

    def _build_candidates(self, kind: str) -> approximate.Candidates:
        built = super()._build_candidates(kind)
        record_path = self.path / f"candidates-{kind}.json"
        path = record_path.with_suffix(".bin")
        with parts.writing(self.path):
            record_path.unlink(missing_ok=True)  # the old record must not be there with the new file
            with replaced(path) as draft:
                built.save(draft)
            about = {"id": self.manifest["id"], "library": approximate.LIBRARY, "rows": len(self)}
            write_json(record_path, {**about, "bytes": path.stat().st_size})
        return built

    def _load_candidates(self, kind: str) -> tuple[approximate.Candidates, int] | None:
        record_path = self.path / f"candidates-{approximate.check_kind(kind)}.json"
        if not record_path.is_file():
            return None
        record = read_json(record_path)
        wanted = {"id": str, "library": str, "rows": int, "bytes": int}
        if not is_record(record, wanted) or not 0 < record["rows"] <= len(self):
            raise InputError(f"{record_path}: wanted the record of an approximate index, found {record!r}")
        if record["id"] != self.manifest["id"] or record["library"] != approximate.LIBRARY:
            return None
        path = record_path.with_suffix(".bin")
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            raise InputError(f"{path}: wanted a file of {record['bytes']} bytes; remove {record_path} to build it anew")
        return approximate.load(kind, path, record["rows"], self.width), record["rows"]


def build_folder(path: str | os.PathLike, sources: Iterable[Index], dtype: str | None = None) -> FolderIndex:
    """Combine several indexes of the same model into a folder index, with one part for each.

    `dtype`: float32 or float16; default that of the first. An index at `path` is replaced when the new one is complete.
    Raises InputError if the sources differ in model, width or columns, or if `path` is something else.
    """
    parts.replace(Path(path), sources, dtype)
    return FolderIndex(path)


def append_index(target: FolderIndex, source: Index) -> int:
    """Append the missing rows of another index of the same model; returns their number.

    A row exists if one of its name has the same vector, up to rounding. Raises InputError for another model.
    """
    target.origin.check_model(source.model, source.origin.fingerprint)
    names = target.origin.renamed(source.names, source.origin)
    wanted = set(names)
    known: dict[str, list[int]] = {}
    for row, name in enumerate(target.columns[NAME]):
        if name in wanted:
            known.setdefault(name, []).append(row)
    new = [
        row
        for row, name in enumerate(names)
        if not any(np.allclose(target.vector(other), source.vector(row), atol=_SAME) for other in known.get(name, ()))
    ]
    target.extend(source if len(new) == len(source) else source.take(np.array(new, int)))
    return len(new)
