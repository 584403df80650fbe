"""What is asked of an engine, and what the engines share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from clip_core.errors import InputError

from ..filters import parse_filter, typed_value
from ..origin import Origin


class Searchable(Protocol):
    """What `search` and `serve` ask of an index. `Index` has all of it.

    default_kind: how it is searched unless told otherwise.
    """

    default_kind: str

    @property
    def origin(self) -> Origin:
        """See `Origin`."""

    @property
    def width(self) -> int:
        """Of its vectors."""

    def __len__(self) -> int: ...

    def search_rows(
        self, queries: np.ndarray, top: int = 5, where: Any = None, kind: str = "exact"
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search_rows`; of `where`, filters as text."""

    def metadata(self, row: int) -> dict[str, Any]:
        """Everything known of a row, by column."""

    def vector(self, row: int) -> np.ndarray:
        """float32 [P] of one row."""


class About(NamedTuple):
    """What an engine keeps beside the rows: where they come from, and their columns with the kinds of these."""

    origin: Origin
    width: int
    columns: dict[str, str]
    rows: int
    source: str  # tells the index that is being uploaded from another

    @classmethod
    def of(cls, record: dict[str, Any]) -> About:
        """What `record` gave. Raises InputError."""
        try:
            origin = Origin(*map(str, record["origin"]))
            columns = {str(title): str(kind) for title, kind in record["columns"]}
            return cls(origin, int(record["width"]), columns, int(record["rows"]), str(record["source"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"wanted what `triclip index --to` wrote, found {str(record)[:200]}") from error

    @property
    def record(self) -> dict[str, Any]:
        """As JSON values."""
        columns = [list(pair) for pair in self.columns.items()]
        facts = {"width": self.width, "rows": self.rows, "source": self.source}
        return {"origin": list(self.origin), "columns": columns, **facts}


class Engine(Searchable, Protocol):
    """What uploading asks of an engine, too."""

    about: About | None

    def create(self, about: About, replace: bool) -> None:
        """A place for the rows; one that is there is emptied if `replace`."""

    def add(self, rows: Sequence[int], vectors: np.ndarray, columns: dict[str, list[Any]]) -> None:
        """Some rows, on disk when this returns."""

    def stored(self) -> int:
        """How many rows are there now: the first ones."""

    def finish(self, kind: str) -> None:
        """Build what an approximate search needs, where the engine doesn't of its own accord."""


class Described:
    """What an engine's `about` tells of its index."""

    about: About | None

    @property
    def _known(self) -> About:
        assert self.about is not None
        return self.about

    @property
    def origin(self) -> Origin:
        return self._known.origin

    @property
    def model(self) -> str:
        return self.origin.model

    @property
    def width(self) -> int:
        return self._known.width

    def __len__(self) -> int:
        return self._known.rows


def check_queries(queries: np.ndarray, width: int, top: int) -> np.ndarray:
    """Queries as float32. Raises InputError."""
    if queries.ndim != 2 or queries.shape[1] != width or not np.isfinite(queries).all():
        raise InputError(f"query: wanted finite vectors of width {width}, found shape {queries.shape}")
    if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
        raise InputError(f"top: wanted a number from 1, found {top!r}")
    return queries.astype(np.float32, copy=False)


def as_filters(where: Any, columns: dict[str, str]) -> list[tuple[str, str, Any]]:
    """Filters (column, operator, value of the column's kind) of what `search_rows` was given. Raises InputError."""
    if where is None:
        return []
    if not isinstance(where, str | Sequence):
        raise InputError(f"where: wanted filters as text, found {type(where).__name__}: this index is on an engine")
    found = []
    for one in [where] if isinstance(where, str | tuple) else where:
        title, sign, value = parse_filter(one) if isinstance(one, str) else one
        if title not in columns:
            raise InputError(f"filter: no column {title!r}; there are {', '.join(columns)}")
        if sign == "~" and columns[title] != "string":
            raise InputError(f"filter on {title!r}: ~ wants a column of strings, found {columns[title]}")
        found.append((title, sign, value if sign == "~" else typed_value(title, columns[title], value)))
    return found


def as_rows(found: Sequence[Sequence[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """(scores, rows) [Q, k] of pairs for each query; fewer columns where a query found fewer."""
    least = min(map(len, found), default=0)
    scores = np.array([[score for _, score in one[:least]] for one in found], np.float32).reshape(len(found), least)
    rows = np.array([[row for row, _ in one[:least]] for one in found], np.int64).reshape(len(found), least)
    return scores, rows
