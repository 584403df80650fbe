"""An index as a collection of Qdrant, by qdrant-client (extra `qdrant`)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_core.errors import InputError, MissingDependencyError

from .base import About, Described, as_filters, as_rows, check_queries

_ABOUT = "-triclip"  # ends the name of the collection that says what the other one is
_SECONDS = 60


class Qdrant(Described):
    """A collection `name` at a server's URL, or in a folder (the client's local mode: exact, for some 10,000 rows).

    Points are numbered as rows; their payload is the row's columns. Raises MissingDependencyError.
    """

    default_kind = "hnsw"

    def __init__(self, place: str, name: str) -> None:
        try:
            from qdrant_client import QdrantClient, models
        except ImportError as error:
            raise MissingDependencyError("Qdrant needs its client: pip install 'triclip[qdrant]'") from error
        self.name, self._models, self._local = name, models, "://" not in place
        self._client: Any = QdrantClient(path=place) if self._local else QdrantClient(url=place, timeout=_SECONDS)
        self.about = self._read_about()

    def _read_about(self) -> About | None:
        if not self._client.collection_exists(self.name + _ABOUT):
            return None
        points = self._client.retrieve(self.name + _ABOUT, ids=[0])
        return About.of(points[0].payload) if points else None

    # -- uploading ----------------------------------------------------------------------------------------------------

    def create(self, about: About, replace: bool) -> None:
        models = self._models
        if replace:
            for name in (self.name + _ABOUT, self.name):
                self._client.delete_collection(name)
        for name, width in ((self.name, about.width), (self.name + _ABOUT, 1)):
            if not self._client.collection_exists(name):
                shape = models.VectorParams(size=width, distance=models.Distance.DOT)
                self._client.create_collection(name, vectors_config=shape)
        for title, kind in about.columns.items() if not self._local else ():
            schema = {"string": "keyword", "integer": "integer", "number": "float", "flag": "bool"}[kind]
            self._client.create_payload_index(self.name, title, field_schema=schema)
        point = models.PointStruct(id=0, vector=[1.0], payload=about.record)
        self._client.upsert(self.name + _ABOUT, points=[point])
        self.about = about

    def add(self, rows: Sequence[int], vectors: np.ndarray, columns: dict[str, list[Any]]) -> None:
        payloads = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        batch = self._models.Batch(ids=list(rows), vectors=vectors.tolist(), payloads=payloads)
        self._client.upsert(self.name, points=batch, wait=True)

    def stored(self) -> int:
        return self._client.count(self.name, exact=True).count

    def finish(self, kind: str) -> None:
        """Nothing: a server builds its graph by itself."""

    # -- searching ----------------------------------------------------------------------------------------------------

    def search_rows(
        self, queries: np.ndarray, top: int = 5, where: Any = None, kind: str = "hnsw"
    ) -> tuple[np.ndarray, np.ndarray]:
        queries = check_queries(queries, self.width, top)
        chosen = self._filter(where)
        options = {} if self._local else {"search_params": self._models.SearchParams(exact=kind == "exact")}
        found = []
        for query in queries:
            with self._quiet():
                answer = self._client.query_points(
                    self.name, query=query.tolist(), limit=int(top), query_filter=chosen, with_payload=False, **options
                )
            found.append([(int(point.id), float(point.score)) for point in answer.points])
        return as_rows(found)

    def _quiet(self) -> Any:
        """The local mode warns of collections beyond 20,000 points."""
        quiet = contextlib.ExitStack()
        if self._local:
            quiet.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        return quiet

    def _filter(self, where: Any) -> Any:
        models = self._models
        must: list[Any] = []
        never: list[Any] = []
        for title, sign, value in as_filters(where, self._known.columns):
            if sign == "~":
                raise InputError(f"filter on {title!r}: Qdrant knows no patterns (~); wanted = != < <= > or >=")
            if sign in ("=", "!="):
                if isinstance(value, float):
                    same = models.FieldCondition(key=title, range=models.Range(gte=value, lte=value))
                else:
                    same = models.FieldCondition(key=title, match=models.MatchValue(value=value))
                (must if sign == "=" else never).append(same)
                continue
            if isinstance(value, str | bool):
                raise InputError(f"filter on {title!r}: Qdrant orders numbers alone, found strings or flags")
            bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[sign]
            must.append(models.FieldCondition(key=title, range=models.Range(**{bound: value})))
        return models.Filter(must=must or None, must_not=never or None) if must or never else None

    def metadata(self, row: int) -> dict[str, Any]:
        return {title: self._point(row).payload.get(title) for title in self._known.columns}

    def vector(self, row: int) -> np.ndarray:
        return np.array(self._point(row, with_vectors=True).vector, np.float32)

    def _point(self, row: int, **options: Any) -> Any:
        points = self._client.retrieve(self.name, ids=[int(row)], **options) if row >= 0 else []
        if not points:
            raise IndexError(f"wanted a row below {len(self)}, found {row}")
        return points[0]
