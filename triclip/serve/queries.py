"""Reading and checking the queries of requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from clip_core.errors import InputError

from ..search import combine
from .library import Library
from .limits import Limits, Refusal

NAMES = ("q", "without", "like", "unlike", "name", "filter", "top")
PICTURE = "picture"
_SEVERAL = ("like", "unlike", "filter")


@dataclass(frozen=True)
class Query:
    """Words that are wanted and such that are not; ids of pictures of the folder, likewise; filters, and a part of the
    file's name; how many results; and an uploaded picture's file, if any."""

    words: str = ""
    without: str = ""
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    name: str = ""
    top: int = 24
    picture: bytes | None = None

    @property
    def where(self) -> list[str | tuple[str, str, str]]:
        """The filters, with that of the names: a part of one, or a pattern."""
        pattern = self.name if any(letter in self.name for letter in "*?[") else f"*{self.name}*"
        return [*self.filters, *([("name", "~", pattern)] if self.name else [])]

    def more(self, limits: Limits) -> str:
        """The same query for more results, as a URL's parameters; "" for one that has all there can be."""
        if self.picture is not None or self.top >= limits.results:
            return ""
        single = [("q", self.words), ("without", self.without), ("name", self.name)]
        several = [("like", one) for one in self.like] + [("unlike", one) for one in self.unlike]
        several += [("filter", one) for one in self.filters]
        more = min(limits.results, max(2 * self.top, self.top + 24))
        return urlencode([*((key, value) for key, value in single if value), *several, ("top", more)])

    def __bool__(self) -> bool:
        """Whether the query is not empty."""
        return bool(self.words or self.without or self.like or self.unlike or self.picture)


def read_query(pairs: Iterable[tuple[str, Any]], limits: Limits, picture: bytes | None = None) -> Query:
    """A query from the parameters of a request; only `like`, `unlike` and `filter` may be repeated.

    Raises Refusal 400 naming the parameter, what was wanted and what was found.
    """
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in NAMES:
            raise Refusal(400, f"{_short(name)}: no such parameter; there are {', '.join(NAMES)}")
        given.setdefault(name, []).append(value)
    for name, values in given.items():
        most = limits.parts if name in _SEVERAL else 1
        if len(values) > most:
            raise Refusal(400, f"{name}: wanted it at most {most} times, found {len(values)}")
        for value in values:
            if len(value) > limits.query_letters:
                raise Refusal(400, f"{name}: wanted at most {limits.query_letters} letters, found {len(value)}")
    one = {name: values[0].strip() for name, values in given.items() if name not in _SEVERAL}
    several = {name: tuple(filter(None, given.get(name, ()))) for name in _SEVERAL}
    return Query(
        one.get("q", ""), one.get("without", ""), several["like"], several["unlike"], several["filter"],
        one.get("name", ""), _top(one.get("top", ""), limits), picture or None,
    )  # fmt: skip


def _top(text: str, limits: Limits) -> int:
    if not text:
        return min(limits.default_results, limits.results)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= limits.results):
        raise Refusal(400, f"top: wanted a whole number from 1 to {limits.results}, found {_short(text)}")
    return int(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def query_vector(library: Library, query: Query, picture: Any = None) -> np.ndarray:
    """The unit vector [P] of a query; `picture`: its uploaded picture, decoded. Runs the model.

    Raises Refusal 404 for an unknown id, 400 if the parts cancel each other out.
    """
    clip = library.clip
    parts = [(library.index.vector(library.row(one)), 1.0) for one in query.like]
    parts += [(library.index.vector(library.row(one)), -1.0) for one in query.unlike]
    if picture is not None:
        parts.append((clip.encode_image([picture], progress=False)[0], 1.0))
    texts = [(text, weight) for text, weight in ((query.words, 1.0), (query.without, -1.0)) if text]
    if texts:
        vectors = clip.encode_text([text for text, _ in texts], progress=False)
        parts += [(vector, weight) for vector, (_, weight) in zip(vectors, texts, strict=True)]
    try:
        return combine([vector for vector, _ in parts], [weight for _, weight in parts])
    except InputError as error:
        raise Refusal(400, str(error)) from error
