"""The served pictures: their index and their folder."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from clip_core.errors import InputError

from ..pipeline import Clip
from ..search import Index, open_index
from ..search.columns import NAME, Column, Strings, is_shown
from ..search.filters import select_rows
from ..search.opening import index_at
from ..search.parts import MANIFEST
from .inside import Folder
from .limits import Limits, Refusal
from .pictures import identify, media_type, picture_facts, small_jpeg

logger = logging.getLogger("triclip")

THUMBNAIL = 320  # pixels
ID = re.compile(r"[0-9a-f]{16}")


class Found(NamedTuple):
    """One result: the picture's id, its name in the folder, the cosine, and the other columns of the index."""

    id: str
    name: str
    similarity: float | None
    metadata: dict[str, Any]


class Library:
    """An index whose rows are pictures in a folder, and its model.

    Args:
        clip: a `Clip`; used by one thread at a time.
        index: its names are paths relative to its root; without a root absolute, or relative to the working directory
            or the folder. Rows with other paths, and sentences, are never shown.
        folder: the pictures' folder. No file outside is opened, by any name or link.
        limits: of picture sizes and of memory for thumbnails.
        base: the folder that names of an index with a root are relative to; default `folder`.
        source: the path that the index was opened from, and its `version_of` before that, for `refreshed`.

    Raises InputError if no row lies in the folder, or if the model's vectors and the index's differ in width.
    """

    def __init__(
        self,
        clip: Clip,
        index: Index,
        folder: str | os.PathLike,
        limits: Limits | None = None,
        base: str | os.PathLike | None = None,
        source: tuple[Path, Any] | None = None,
    ) -> None:
        self.clip, self.index, self.folder = clip, index, Folder(folder)
        self._base = None if not index.origin.root else os.path.abspath(base or self.folder.real)
        self.limits = limits or Limits()
        if index.width != clip.config.projection_dim:
            wanted = f"wanted vectors of width {clip.config.projection_dim}, as the model's"
            raise InputError(f"index: {wanted}, found {index.width}; it was made with the model {index.model!r}")
        ids, inside = np.empty(len(index), np.uint64), np.zeros(len(index), bool)
        for row, name in enumerate(index.columns[NAME]):
            inside[row] = self._relative(name) is not None
            ids[row] = _number(name)
        self.rows = np.flatnonzero(inside)  # int64 [K]
        if not len(self.rows):
            raise InputError(f"{folder}: none of the index's {len(index)} names is a picture in this folder")
        order = np.argsort(ids[self.rows], kind="stable")
        self._sorted_ids, self._sorted_rows = ids[self.rows][order], self.rows[order]
        self._start(source, Cache(self.limits.cache_bytes))

    def _start(self, source: tuple[Path, Any] | None, thumbnails: Cache) -> None:
        self._source: Path | None
        self._version: Any
        self._source, self._version = source or (None, None)
        self._thumbnails, self._lock = thumbnails, threading.Lock()

    @property
    def titles(self) -> list[str]:
        """The columns that filters may name."""
        return [title for title in self.index.columns if is_shown(title)]

    def __len__(self) -> int:
        return len(self.rows)

    def refreshed(self) -> Library:
        """A library of the index as it is on disk now: this one, unless that has changed since it was opened.

        While the new one can't be opened, or is another model's, this one stays.
        """
        version = version_of(self._source)
        if self._source is None or version in (None, self._version):
            return self
        self._version = version
        try:
            index = open_index(self._source)
            index.origin.check_model(self.index.model, self.index.origin.fingerprint)
            return Library(self.clip, index, self.folder.path, self.limits, self._base, (self._source, version))
        except (OSError, InputError) as error:
            logger.warning("%s has changed, and what is there now is not served: %s", self._source, error)
            return self

    # -- rows ---------------------------------------------------------------------------------------------------------

    def row(self, picture_id: str) -> int:
        """The row of an id. Raises Refusal 404."""
        if ID.fullmatch(picture_id):
            place = int(np.searchsorted(self._sorted_ids, np.uint64(int(picture_id, 16))))
            if place < len(self._sorted_ids) and int(self._sorted_ids[place]) == int(picture_id, 16):
                return int(self._sorted_rows[place])
        raise Refusal(404, "no such picture")

    def about(self, row: int, similarity: float | None = None) -> Found:
        """The public values of a row. The name is relative to the folder, whose own path stays private."""
        known = self.index.metadata(row)
        name = known.pop(NAME)
        return as_found(f"{_number(name):016x}", self._shown(name), similarity, known)

    def sample(self, count: int) -> list[Found]:
        """Some pictures, evenly spread."""
        step = max(1, len(self.rows) / count)
        return [self.about(int(self.rows[int(i * step)])) for i in range(min(count, len(self.rows)))]

    def search(self, query: np.ndarray, top: int, filters: Sequence[Any] = (), kind: str = "exact") -> list[Found]:
        """The `top` pictures most similar to a unit vector [P], best first; `filters`, `kind`: see `Index`.

        Filters apply to the shown names. Raises InputError for a filter on an unknown column.
        """
        where = select_rows(list(filters), self._columns, len(self.index)) if filters else None
        if len(self.rows) < len(self.index):
            where = self.rows if where is None else np.intersect1d(where, self.rows, assume_unique=True)
        scores, rows = self.index.search_rows(query[None], top, where, kind)
        return [self.about(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]

    @cached_property
    def _columns(self) -> dict[str, Column]:
        """The index's columns with names relative to the folder, because the index's names may contain its path."""
        names = [self._shown(name) for name in self.index.columns[NAME]]
        return {**self.index.columns, NAME: Column("string", [Strings.of(names)])}

    def _shown(self, name: str) -> str:
        return (self._relative(name) or "").replace(os.sep, "/")

    def _relative(self, name: str) -> str | None:
        """A name of the index relative to the folder; None if it lies outside."""
        return self.folder.relative(name if self._base is None else os.path.join(self._base, name))

    def has_file(self, row: int) -> bool:
        """Whether the row's picture is there."""
        return self.folder.holds(self._relative(self._name(row)) or "")

    def _name(self, row: int) -> str:
        """As the index has it."""
        return self.index.columns[NAME][row]

    # -- files --------------------------------------------------------------------------------------------------------

    def open(self, picture_id: str) -> tuple[BinaryIO, str]:
        """A picture's file and its media type. Raises Refusal 404 if it is missing or not a picture."""
        file = self._file(picture_id)
        try:
            kind = media_type(identify(file, self.limits.picture_pixels))
            file.seek(0)
            return file, kind
        except (Refusal, OSError) as error:
            file.close()
            raise Refusal(404, "this file is no picture that can be shown") from error

    def facts(self, picture_id: str) -> dict[str, str]:
        """What a picture's file says of itself: format, size, when it was taken and with what. Raises Refusal."""
        with self._file(picture_id) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                return picture_facts(identify(file, self.limits.picture_pixels), size)
            except (Refusal, OSError) as error:
                raise Refusal(404, "this file is no picture that can be shown") from error

    def thumbnail(self, picture_id: str) -> bytes:
        """A small JPEG of a picture. Raises Refusal 404."""
        with self._lock:
            kept = self._thumbnails.get(picture_id)
        if kept is not None:
            return kept
        with self._file(picture_id) as file:
            try:
                made = small_jpeg(identify(file, self.limits.picture_pixels), THUMBNAIL)
            except Refusal as error:
                raise Refusal(404, "this file is no picture that can be shown") from error
        with self._lock:
            self._thumbnails.put(picture_id, made)
        return made

    def _file(self, picture_id: str) -> BinaryIO:
        relative = self._relative(self._name(self.row(picture_id)))
        try:
            return self.folder.open(relative or "")
        except FileNotFoundError as error:
            raise Refusal(404, "this picture is no longer in the folder") from error


def version_of(path: Path | None) -> tuple[int, int, int] | None:
    """What tells an index from the one that replaces it; None where nothing is there, or for a bulk run."""
    if path is None:
        return None
    at = index_at(path)
    try:
        about = os.stat(at / MANIFEST if at.is_dir() else at)
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def as_found(picture_id: str, name: str, similarity: float | None, known: dict[str, Any]) -> Found:
    """A row as it is shown."""
    return Found(picture_id, _printable(name), similarity, _json_values(known))


class Cache:
    """The bytes used last, up to a total."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._size += len(value) - len(self._kept.pop(key, b""))
        self._kept[key] = value
        while self._size > self._most:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)


def _number(name: str) -> int:
    """64 bits of a name, the same at every start, so that links and caches stay valid."""
    return int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "big")


def _printable(name: str) -> str:
    """A file name as printable text; it may contain bytes that are not text."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _json_values(known: dict[str, Any]) -> dict[str, Any]:
    """Values with NaN, which stands for a missing number, and infinities as null, because JSON has neither."""
    values = {}
    for title, value in known.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        values[_printable(title)] = _printable(value) if isinstance(value, str) else value if finite else None
    return values
