"""A client of `triclip serve` for Python programs; needs no package.

client = Client("http://127.0.0.1:8765")
for found in client.search("a dog", without="snow", top=3):
    print(found["name"], found["similarity"])
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import Request, urlopen


class ServeError(RuntimeError):
    """An answer that is an error. Attributes: status; retry_after, seconds or None."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.retry_after = status, retry_after


class Client:
    """Requests to a server at `url`, each with a deadline of `timeout` seconds."""

    def __init__(self, url: str = "http://127.0.0.1:8765", timeout: float = 60.0) -> None:
        self.url, self.timeout = url.rstrip("/") + "/", timeout

    def search(
        self,
        words: str = "",
        *,
        picture: str | os.PathLike | bytes | None = None,
        without: str = "",
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        name: str = "",
        filters: Sequence[str] = (),
        top: int | None = None,
    ) -> list[dict[str, Any]]:
        """The best pictures: dicts with id, name, similarity, picture and thumbnail (paths), and metadata if any.

        picture: a file, or its bytes. like, unlike: ids of earlier results. Raises ServeError.
        """
        several = [("like", one) for one in like] + [("unlike", one) for one in unlike]
        several += [("filter", one) for one in filters]
        single = [("q", words), ("without", without), ("name", name), ("top", "" if top is None else str(top))]
        query = urlencode([(key, value) for key, value in single if value] + several)
        body = None
        if picture is not None:
            body = picture if isinstance(picture, bytes) else _read(picture)
        return json.loads(self._ask(f"api/search?{query}", body))["results"]

    def picture(self, found: str, small: bool = False) -> bytes:
        """The file of a picture by its id; `small`: a JPEG of at most 320 pixels."""
        return self._ask(f"{'thumbnail' if small else 'picture'}/{found}")

    def health(self) -> dict[str, Any]:
        """{"status", "pictures", "version"}."""
        return json.loads(self._ask("api/health"))

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {} if body is None else {"Content-Type": "application/octet-stream"}
        try:
            with urlopen(Request(urljoin(self.url, path), body, headers), timeout=self.timeout) as answer:
                return answer.read()
        except HTTPError as error:
            try:
                message = json.loads(error.read())["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = error.reason
            wait = error.headers.get("Retry-After", "")
            raise ServeError(error.code, message, int(wait) if wait.isdecimal() else None) from error


def _read(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read()
