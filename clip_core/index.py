"""A file of named vectors: what `triclip embed` writes and `triclip search` reads."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, MissingDependencyError

SUFFIXES = (".npz", ".npy", ".parquet")


class Index:
    """Unit vectors with names.

    Args:
        vectors: float32 [N, P].
        names: N paths or sentences.
        model: the name of the model that made them; queries need the same one.
    """

    def __init__(self, vectors: np.ndarray, names: list[str], model: str) -> None:
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise InputError(f"index: wanted one row per name, found {vectors.shape} and {len(names)} names")
        self.vectors, self.names, self.model = vectors, names, model

    def search(self, query: np.ndarray, top: int = 5) -> list[tuple[str, float]]:
        """The `top` most similar names with their cosines, best first. `query`: unit vector [P]."""
        if query.shape != self.vectors.shape[1:]:
            raise InputError(
                f"query: wanted a vector of width {self.vectors.shape[1]}, found {query.shape[-1]}: "
                f"the index was made with the model {self.model!r}"
            )
        scores = self.vectors @ query
        best = np.argsort(-scores, kind="stable")[:top]
        return [(self.names[i], float(scores[i])) for i in best]

    def save(self, path: str | os.PathLike) -> None:
        """Write by suffix: .npz; .npy with names in `<file>.json`; .parquet (columns name, vector)."""
        path = check_output(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
        try:
            _WRITERS[path.suffix](self, temporary)
            if path.suffix == ".npy":  # names first: a lone new .npy beside old names would be wrong
                names = json.dumps({"model": self.model, "names": self.names}, ensure_ascii=False)
                _sidecar(path).write_text(names, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Index:
        """Read what `save` wrote. Raises FileNotFoundError, or InputError naming the file when it is no index."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such index file")
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: wanted one of {', '.join(SUFFIXES)}")
        try:
            vectors, names, model = _READERS[path.suffix](path)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not an index that `triclip embed` wrote: {error}") from error
        return cls(np.asarray(vectors, np.float32), [str(name) for name in names], str(model))


def check_output(path: str | os.PathLike) -> Path:
    """The path, if an index can be written there. Raises InputError or FileNotFoundError otherwise."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"--output {path}: wanted a file ending in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output {path}: the folder {path.parent} does not exist")
    if path.suffix == ".parquet":
        _pyarrow()
    return path


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(".parquet files need pyarrow: pip install 'triclip[parquet]'") from error
    return pyarrow


def _write_npz(index: Index, path: Path) -> None:
    np.savez(path, vectors=index.vectors, names=np.array(index.names, dtype=np.str_), model=np.str_(index.model))


def _write_npy(index: Index, path: Path) -> None:
    np.save(path, index.vectors)


def _write_parquet(index: Index, path: Path) -> None:
    pyarrow = _pyarrow()
    width = index.vectors.shape[1]
    flat = pyarrow.array(index.vectors.reshape(-1))
    table = pyarrow.table({"name": index.names, "vector": pyarrow.FixedSizeListArray.from_arrays(flat, width)})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"model": index.model}), path)


def _read_npz(path: Path) -> tuple[Any, Any, Any]:
    with np.load(path, allow_pickle=False) as file:
        return file["vectors"], file["names"].tolist(), file["model"]


def _read_npy(path: Path) -> tuple[Any, Any, Any]:
    about = json.loads(_sidecar(path).read_text(encoding="utf-8"))
    return np.load(path, allow_pickle=False), about["names"], about["model"]


def _read_parquet(path: Path) -> tuple[Any, Any, Any]:
    table = _pyarrow().parquet.read_table(path)
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    model = (table.schema.metadata or {}).get(b"model", b"").decode()
    return flat.reshape(len(vectors), -1), table["name"].to_pylist(), model


_WRITERS = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}
_READERS = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet}
