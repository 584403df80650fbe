"""One query among a million vectors, exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Row, Side

TOP = 10
ROW = Row(
    title="Exact search: one query, a million vectors",
    about=(
        "The 10 best of 1,000,000 unit vectors of 512 numbers, clustered as pictures are, for one query: from mapped "
        "index folders of float32 (2 GB) and float16 (1 GB), in ten parts each. The product orders nothing."
    ),
    data=("vectors_1m",),
    sides={
        "triclip": Side("triclip", "exact"),
        "triclip, float16": Side("triclip", "half"),
        "NumPy product": Side("triclip", "product"),
    },
    pairs=(Pair("triclip", "NumPy product", at_most=1.2),),
    count=1,
    check="recall",
    rounds=9,
)


def exact(data: Path) -> Callable[[], Any]:
    return _search(data, "vectors_1m")


def half(data: Path) -> Callable[[], Any]:
    return _search(data, "vectors_1m_half")


def _search(data: Path, name: str) -> Callable[[], Any]:
    from triclip import open_index

    index = open_index(data / f"{name}.index")
    query = index.vector(123_456)[None]
    return lambda: index.search_rows(query, TOP)[1]


def product(data: Path) -> Callable[[], Any]:
    import numpy as np

    from triclip import open_index

    index = open_index(data / "vectors_1m.index")
    query = index.vector(123_456)[None]
    return lambda: np.concatenate([query @ part.T for part in index.parts], 1)


def recall(results: dict[str, Any]) -> str:
    import numpy as np

    wanted = set(np.argsort(-results["NumPy product"][0], kind="stable")[:TOP].tolist())
    assert set(results["triclip"][0].tolist()) == wanted
    same = len(wanted & set(results["triclip, float16"][0].tolist()))
    return f"exact search names NumPy's ten rows, of float16 vectors {same} of them."
