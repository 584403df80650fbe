"""Approximate nearest neighbours by FAISS (extra `search`): candidates, which are then scored exactly.

"hnsw" is a graph over all vectors (Malkov and Yashunin, arXiv:1603.09320); "ivf" searches the nearest of about
4 * sqrt(N) clusters. Both keep the vectors in memory as float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import InputError, MissingDependencyError

KINDS = ("exact", "hnsw", "ivf")
LIBRARY = "faiss"
_NEIGHBOURS = 32  # of a node of the graph
_BUILD_BREADTH = 200  # candidates examined when a node is linked
_SEARCH_BREADTH = 128  # candidates examined by a query, or twice its `top`
_TRAINING_POINTS = 39  # vectors per cluster; with fewer FAISS warns about poor centres
_SHARE = 16  # one in so many clusters is searched
_LEAST_CLUSTERS = 8

Blocks = Callable[[], Iterable[np.ndarray]]  # each call yields all vectors, in blocks float32 [n, P]


def check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise InputError(f"index type: wanted one of {', '.join(KINDS)}, found {kind!r}")
    return kind


class Candidates:
    """An approximate index of FAISS."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def ask(self, queries: np.ndarray, top: int) -> np.ndarray:
        """float32 [Q, P] -> row numbers int64 [Q, top], filled up with -1."""
        faiss = _faiss()
        if hasattr(self.index, "nlist"):
            looked_into = min(max(_LEAST_CLUSTERS, self.index.nlist // _SHARE), self.index.nlist)
            options = faiss.SearchParametersIVF(nprobe=looked_into)
        else:
            options = faiss.SearchParametersHNSW(efSearch=max(_SEARCH_BREADTH, 2 * top))
        return self.index.search(np.ascontiguousarray(queries, np.float32), top, params=options)[1]

    def save(self, path: Path) -> None:
        _faiss().write_index(self.index, str(path))


def build(kind: str, blocks: Blocks, count: int, width: int) -> Candidates:
    """Candidates of a kind over `count` vectors."""
    faiss = _faiss(kind)
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, metric)
        index.hnsw.efConstruction = _BUILD_BREADTH
    else:
        clusters = max(1, min(round(4 * math.sqrt(count)), count // _TRAINING_POINTS))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, clusters, metric)
        index.train(_sample(blocks(), count, 256 * clusters))
    for block in blocks():
        index.add(np.ascontiguousarray(block, np.float32))
    return Candidates(index)


def load(kind: str, path: Path, count: int, width: int) -> Candidates:
    """Read a file of `save`. Raises InputError naming the file if it is damaged or of other vectors."""
    faiss = _faiss(kind)
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{path}: not an index of FAISS: {str(error).splitlines()[0]}") from error
    if (index.ntotal, index.d) != (count, width):
        raise InputError(f"{path}: wanted {count} vectors of width {width}, found {(index.ntotal, index.d)}")
    return Candidates(index)


def _faiss(kind: str = "hnsw") -> Any:
    if check_kind(kind) == "exact":
        raise InputError("index type 'exact': wanted hnsw or ivf, exact search has no approximate index")
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"index type {kind!r} needs FAISS: pip install 'triclip[search]'") from error
    return faiss


def _sample(blocks: Iterable[np.ndarray], count: int, wanted: int) -> np.ndarray:
    """About `wanted` of `count` vectors, evenly spread."""
    step = max(1, count // wanted)
    return np.ascontiguousarray(np.concatenate([block[::step] for block in blocks]), np.float32)
