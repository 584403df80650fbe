"""Request handlers: searches, pictures, health. They use the web framework only through their request:
`await request.form(...)`, `request.stream()`, headers and parameters."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from clip_core.errors import InputError

from . import openapi, page
from .library import Found, Library
from .limits import Limits, RateLimit, Refusal, Worker, client_key
from .pictures import decode, identify, small_jpeg
from .queries import PICTURE, Query, query_vector, read_query

_QUERY_SIDE = 160  # pixels of an uploaded picture, shown beside what was found
_SHOWN_FIRST = 24  # pictures on the page before anything is searched for
_NEIGHBOURS = 12  # on a picture's page
_FIELD_BYTES = 16 << 10  # of one text field of a form
_KEPT = "private, max-age=600"


@dataclass
class Answer:
    """An answer: a body, or a file to be sent and closed."""

    body: bytes | BinaryIO
    media_type: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Result:
    query: Query
    found: list[Found]
    seconds: float
    picture: bytes | None = None  # a small JPEG of the upload


class Site:
    """The handlers of all routes, for one library.

    One thread computes one query at a time and searches the index; two others decode pictures.
    """

    def __init__(self, library: Library, limits: Limits, kind: str = "exact") -> None:
        self.library, self.limits, self._kind = library, limits, kind
        self._searches = RateLimit(limits.searches_per_minute)
        self._model = Worker(1, limits.waiting, "triclip-model")
        self._decoders = Worker(2, limits.waiting + limits.results, "triclip-pictures")  # a page requests all at once

    def close(self) -> None:
        """Wait for the threads."""
        self._model.close()
        self._decoders.close()

    # -- searches -----------------------------------------------------------------------------------------------------

    async def api_search(self, request: Any) -> Answer:
        """GET with parameters; POST with a picture as the body or in a form."""
        query = await self._read(request)
        if not query:
            raise Refusal(400, "search: wanted q=WORDS, like=ID or a picture, found none of them")
        result = await self._search(request, query)
        asked: dict[str, Any] = {"q": query.words, "without": query.without, "like": query.like, "unlike": query.unlike}
        asked |= {"filter": query.filters, "name": query.name, "picture": query.picture is not None}
        return _json(
            {
                "query": {name: value for name, value in asked.items() if value},
                "count": len(result.found),
                "seconds": round(result.seconds, 4),
                "results": [_listed(one) for one in result.found],
            }
        )

    async def home(self, request: Any) -> Answer:
        """The page: GET with parameters, POST of its form."""
        try:
            query = await self._read(request)
            if not query:
                shown = (await self._model.run(self._refresh)).sample(_SHOWN_FIRST)
                return _html(page.landing(self._about(), shown))
            result = await self._search(request, query)
        except Refusal as refusal:
            return self.error_page(refusal)
        similar = [self.library.about(self.library.row(one)) for one in (*query.like, *query.unlike)]
        shown_picture = None if result.picture is None else base64.b64encode(result.picture).decode()
        more = query.more(self.limits) if len(result.found) == query.top < len(self.library) else ""
        return _html(page.results(self._about(), query, result.found, similar, shown_picture, more))

    async def show(self, request: Any) -> Answer:
        """A picture's page: the picture, what is known of it, and its neighbours."""
        try:
            one, facts, near = await self._model.run(self._near, request.path_params["id"])
        except Refusal as refusal:
            return self.error_page(refusal)
        return _html(page.picture(self._about(), one, facts, near))

    def _near(self, picture_id: str) -> tuple[Found, dict[str, str], list[Found]]:
        library = self._refresh()
        row = library.row(picture_id)
        near = library.search(library.index.vector(row), min(_NEIGHBOURS + 1, self.limits.results), (), self._kind)
        return library.about(row), library.facts(picture_id), [one for one in near if one.id != picture_id]

    def error_page(self, refusal: Refusal) -> Answer:
        answer = _html(page.error(self._about(), refusal.message))
        answer.status, answer.headers = refusal.status, answer.headers | _retry(refusal)
        return answer

    def _about(self) -> page.About:
        limits = self.limits
        return page.About(len(self.library), limits.query_letters, limits.upload_bytes, self.library.titles)

    async def _search(self, request: Any, query: Query) -> _Result:
        self._searches.take(client_of(request))
        started = time.perf_counter()
        picture = small = None
        if query.picture is not None:
            picture, small = await self._decoders.run(_uploaded, query.picture, self.limits.picture_pixels)
        found = await self._model.run(self._find, query, picture)
        return _Result(query, found, time.perf_counter() - started, small)

    def _refresh(self) -> Library:
        """The library as its index is on disk now."""
        self.library = self.library.refreshed()
        return self.library

    def _find(self, query: Query, picture: Any) -> list[Found]:
        self._refresh()
        vector = query_vector(self.library, query, picture)
        try:
            return self.library.search(vector, query.top, query.where, self._kind)
        except InputError as error:
            raise Refusal(400, str(error)) from error

    # -- what a request holds -----------------------------------------------------------------------------------------

    async def _read(self, request: Any) -> Query:
        """The query of a request. Raises Refusal: 400, 408 too slow, 413 too large, 415 neither picture nor form."""
        if request.method != "POST":
            return read_query(request.query_params.multi_items(), self.limits)
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.upload_bytes:
            raise Refusal(413, f"body: wanted at most {self.limits.upload_bytes} bytes, found {length}")
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                pairs, picture = await self._body(request)
        except TimeoutError as error:
            raise Refusal(408, f"body: wanted all of it within {self.limits.body_seconds:g} seconds") from error
        return read_query([*request.query_params.multi_items(), *pairs], self.limits, picture)

    async def _body(self, request: Any) -> tuple[list[tuple[str, str]], bytes | None]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._form(request)
        if kind.startswith("image/") or kind == "application/octet-stream":
            data = bytearray()
            async for chunk in request.stream():  # its size is bounded in `web`
                data += chunk
            if not data:
                raise Refusal(400, "body: wanted a picture, found nothing")
            return [], bytes(data)
        wanted = "wanted image/…, application/octet-stream or multipart/form-data"
        raise Refusal(415, f"content-type: {wanted}, found {kind[:80] or 'none'}")

    async def _form(self, request: Any) -> tuple[list[tuple[str, str]], bytes | None]:
        fields = len(("q", "without", "name", "top")) + 3 * self.limits.parts
        pairs, picture = [], None
        async with request.form(max_files=1, max_fields=fields, max_part_size=_FIELD_BYTES) as form:
            for name, value in form.multi_items():
                is_file = not isinstance(value, str)
                if is_file != (name == PICTURE):
                    raise Refusal(400, f"{name[:40]!r}: wanted the picture, and it alone, as the file {PICTURE!r}")
                if is_file:
                    picture = await value.read()  # a form without a chosen file sends an empty one
                else:
                    pairs.append((name, value))
        return pairs, picture or None

    # -- pictures and the rest ----------------------------------------------------------------------------------------

    async def thumbnail(self, request: Any) -> Answer:
        """A small JPEG."""
        made = await self._decoders.run(self.library.thumbnail, request.path_params["id"])
        return Answer(made, "image/jpeg", headers={"cache-control": _KEPT})

    async def picture(self, request: Any) -> Answer:
        """The original file."""
        file, kind = await self._decoders.run(self.library.open, request.path_params["id"])
        return Answer(file, kind, headers={"cache-control": _KEPT, "content-disposition": "inline"})

    async def health(self, request: Any) -> Answer:
        """The server's state and settings."""
        from clip_core import __version__

        return _json({"status": "ok", "pictures": len(self.library), "version": __version__})

    async def openapi(self, request: Any) -> Answer:
        """The API's description."""
        from clip_core import __version__

        return _json(openapi.document(self.limits, __version__))

    async def style(self, request: Any) -> Answer:
        """The page's style sheet."""
        return Answer(page.style_sheet(), "text/css; charset=utf-8", headers={"cache-control": _KEPT})


