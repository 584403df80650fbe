"""Limits for single clients and for all clients together."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from clip_core.errors import InputError

Result = TypeVar("Result")
_CLIENTS = 4096  # clients remembered by a rate limit; the least recently seen is forgotten first


class Refusal(Exception):
    """A refused request: an HTTP status, what was wanted and what was found, and the seconds until a retry makes
    sense."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@dataclass(frozen=True)
class Limits:
    """The server's limits.

    Attributes:
        upload_bytes: of a request's body, including everything around the picture.
        picture_pixels: of a decoded picture, uploaded or from the folder: a guard against decompression bombs.
        query_letters: of the words of a search.
        results: of one search; `default_results` if a request gives no number.
        parts: pictures of the folder, and filters, in one search.
        searches_per_minute: per client, a quarter of it at once. `requests_per_minute`: of all kinds.
        waiting: searches in the queue for the model, which computes one at a time; likewise for thumbnails.
        connections: open at the same time.
        seconds: for a whole request; `body_seconds` for sending its body.
        cache_bytes: of cached thumbnails.

    Raises InputError naming the one that is not positive.
    """

    upload_bytes: int = 10 << 20
    picture_pixels: int = 50_000_000
    query_letters: int = 400
    results: int = 200
    default_results: int = 24
    parts: int = 8
    searches_per_minute: int = 120
    requests_per_minute: int = 6000
    waiting: int = 16
    connections: int = 128
    seconds: float = 60
    body_seconds: float = 20
    cache_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise InputError(f"limits: {field.name}: wanted a number above 0, found {value!r}")


class RateLimit:
    """A token bucket for each client, with the tokens of a quarter of a minute, refilled evenly."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._size, self._clock = per_minute / 60, max(1.0, per_minute / 4), clock
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (tokens, time)

    def take(self, client: str) -> None:
        """Take a token. Raises Refusal 429 if the client's bucket is empty."""
        now = self._clock()
        left, since = self._clients.pop(client, (self._size, now))
        left = min(self._size, left + (now - since) * self._rate)
        allowed = left >= 1
        self._clients[client] = (left - 1 if allowed else left, now)
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        if not allowed:
            raise Refusal(429, "too many requests from this address; try again later", (1 - left) / self._rate)


def client_key(address: str) -> str:
    """The key of a client: an IPv4 address, or the 64-bit network prefix of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Worker:
    """Threads for work that would block the event loop, with a bounded queue.

    Abandoned work keeps its place until it is done, because a thread can't be stopped.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._inside, self._lock = threads + waiting, 0, threading.Lock()

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """The result of `work(*arguments)`. Raises Refusal 503 if the queue is full."""
        with self._lock:
            if self._inside >= self._most:
                raise Refusal(503, "too many requests are waiting; try again in a moment", 1)
            self._inside += 1
        try:
            future = self._pool.submit(work, *arguments)
        except RuntimeError as error:  # the pool is closed
            self._leave()
            raise Refusal(503, "the server is stopping") from error
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future | None = None) -> None:
        with self._lock:
            self._inside -= 1

    def close(self) -> None:
        """Wait for running work; drop queued work."""
        self._pool.shutdown(wait=True, cancel_futures=True)
