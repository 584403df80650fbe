"""Queries among a million vectors, exactly and through FAISS's graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Row, Side

TOP = 10
ROW = Row(
    title="Search: one query, a million vectors",
    about=(
        "The 10 best of 1,000,000 unit vectors of 512 float32 numbers, clustered as pictures are, for one query. Exact "
        "from a mapped index folder (2 GB), of float16 vectors too, and by clusters (ivf, FAISS), whose candidates are "
        "scored exactly."
    ),
    data=("vectors_1m",),
    sides={
        "triclip exact": Side("triclip", "exact"),
        "triclip exact, float16": Side("triclip", "half"),
        "triclip ivf": Side("triclip", "ivf"),
        "NumPy product": Side("triclip", "product"),
    },
    pairs=(Pair("triclip exact", "NumPy product", at_most=1.2), Pair("triclip ivf", "NumPy product", at_most=0.5)),
    count=1,
    check="recall",
    rounds=9,
)


def exact(data: Path) -> Callable[[], Any]:
    return _search(data, "vectors_1m", "exact")


def half(data: Path) -> Callable[[], Any]:
    return _search(data, "vectors_1m_half", "exact")


def ivf(data: Path) -> Callable[[], Any]:
    return _search(data, "vectors_1m", "ivf")


def _search(data: Path, name: str, kind: str) -> Callable[[], Any]:
    from triclip import open_index

    index = open_index(data / f"{name}.index")
    query = index.vector(123_456)[None]
    return lambda: index.search_rows(query, TOP, kind=kind)[1]


def product(data: Path) -> Callable[[], Any]:
    from triclip import open_index

    index = open_index(data / "vectors_1m.index")
    vectors, query = index.vectors, index.vector(123_456)[None]
    return lambda: query @ vectors.T


def recall(results: dict[str, Any]) -> str:
    import numpy as np

    wanted = set(np.argsort(-results["NumPy product"][0], kind="stable")[:TOP].tolist())
    assert set(results["triclip exact"][0].tolist()) == wanted
    shares = {name: len(wanted & set(results[f"triclip {name}"][0].tolist())) for name in ("exact, float16", "ivf")}
    return (
        f"exact search names NumPy's ten rows; float16 names {shares['exact, float16']} of them, ivf {shares['ivf']}."
    )