def client_of(request: Any) -> str:
    """The client that limits apply to: the connection's address. Proxy headers are not trusted."""
    return client_key(request.client.host if request.client else "")


def _uploaded(data: bytes, most_pixels: int) -> tuple[Any, bytes]:
    small = small_jpeg(identify(io.BytesIO(data), most_pixels), _QUERY_SIDE)
    return decode(io.BytesIO(data), most_pixels), small


def _listed(one: Found) -> dict[str, Any]:
    listed = {"id": one.id, "name": one.name, "similarity": round(one.similarity or 0.0, 6)}
    listed |= {"picture": f"/picture/{one.id}", "thumbnail": f"/thumbnail/{one.id}"}
    return {**listed, "metadata": one.metadata} if one.metadata else listed


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return Answer(body, "application/json", status, {"cache-control": "no-store", **(headers or {})})


def error_answer(status: int, message: str, headers: dict[str, str] | None = None) -> Answer:
    """An error as JSON: {"error": {"status": 404, "message": "…"}}."""
    return _json({"error": {"status": status, "message": message}}, status, headers)


def refused(refusal: Refusal) -> Answer:
    return error_answer(refusal.status, refusal.message, _retry(refusal))


def _retry(refusal: Refusal) -> dict[str, str]:
    return {} if refusal.retry_after is None else {"retry-after": str(max(1, -int(-refusal.retry_after // 1)))}


def _html(text: str) -> Answer:
    body = text.encode("utf-8", "replace")
    return Answer(body, "text/html; charset=utf-8", headers={"cache-control": "no-store"})
