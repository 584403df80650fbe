"""Approximate neighbours through FAISS or hnswlib (extra `search`): candidates, which are then scored exactly.

"hnsw" is a graph over all vectors (Malkov and Yashunin, arXiv:1603.09320), by FAISS or else hnswlib; "ivf" looks into
the nearest of about 4 * sqrt(N) clusters (FAISS). Both keep the vectors in memory as float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clip_core.errors import InputError, MissingDependencyError

KINDS = ("exact", "hnsw", "ivf")
_LIBRARIES = {"hnsw": ("faiss", "hnswlib"), "ivf": ("faiss",)}
_NEIGHBOURS = 32  # of a node of the graph
_BUILD_BREADTH = 200  # candidates looked at when a node is linked
_SEARCH_BREADTH = 128  # candidates looked at when asking, or twice what is asked for
_TRAINING_POINTS = 39  # vectors a cluster needs; with fewer FAISS warns that centres will be poor
_SHARE = 16  # one in so many clusters is looked into
_LEAST_CLUSTERS = 8


class Candidates(Protocol):
    """What is asked of a library."""

    library: str

    def ask(self, queries: np.ndarray, top: int) -> np.ndarray:
        """float32 [Q, P] -> row numbers int64 [Q, top]; -1 where it found fewer."""

    def save(self, path: Path) -> None: ...


def check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise InputError(f"index type: wanted one of {', '.join(KINDS)}, found {kind!r}")
    return kind


def build(kind: str, blocks: Iterable[np.ndarray], count: int, width: int, library: str | None = None) -> Candidates:
    """Candidates over `count` vectors that come in blocks float32 [n, P] that can be iterated over again."""
    if _module(kind, library).__name__ == "hnswlib":
        return _Hnswlib.build(blocks, count, width)
    return _Faiss.build(kind, blocks, count, width)


def load(kind: str, library: str, path: Path, count: int, width: int) -> Candidates:
    """What `save` wrote. Raises InputError naming the file when it is damaged or of other vectors."""
    module = _module(kind, library)
    try:
        found = (_Hnswlib if library == "hnswlib" else _Faiss).load(module, path, width)
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{path}: not an index of {library}: {str(error).splitlines()[0]}") from error
    if found.size() != (count, width):
        raise InputError(f"{path}: wanted {count} vectors of width {width}, found {found.size()}")
    return found


def _module(kind: str, library: str | None) -> Any:
    """The library: the one named, or the first one that is installed."""
    able = _LIBRARIES[check_kind(kind)] if kind != "exact" else ()
    if library is not None and library not in able:
        raise InputError(f"index type {kind!r}: wanted a library among {', '.join(able)}, found {library!r}")
    for name in able if library is None else (library,):
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise MissingDependencyError(
        f"index type {kind!r} needs {' or '.join(able if library is None else (library,))}: "
        "pip install 'triclip[search]'"
    )


class _Faiss:
    library = "faiss"

    def __init__(self, module: Any, index: Any) -> None:
        self.module, self.index = module, index

    @classmethod
    def build(cls, kind: str, blocks: Iterable[np.ndarray], count: int, width: int) -> _Faiss:
        faiss = _module(kind, "faiss")
        metric = faiss.METRIC_INNER_PRODUCT
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, metric)
            index.hnsw.efConstruction = _BUILD_BREADTH
        else:
            clusters = max(1, min(round(4 * math.sqrt(count)), count // _TRAINING_POINTS))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, clusters, metric)
            index.train(_sample(blocks, count, 256 * clusters))
        for block in blocks:
            index.add(np.ascontiguousarray(block, np.float32))
        return cls(faiss, index)

    @classmethod
    def load(cls, faiss: Any, path: Path, width: int) -> _Faiss:
        return cls(faiss, faiss.read_index(str(path)))

    def size(self) -> tuple[int, int]:
        return self.index.ntotal, self.index.d

    def ask(self, queries: np.ndarray, top: int) -> np.ndarray:
        if hasattr(self.index, "nlist"):
            looked_into = min(max(_LEAST_CLUSTERS, self.index.nlist // _SHARE), self.index.nlist)
            options = self.module.SearchParametersIVF(nprobe=looked_into)
        else:
            options = self.module.SearchParametersHNSW(efSearch=max(_SEARCH_BREADTH, 2 * top))
        return self.index.search(np.ascontiguousarray(queries, np.float32), top, params=options)[1]

    def save(self, path: Path) -> None:
        self.module.write_index(self.index, str(path))


class _Hnswlib:
    library = "hnswlib"

    def __init__(self, index: Any) -> None:
        self.index = index

    @classmethod
    def build(cls, blocks: Iterable[np.ndarray], count: int, width: int) -> _Hnswlib:
        index = _module("hnsw", "hnswlib").Index(space="ip", dim=width)
        index.init_index(max_elements=count, ef_construction=_BUILD_BREADTH, M=_NEIGHBOURS // 2, random_seed=0)
        for block in blocks:
            index.add_items(block)
        return cls(index)

    @classmethod
    def load(cls, hnswlib: Any, path: Path, width: int) -> _Hnswlib:
        index = hnswlib.Index(space="ip", dim=width)
        index.load_index(str(path))
        return cls(index)

    def size(self) -> tuple[int, int]:
        return self.index.get_current_count(), self.index.dim

    def ask(self, queries: np.ndarray, top: int) -> np.ndarray:
        top = min(top, self.index.get_current_count())
        self.index.set_ef(max(_SEARCH_BREADTH, 2 * top))
        try:
            return self.index.knn_query(queries, top)[0].astype(np.int64)
        except RuntimeError:  # its way of saying that it reached fewer than `top`
            return np.full((len(queries), top), -1)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))


def _sample(blocks: Iterable[np.ndarray], count: int, wanted: int) -> np.ndarray:
    """About `wanted` of `count` vectors, evenly spread."""
    step = max(1, count // wanted)
    return np.ascontiguousarray(np.concatenate([block[::step] for block in blocks]), np.float32)
