"""Pictures whose index is on an engine (see `triclip.search.engines`): nothing is read of it that isn't asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..pipeline import Clip
from ..search.columns import NAME
from ..search.engines.base import Searchable
from .inside import Folder
from .library import ID, Cache, Found, Library, as_found
from .limits import Limits, Refusal

_MORE = 2  # times as many rows are asked for, some of which may lie elsewhere


class RemoteLibrary(Library):
    """As `Library`, over an engine: ids are rows' numbers, and a row's name is looked at when it is found.

    Args: as for `Library`; names lie in `folder`, relative to it where the index had a root.
    """

    def __init__(self, clip: Clip, index: Searchable, folder: str | os.PathLike, limits: Limits | None = None) -> None:
        self.clip, self.folder, self.limits = clip, Folder(folder), limits or Limits()
        self.index: Any = index
        self._base = os.path.abspath(folder) if index.origin.root else None
        self._start(None, Cache(self.limits.cache_bytes))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def titles(self) -> list[str]:
        return list(self.index.about.columns)

    def row(self, picture_id: str) -> int:
        if ID.fullmatch(picture_id) and int(picture_id, 16) < len(self) and self._is_inside(int(picture_id, 16)):
            return int(picture_id, 16)
        raise Refusal(404, "no such picture")

    def _is_inside(self, row: int) -> bool:
        return self._relative(self._name(row)) is not None

    def about(self, row: int, similarity: float | None = None) -> Found:
        known = self.index.metadata(row)
        return as_found(f"{row:016x}", self._shown(known.pop(NAME)), similarity, known)

    def sample(self, count: int) -> list[Found]:
        step = max(1, len(self) / count)
        rows = [int(i * step) for i in range(min(count, len(self)))]
        return [self.about(row) for row in rows if self._is_inside(row)]

    def search(self, query: np.ndarray, top: int, filters: Sequence[Any] = (), kind: str = "exact") -> list[Found]:
        scores, rows = self.index.search_rows(query[None], _MORE * top, list(filters) or None, self.index.default_kind)
        found = [(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
        return [self.about(row, score) for row, score in found if self._is_inside(row)][:top]

    def _name(self, row: int) -> str:
        return self.index.metadata(row)[NAME]
