"""`triclip search`: pictures in an embedded folder, by words, pictures, or both."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .shared import (
    INDEX_TYPES,
    INDEX_TYPES_HELP,
    check_plot,
    load,
    model_arguments,
    plot_argument,
    positive,
    print_json,
    warn_of_photographs,
)


def add(commands: Any) -> None:
    parser = commands.add_parser("search", help="find pictures in an embedded folder, by words, pictures, or both")
    parser.add_argument("index", metavar="INDEX", help="what `triclip embed` or `triclip index` wrote")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="words, or the path of a picture")
    parser.add_argument("--text", action="append", metavar="TEXT", help="words, even if such a file exists")
    parser.add_argument("--image", action="append", metavar="FILE", help="a picture")
    parser.add_argument(
        "--term",
        nargs=2,
        action="append",
        metavar=("WEIGHT", "QUERY"),
        help="words or a picture of another weight than 1; below 0: unlike this",
    )
    parser.add_argument("--filter", action="append", metavar="EXPR", help='e.g. "year>=2020", "name~*.png"; all hold')
    parser.add_argument("--index-type", choices=INDEX_TYPES, default="exact", help=INDEX_TYPES_HELP)
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="results shown (default 5)")
    parser.add_argument("--folder", metavar="FOLDER", help="where the pictures lie now, if they were moved")
    parser.add_argument("--force", action="store_true", help="search although another model made the index")
    plot_argument(parser, "a sheet of what was found")
    model_arguments(parser, default=None)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..fingerprint import fingerprint
    from ..search import combine, open_index

    terms = _terms(args)
    check_plot(args)
    index = open_index(args.index)
    args.model = args.model or index.model
    if not args.force:
        index.origin.check_model(args.model, fingerprint(args.model) if index.origin.fingerprint else "")
    clip = load(args)
    warn_of_photographs(args.model, [what for what, is_picture, _ in terms if is_picture])
    vectors = [(clip.encode_image if is_picture else clip.encode_text)(what)[0] for what, is_picture, _ in terms]
    query = combine(vectors, [weight for _, _, weight in terms])
    scores, rows = index.search_rows(query[None], args.top, args.filter, args.index_type)
    results = [(index.metadata(int(row)), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
    for about, _ in results:
        about["name"] = _shown(about["name"], args.folder or index.origin.root)
    if args.plot:
        _plot_found(args.plot, terms, results)
    if args.json:
        found = [{"name": about.pop("name"), "similarity": score, "metadata": about} for about, score in results]
        print_json([{key: value for key, value in one.items() if value != {}} for one in found])
        return 0
    for rank, (about, score) in enumerate(results, 1):
        print(f"{rank:3d}  {score:6.3f}  {about['name']}")
    return 0


def _shown(name: str, folder: str) -> str:
    """A name as it can be opened from here: relative if it lies below the working directory."""
    if not folder:
        return name
    path, here = os.path.abspath(os.path.join(folder, name)), os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def _plot_found(path: str, terms: Sequence[tuple[str, bool, float]], results: Sequence[tuple[Any, float]]) -> None:
    """The query as a picture where it is one alone, in words otherwise."""
    from .. import viz

    query: Any = ""
    for what, is_picture, weight in terms:
        sign = "−" if weight < 0 else "+" if query else ""
        factor = "" if abs(weight) == 1 else f"{abs(weight):g} × "
        query = f"{query} {sign} {factor}{os.path.basename(what) if is_picture else what}".strip()
    if len(terms) == 1 and terms[0][1]:
        query = Path(terms[0][0])
    found = [Path(about["name"]) if os.path.isfile(about["name"]) else about["name"] for about, _ in results]
    viz.save(viz.retrieval_sheet([query], [found], [[score for _, score in results]]), path)


def _terms(args: argparse.Namespace) -> list[tuple[str, bool, float]]:
    """(words or path, whether it is a picture, weight) of everything that is searched for."""
    either = [(1.0, args.query)] if args.query is not None else []
    for weight, query in args.term or ():
        try:
            either.append((float(weight), query))
        except ValueError as error:
            raise ValueError(f"--term {weight} {query!r}: wanted a number as the weight") from error
    terms = [(query, os.path.isfile(query), weight) for weight, query in either]
    terms += [(text, False, 1.0) for text in args.text or ()] + [(path, True, 1.0) for path in args.image or ()]
    if not terms:
        raise ValueError("search: wanted a QUERY, --text, --image or --term")
    return terms
