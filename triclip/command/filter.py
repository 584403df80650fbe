"""`triclip filter`: the pictures that a query selects, listed, copied or linked."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from .kept import kept_index, update_argument
from .output import print_json, print_text
from .search import path_in, query_arguments, query_vector, terms_of
from .shared import load, model_arguments, positive

EXAMPLES = """
  triclip filter photos/ "a dog" --above 0.25
  triclip filter photos.index "a dog" - "a cat" --top 100 --copy dogs/
  triclip filter photos.index "a screenshot" --above 0.27 --link screenshots/
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "filter",
        help="list, copy or link the pictures that a query selects",
        description="Select pictures by a query, as for `triclip search`: those of a similarity or more, or so many of "
        "the best. Nothing is moved, removed or written over.",
        examples=EXAMPLES,
    )
    parser.add_argument("index", metavar="INDEX", help="what `triclip embed` or `triclip index` wrote, or its folder")
    query_arguments(parser)
    parser.add_argument("--above", type=float, metavar="X", help="those of at least this cosine")
    parser.add_argument("--top", "-k", type=positive, metavar="K", help="the K best at most")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--copy", metavar="FOLDER", help="copy the files there, with the folders that they are in")
    chosen.add_argument("--link", metavar="FOLDER", help="make links to the files there")
    parser.add_argument("--null", "-z", action="store_true", help="a zero byte after each path")
    update_argument(parser)
    model_arguments(parser, default=None)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..fingerprint import fingerprint
    from ..search import open_searchable

    if args.above is None and args.top is None:
        raise ValueError("filter: wanted --above X or --top K, found neither")
    terms = terms_of(args)
    index = open_searchable(kept_index(args, args.index))
    model = args.model or index.origin.model
    if not args.force:
        index.origin.check_model(model, fingerprint(model) if index.origin.fingerprint else "")
    vector = query_vector(load(args, index.origin), terms)
    kind = args.index_type or index.default_kind
    scores, rows = index.search_rows(vector[None], args.top or max(1, len(index)), args.filter, kind)
    least = -2.0 if args.above is None else args.above
    chosen = [(index.metadata(int(row))["name"], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
    chosen = [(name, score) for name, score in chosen if score >= least]
    folder = args.folder or index.origin.root
    for name, _ in chosen:
        if args.copy or args.link:
            _place(path_in(name, folder), Path(args.copy or args.link), name, bool(args.link))
    _say(args, [(path_in(name, folder), score) for name, score in chosen])
    return 0


def _place(source: str, target: Path, name: str, link: bool) -> None:
    """A copy of a picture, or a link to it, at its name in the folder. FileExistsError for another file there."""
    parts = [part for part in Path(name).parts if part not in ("..", Path(name).anchor)]
    path = target.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and os.path.samefile(path, source):
        return
    if os.path.lexists(path):
        if (
            not link
            and path.stat().st_size == os.stat(source).st_size
            and path.read_bytes() == Path(source).read_bytes()
        ):
            return
        raise FileExistsError(f"{path}: is there already, and is another file than {source}")
    if link:
        path.symlink_to(os.path.abspath(source))
    else:
        shutil.copy2(source, path)


def _say(args: argparse.Namespace, chosen: list[tuple[str, float]]) -> None:
    if args.json:
        print_json([{"name": path, "similarity": score} for path, score in chosen])
        return
    if args.copy or args.link:
        print(f"{len(chosen)} pictures -> {args.copy or args.link}")
        return
    for path, _ in chosen:
        print_text(path, "\0" if args.null else "\n")
