"""One query among 300,000 vectors, exactly: beside the plain product, which orders nothing, and FAISS's flat index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Row, Side

TOP = 10
ROW = Row(
    title="Exact search: one query, 300,000 vectors",
    about=(
        "The 10 best of 300,000 unit vectors of 512 float32 numbers for one query. triclip's are mapped from an index "
        "folder; scores are float64 sums, the same on every machine. The product is NumPy's, [1, 512] @ [512, N]; it "
        "orders nothing; FAISS is IndexFlatIP."
    ),
    data=("vectors_300k",),
    sides={
        "triclip": Side("triclip", "ours"),
        "NumPy product": Side("triclip", "product"),
        "FAISS flat": Side("triclip", "faiss"),
    },
    pairs=(Pair("triclip", "NumPy product", at_most=1.2), Pair("triclip", "FAISS flat", at_most=1.2)),
    count=1,
    check="same_rows",
    rounds=25,
)


def ours(data: Path) -> Callable[[], Any]:
    from triclip import open_index

    index, queries = open_index(data / "vectors_300k.index"), _query(data)
    return lambda: index.search_rows(queries, TOP)[1]


def product(data: Path) -> Callable[[], Any]:
    vectors, queries = _vectors(data), _query(data)
    return lambda: queries @ vectors.T


def faiss(data: Path) -> Callable[[], Any]:
    import faiss

    vectors, queries = _vectors(data), _query(data)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda: index.search(queries, TOP)[1]


def _vectors(data: Path) -> Any:
    import numpy as np

    from triclip import open_index

    return np.ascontiguousarray(open_index(data / "vectors_300k.index").vectors)


def _query(data: Path) -> Any:
    import numpy as np

    query = np.random.default_rng(1).standard_normal((1, 512), dtype=np.float32)
    return query / np.linalg.norm(query)


def same_rows(results: dict[str, Any]) -> str:
    import numpy as np

    found = results["triclip"][0]
    wanted = np.argsort(-results["NumPy product"][0], kind="stable")[:TOP]
    assert set(found.tolist()) == set(wanted.tolist()) == set(results["FAISS flat"][0].tolist())
    return "all three name the same ten rows."
