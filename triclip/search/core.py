"""`Index`: vectors with names and metadata, searched exactly or approximately."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import InputError

from . import approximate
from .columns import NAME, Column, is_shown, make_columns
from .exact import best_rows, longest, rescore
from .filters import select_rows
from .origin import Origin
from .runs import DTYPES

_ROWS = 1 << 14  # read at a time


class Index:
    """Unit vectors with names.

    Args:
        vectors: [N, P]; float16 is kept, other dtypes become float32.
        names: N paths or sentences.
        model: the name of the vectors' model; queries need the same one.
        metadata: column -> N strings, numbers or flags, for filters.
        fingerprint, root, background, rules: see `Origin`; default "", not known or none.

    Attributes: origin, the model and facts as an `Origin`; columns, a mapping of titles to `Column`, "name"
    first; path, of a folder index; else None.
    """

    path: Path | None = None
    default_kind = "exact"  # how it is searched unless told otherwise

    def __init__(
        self,
        vectors: np.ndarray,
        names: Sequence[str],
        model: str,
        metadata: Mapping[str, Sequence[Any]] | None = None,
        fingerprint: str = "",
        root: str = "",
        background: str = "",
        rules: str = "",
    ) -> None:
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise InputError(f"index: wanted one row per name, found {vectors.shape} and {len(names)} names")
        if vectors.dtype.kind not in "fiu":
            raise InputError(f"index: wanted vectors of numbers, found {vectors.dtype}")
        vectors = vectors if vectors.dtype in DTYPES else vectors.astype(np.float32)
        self._set(
            [vectors],
            make_columns(names, metadata),
            Origin(model, fingerprint, root, background, rules),
            vectors.shape[1],
        )

    @classmethod
    def from_parts(
        cls,
        parts: Sequence[np.ndarray],
        columns: Mapping[str, Column],
        origin: Origin,
        width: int,
        largest_norm: float | None = None,
    ) -> Index:
        """An index over consecutive arrays [N_i, P], without copies.

        columns: title -> `Column` of all rows, "name" first; largest_norm: an upper bound of the rows' lengths,
        computed when needed by default.
        """
        index = Index.__new__(Index)
        index._set(list(parts), dict(columns), origin, width, largest_norm)
        return index

    def _set(
        self,
        parts: list[np.ndarray],
        columns: dict[str, Column],
        origin: Origin,
        width: int,
        largest_norm: float | None = None,
    ) -> None:
        self.parts, self.columns, self.origin, self.width = parts, columns, origin, width
        self._largest_norm = largest_norm
        self._candidates: dict[str, tuple[approximate.Candidates, int]] = {}  # kind -> (candidates, rows covered)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def model(self) -> str:
        """The name of the vectors' model."""
        return self.origin.model

    @property
    def names(self) -> list[str]:
        return list(self.columns[NAME])

    @property
    def vectors(self) -> np.ndarray:
        """[N, P]; mapped from the file if it has one part."""
        return self.parts[0] if len(self.parts) == 1 else np.concatenate([self._no_rows(), *self.parts])

    @property
    def dtype(self) -> np.dtype:
        return self._no_rows().dtype

    def _no_rows(self) -> np.ndarray:
        return np.empty((0, self.width), self.parts[0].dtype if self.parts else np.float32)

    @property
    def largest_norm(self) -> float:
        """The length of the longest vector. Raises InputError if one is not finite."""
        if self._largest_norm is None:
            self._largest_norm = longest(self.blocks())
        return self._largest_norm

    def metadata(self, row: int) -> dict[str, Any]:
        """Everything known of a row, by column; but which version of its file it was made of."""
        return {title: column[row] for title, column in self.columns.items() if is_shown(title)}

    def vector(self, row: int) -> np.ndarray:
        """float32 [P] of one row, without reading others."""
        if not 0 <= row < len(self):
            raise IndexError(f"wanted a row below {len(self)}, found {row}")
        for part in self.parts:
            if row < len(part):
                return np.asarray(part[row], np.float32)
            row -= len(part)
        raise AssertionError

    def take(self, rows: np.ndarray) -> Index:
        """An index in memory of some rows [K], in their order."""
        vectors = np.stack([self.vector(int(row)) for row in rows]) if len(rows) else self._no_rows()
        columns = {title: [column[int(row)] for row in rows] for title, column in self.columns.items()}
        names = columns.pop(NAME)
        return Index(vectors.astype(self.dtype), names, self.model, columns, **self.origin.facts)

    def blocks(self) -> Iterator[np.ndarray]:
        """The vectors, some rows at a time, as stored."""
        for part in self.parts:
            for start in range(0, len(part), _ROWS):
                yield part[start : start + _ROWS]

    # -- search -------------------------------------------------------------------------------------------------------

    def search(
        self, query: np.ndarray, top: int = 5, where: Any = None, kind: str = "exact"
    ) -> list[tuple[str, float]]:
        """The `top` most similar names with their cosines, best first. `query`: unit vector [P].

        `where`, `kind`: as for `search_rows`.
        """
        if query.ndim != 1:
            raise InputError(f"query: wanted one vector [{self.width}], found shape {query.shape}")
        scores, rows = self.search_rows(query[None], top, where, kind)
        names = self.columns[NAME]
        return [(names[int(row)], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]

    def search_rows(
        self, queries: np.ndarray, top: int = 5, where: Any = None, kind: str = "exact"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `top` best rows of each query, best first; equal scores in the order of the rows.

        Args:
            queries: unit vectors [Q, P].
            top: k, from 1.
            where: the rows to search: a filter such as "year>=2020", a list of such, a mapping of columns to values, a
                mask bool [N], row numbers, or a function of a row as a dict; see `filters.select_rows`.
            kind: "exact" (default); "hnsw" or "ivf" take candidates from FAISS (extra `search`), built at the first
                use. Candidates are scored exactly, and rows appended later are searched exactly; with `where` the
                whole search is exact.

        Returns (scores float32, rows int64), both [Q, min(k, rows there are)]. Raises InputError.
        """
        queries = self._check_queries(queries)
        if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
            raise InputError(f"top: wanted a number from 1, found {top!r}")
        approximate.check_kind(kind)
        rows = select_rows(where, self.columns, len(self))
        if kind == "exact" or rows is not None or not len(self):
            return best_rows(self.parts, queries, int(top), self.largest_norm, rows)
        return self._search_candidates(queries, min(int(top), len(self)), kind)

    def _check_queries(self, queries: np.ndarray) -> np.ndarray:
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise InputError(
                f"query: wanted a vector of width {self.width}, found {queries.shape[-1] if queries.ndim else 'one'}: "
                f"the index was made with the model {self.model!r}"
            )
        if queries.dtype.kind not in "fiu" or not np.isfinite(queries).all():
            raise InputError("query: wanted finite numbers")
        return queries

    def _search_candidates(self, queries: np.ndarray, top: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        candidates, covered = self.candidates(kind)
        found = candidates.ask(queries.astype(np.float32), min(top, covered))
        later = np.arange(covered, len(self))
        _, newest = best_rows(self.parts, queries, top, self.largest_norm, later)
        scores, rows = np.empty((len(queries), top), np.float32), np.empty((len(queries), top), np.int64)
        for i, query in enumerate(queries):
            able = np.concatenate([np.unique(found[i][found[i] >= 0]), newest[i]])
            if len(able) < top:  # too few candidates
                exact = best_rows(self.parts, query[None], top, self.largest_norm)
                scores[i], rows[i] = exact[0][0], exact[1][0]
                continue
            values = rescore(self.parts, query, able)
            order = np.lexsort((able, -values))[:top]
            scores[i], rows[i] = values[order], able[order]
        return scores, rows

    def candidates(self, kind: str) -> tuple[approximate.Candidates, int]:
        """The approximate index of a kind and the number of rows it covers; built and kept if there is none.

        Raises MissingDependencyError without FAISS.
        """
        kept = self._candidates.get(kind)
        if kept is None:
            kept = self._candidates[kind] = self._build_candidates(kind), len(self)
        return kept

    def _build_candidates(self, kind: str) -> approximate.Candidates:
        return approximate.build(kind, self._float32_blocks, len(self), self.width)

    def _float32_blocks(self) -> Iterator[np.ndarray]:
        return (block.astype(np.float32, copy=False) for block in self.blocks())

    def recall(self, queries: np.ndarray, top: int = 10, kind: str = "hnsw") -> float:
        """Recall@k of an approximate search: the share of the exact k best rows that it finds, over all queries [Q, P].
        Any row with the score of the k-th counts as found."""
        wanted, _ = self.search_rows(queries, top)
        found, _ = self.search_rows(queries, top, kind=kind)
        return float((found >= wanted[:, -1:]).mean()) if wanted.size else 1.0

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write by suffix: .npz; .npy with the rest in `<file>.json`; .parquet; .index, a folder. An existing index is
        replaced after the new one is complete."""
        from .parts import replace
        from .single_file import check_output, write_file

        path = check_output(path)
        if path.suffix == ".index":
            replace(path, [self])
        else:
            write_file(self, path)


def sampled_recall(index: Index, kind: str, count: int = 200, top: int = 10) -> dict[str, Any]:
    """{"recall@k", "queries"}: `Index.recall` for about `count` of the index's own vectors, evenly spread."""
    step = max(1, len(index) // count)
    queries = np.concatenate([np.empty((0, index.width), np.float32), *(part[::step] for part in index.parts)])
    return {f"recall@{top}": index.recall(queries.astype(np.float32), top, kind), "queries": len(queries)}
