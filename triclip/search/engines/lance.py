"""An index as a table of LanceDB, by its own package (extra `lancedb`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_core.errors import InputError, MissingDependencyError

from .base import About, Described, as_filters, as_rows, check_queries

_ABOUT = "-triclip"  # ends the name of the table that says what the other one is
_ROW = "row"
_INDEXES = {"ivf": "IVF_FLAT", "hnsw": "IVF_HNSW_SQ"}
_REFINED = 10  # so many times the results are scored exactly


class Lance(Described):
    """A table `name` of the database in a folder, or at an address that LanceDB knows (s3://, gs://, az://, db://).

    Raises MissingDependencyError.
    """

    default_kind = "hnsw"

    def __init__(self, place: str, name: str) -> None:
        try:
            import lancedb
            import pyarrow
        except ImportError as error:
            raise MissingDependencyError("LanceDB needs its package: pip install 'triclip[lancedb]'") from error
        self.name, self._arrow = name, pyarrow
        self._database: Any = lancedb.connect(place)
        about = self._open(name + _ABOUT)
        self.about = None if about is None else About.of(json.loads(about.to_arrow()["about"][0].as_py()))
        self._table: Any = None if self.about is None else self._open(name)

    def _open(self, name: str) -> Any:
        try:
            return self._database.open_table(name)
        except (FileNotFoundError, ValueError):  # which of them a missing table is depends on the release
            return None

    # -- uploading ----------------------------------------------------------------------------------------------------

    def create(self, about: About, replace: bool) -> None:
        arrow = self._arrow
        kinds = {"string": arrow.string(), "integer": arrow.int64(), "number": arrow.float64(), "flag": arrow.bool_()}
        fields = [(_ROW, arrow.int64()), ("vector", arrow.list_(arrow.float32(), about.width))]
        self._schema = arrow.schema(
            [*fields, *((_column(title), kinds[kind]) for title, kind in about.columns.items())]
        )
        if replace or self._table is None:
            self._table = self._database.create_table(self.name, schema=self._schema, mode="overwrite")
        text = arrow.table({"about": [json.dumps(about.record)]})
        self._database.create_table(self.name + _ABOUT, text, mode="overwrite")
        self.about = about

    def add(self, rows: Sequence[int], vectors: np.ndarray, columns: dict[str, list[Any]]) -> None:
        arrow = self._arrow
        flat = arrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        arrays = [arrow.array(rows, arrow.int64()), arrow.FixedSizeListArray.from_arrays(flat, self.width)]
        arrays += [
            arrow.array(columns[title], self._schema.field(_column(title)).type) for title in self._known.columns
        ]
        self._table.add(arrow.Table.from_arrays(arrays, schema=self._schema))

    def stored(self) -> int:
        return 0 if self._table is None else self._table.count_rows()

    def finish(self, kind: str) -> None:
        self._table.optimize()
        if kind in _INDEXES:
            self._table.create_index(metric="dot", vector_column_name="vector", index_type=_INDEXES[kind])

    # -- searching ----------------------------------------------------------------------------------------------------

    def search_rows(
        self, queries: np.ndarray, top: int = 5, where: Any = None, kind: str = "hnsw"
    ) -> tuple[np.ndarray, np.ndarray]:
        queries = check_queries(queries, self.width, top)
        condition = " AND ".join(_sql(*one) for one in as_filters(where, self._known.columns))
        found = []
        for query in queries:
            asked = self._table.search(query, vector_column_name="vector").distance_type("dot").limit(int(top))
            asked = asked.bypass_vector_index() if kind == "exact" else asked.refine_factor(_REFINED)
            if condition:
                asked = asked.where(condition, prefilter=True)
            answer = asked.select([_ROW, "_distance"]).to_arrow()
            pairs = zip(answer[_ROW].to_pylist(), answer["_distance"].to_pylist(), strict=True)
            found.append([(row, 1.0 - distance) for row, distance in pairs])
        return as_rows(found)

    def metadata(self, row: int) -> dict[str, Any]:
        found = self._row(row)
        return {title: found[_column(title)] for title in self._known.columns}

    def vector(self, row: int) -> np.ndarray:
        return np.array(self._row(row)["vector"], np.float32)

    def _row(self, row: int) -> dict[str, Any]:
        found = self._table.search().where(f"{_ROW} = {int(row)}").limit(1).to_list()
        if not found:
            raise IndexError(f"wanted a row below {len(self)}, found {row}")
        return found[0]


def _column(title: str) -> str:
    """A column of the table: none of its own names, and no dots, which would be parts of a structure."""
    return "column_" + title.replace(".", "__")


def _sql(title: str, sign: str, value: Any) -> str:
    column = f"`{_column(title)}`"
    if sign == "~":
        if any(letter in value for letter in "[%_\\"):
            raise InputError(f"filter on {title!r}: LanceDB knows * and ? in a pattern, found {value!r}")
        return f"{column} LIKE {_quoted(value.replace('*', '%').replace('?', '_'))}"
    literal = (
        _quoted(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    )
    return f"{column} {sign} {literal}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
