"""`triclip serve`: its arguments, and running until a signal stops it."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from .kept import kept_index, update_argument
from .shared import INDEX_TYPES, load, model_arguments, report_skipped, warn_of_photographs

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")

EXAMPLES = """
  triclip serve photos/
  triclip serve photos.index --port 8080
"""


def add(commands: Any) -> None:
    """The sub-command `serve`."""
    parser = commands.add_parser(
        "serve",
        help="a page and a JSON API to search a folder of pictures",
        description="Serve a page and a JSON API that search pictures by words, by a picture, or both. A folder is "
        "embedded at the start; for many pictures, make an index once: `triclip embed FOLDER -o pictures.index`.",
        examples=EXAMPLES,
    )
    parser.add_argument("source", metavar="FOLDER|INDEX", help="pictures, or what `triclip embed` or `index` wrote")
    parser.add_argument("--folder", metavar="FOLDER", help="where an index's pictures lie; nothing else is opened")
    parser.add_argument("--force", action="store_true", help="serve although another model made the index")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: this machine alone")
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any that is free")
    parser.add_argument("--index-type", choices=INDEX_TYPES, default="exact", help="default: exact")
    update_argument(parser)
    model_arguments(parser, default=None, json=False)
    parser.add_argument("--upload-limit", type=float, default=10, metavar="MB", help="of a request (default 10)")
    parser.add_argument("--results", type=int, default=200, metavar="N", help="the most of one search (default 200)")
    parser.add_argument("--rate", type=float, default=120, metavar="N", help="searches a minute, each client's")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; then returns 0."""
    from clip_core.hub import DEFAULT_MODEL

    from ..fingerprint import fingerprint
    from ..photographs import LOOKED_AT
    from ..search.engines.addresses import is_address
    from ..search.opening import index_at, is_index, open_searchable
    from ..serve.limits import Limits
    from ..serve.opening import open_library
    from ..serve.web import create_app, make_server, require_framework

    require_framework()  # checked before the work
    limits = Limits(
        upload_bytes=int(args.upload_limit * (1 << 20)), results=args.results, searches_per_minute=args.rate,
        requests_per_minute=50 * args.rate,
    )  # fmt: skip
    with listening(args.host, args.port) as listener:
        if not is_address(args.source) and index_at(args.source) != Path(args.source):
            kept_index(args, args.source)
        origin = open_searchable(args.source).origin if is_index(args.source) else None

        def check(origin: Any) -> None:
            name = args.model or origin.model
            if not args.force:
                origin.check_model(name, fingerprint(name) if origin.fingerprint else "")

        library = open_library(
            args.source, lambda _: load(args, origin), args.folder, limits, report_skipped, check=check
        )
        if args.index_type != "exact" and not is_address(args.source):
            library.index.candidates(args.index_type)  # built before the first search
        shown = [os.path.join(library.folder.real, found.name) for found in library.sample(LOOKED_AT)]
        warn_of_photographs(args.model or (origin.model if origin is not None else DEFAULT_MODEL), shown)
        local = is_loopback(args.host)
        if not local:
            _warn(args.host, library)
        server = make_server(create_app(library, limits, args.index_type, LOOPBACK if local else ("*",)), limits)
        print(f"{len(library)} pictures at {address_of(listener)} (Ctrl+C stops)", flush=True)
        _serve(server, listener)
    print("stopped", flush=True)
    return 0


def _serve(server: Any, listener: socket.socket) -> None:
    """Run the server. uvicorn raises the signal again after it has stopped; it is ignored then."""
    kept = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError naming host and port, ValueError for an invalid port."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port: wanted a number from 0 to 65535, found {port}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: can't listen there: {error.strerror or error}") from error


def address_of(listener: socket.socket) -> str:
    """http://HOST:PORT of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _warn(host: str, library: Any) -> None:
    print(
        f"triclip: warning: --host {host}: whoever reaches this machine can see all {len(library)} pictures of "
        f"{library.folder.path}; there is no password and no encryption",
        file=sys.stderr,
    )
