"""The web framework: routes, headers, deadlines, and the server. Starlette and uvicorn are imported only here, when
they are used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from clip_core.errors import MissingDependencyError

from .library import Library
from .limits import Limits, RateLimit, Refusal, client_key
from .site import Answer, Site, error_answer, refused

_CHUNK = 256 << 10
_HEAD_BYTES = 16 << 10  # bytes of a request's first line and headers
_KEEP_ALIVE = 5  # seconds a connection may idle between requests
_STOPPING = 5  # seconds for running requests after a signal to stop
# Only this server's pictures and style sheet may be loaded; no scripts, no framing, no embedding.
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def require_framework() -> None:
    """Raises MissingDependencyError without Starlette, uvicorn, python-multipart or jinja2."""
    try:
        import jinja2  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"serving needs {error.name}: pip install 'triclip[serve]'") from error


def create_app(
    library: Library, limits: Limits | None = None, kind: str = "exact", hosts: Sequence[str] = ("*",)
) -> Any:
    """An ASGI application over a library, for any ASGI server; `triclip serve` runs it on uvicorn.

    Args:
        library: the pictures; its model is used in one thread of the application.
        limits: see `Limits`. Sizes, rates and deadlines apply with any server; `connections` is up to the server.
            kind: of search, see `Index.search_rows`.
        hosts: allowed Host headers: with ("127.0.0.1", "localhost") a page of another site can't reach a server on
        loopback by DNS rebinding. Default any.

    Raises MissingDependencyError without the extra `serve`.
    """
    require_framework()
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    limits = limits or library.limits
    site = Site(library, limits, kind)

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        yield
        await asyncio.to_thread(site.close)

    app = Starlette(
        routes=_routes(site),
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers=_error_handlers(site),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return Guard(app, limits, site)


def _routes(site: Site) -> list[Any]:
    from starlette.routing import Route

    return [
        Route("/", _endpoint(site.home), methods=["GET", "POST"]),
        Route("/api/search", _endpoint(site.api_search), methods=["GET", "POST"]),
        Route("/api/openapi.json", _endpoint(site.openapi)),
        Route("/show/{id}", _endpoint(site.show)),
        Route("/api/health", _endpoint(site.health)),
        Route("/thumbnail/{id}", _endpoint(site.thumbnail)),
        Route("/picture/{id}", _endpoint(site.picture)),
        Route("/style.css", _endpoint(site.style)),
    ]


def _error_handlers(site: Site) -> dict[Any, Any]:
    """Exception -> handler: answers a page to requests for a page, else JSON."""
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    async def on_refusal(request: Any, refusal: Any) -> Any:
        is_page = _is_page(request)
        return _response(site.error_page(refusal) if is_page else refused(refusal))

    async def on_http(request: Any, error: Any) -> Any:
        if _is_page(request):
            return await on_refusal(request, Refusal(error.status_code, str(error.detail)))
        return _response(error_answer(error.status_code, str(error.detail), dict(error.headers or {})))

    async def on_leaving(request: Any, error: Any) -> Any:
        return _response(error_answer(400, "the client went away"))  # the client is gone

    async def on_failure(request: Any, error: Exception) -> Any:
        return _response(error_answer(500, "the server failed; its log says why"))

    return {
        Refusal: on_refusal, HTTPException: on_http, ClientDisconnect: on_leaving, Exception: on_failure
    }  # fmt: skip


def _is_page(request: Any) -> bool:
    return request.url.path == "/" or request.url.path.startswith("/show/")


def _endpoint(handler: Callable[[Any], Awaitable[Answer]]) -> Callable[[Any], Awaitable[Any]]:
    async def endpoint(request: Any) -> Any:
        return _response(await handler(request))

    return endpoint


def _response(answer: Answer) -> Any:
    from starlette.responses import Response, StreamingResponse

    if isinstance(answer.body, bytes):
        return Response(answer.body, answer.status, answer.headers, answer.media_type)
    size = os.fstat(answer.body.fileno()).st_size
    headers = {**answer.headers, "content-length": str(size)}
    return StreamingResponse(_chunks(answer.body, size), answer.status, headers, answer.media_type)


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    with file:
        while size > 0 and (chunk := file.read(min(_CHUNK, size))):
            size -= len(chunk)
            yield chunk


class Guard:
    """ASGI middleware: headers of every answer, limits of body and rate, a deadline; a disconnected client is not an
    error."""

    def __init__(self, app: Any, limits: Limits, site: Site) -> None:
        self.app, self._limits, self.site = app, limits, site
        self._rate = RateLimit(limits.requests_per_minute)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Sending(send)
        try:
            self._rate.take(client_key((scope.get("client") or ("",))[0]))
            async with asyncio.timeout(self._limits.seconds):
                await self.app(scope, _bounded(receive, self._limits.upload_bytes), answer)
        except TimeoutError:
            late = Refusal(503, f"this took longer than {self._limits.seconds:g} seconds", 5)
            await answer.refuse(late, scope, receive)
        except Refusal as refusal:
            await answer.refuse(refusal, scope, receive)


class _Sending:
    """Sends an answer with `HEADERS`, and nothing after the client has disconnected."""

    def __init__(self, send: Any) -> None:
        self._send, self._started, self._gone = send, False, False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        if self._gone:
            return
        try:
            await self._send(message)
        except OSError:  # how servers report a disconnected client
            self._gone = True

    async def refuse(self, refusal: Refusal, scope: Any, receive: Any) -> None:
        """Send the refusal, unless an answer has begun; then the server closes the connection."""
        if not self._started:
            await _response(refused(refusal))(scope, receive, self)


def _bounded(receive: Any, most: int) -> Any:
    """Receive a body with its size counted, because its declared length may be missing or wrong."""
    seen = 0

    async def bounded() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise Refusal(413, f"body: wanted at most {most} bytes, found more")
        return message

    return bounded


# -- the server -------------------------------------------------------------------------------------------------------


def make_server(app: Any, limits: Limits) -> Any:
    """A uvicorn server of an application; `server.run(sockets=[...])` runs it until SIGINT or SIGTERM.

    Limits: connections, bytes of a request's head, seconds between requests. A slowly sent head or slowly read answer
    holds its connection, so a public server belongs behind a proxy (docs/howto/serve.md).
    """
    import uvicorn

    config = uvicorn.Config(
        app, http="h11", ws="none", loop="asyncio", lifespan="on", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=_HEAD_BYTES, timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_STOPPING,
    )  # fmt: skip
    return uvicorn.Server(config)
