"""`triclip search`: pictures in an embedded folder, by words, pictures, or both."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .kept import kept_index, update_argument
from .output import print_json, print_rows, print_text
from .shared import (
    INDEX_TYPES,
    INDEX_TYPES_HELP,
    check_plot,
    load,
    model_arguments,
    plot_argument,
    positive,
    read_input,
    warn_of_photographs,
)

EXAMPLES = """
  triclip search photos/ "a dog in the snow"
  triclip search photos.index golden retriever + sofa.jpg - 0.5:fruit
  triclip search photos.index https://example.org/cat.jpg --top 20 --filter "name~2024/*"
  triclip search photos.index "a cat" -f -z | xargs -0 cp -t cats/
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "search",
        help="find pictures in an embedded folder, by words, pictures, or both",
        description="Find pictures by words, by pictures (files or URLs), or by several with + and - between them. In "
        "double quotes inside a query, and after --text, everything is words.",
        examples=EXAMPLES,
    )
    parser.add_argument("index", metavar="INDEX", help="what `triclip embed` or `triclip index` wrote; a folder of "
                        "pictures, which is offered one; qdrant:URL/NAME, lancedb:FOLDER/NAME")  # fmt: skip
    query_arguments(parser)
    parser.add_argument("--top", "-k", type=positive, default=5, metavar="K", help="results shown (default 5)")
    parser.add_argument("--paths-only", "-f", action="store_true", help="print paths alone, one a line")
    parser.add_argument("--null", "-z", action="store_true", help="with --paths-only: a zero byte after each path")
    parser.add_argument("--open", action="store_true", help="open the best picture in the program for pictures")
    update_argument(parser)
    plot_argument(parser, "a sheet of what was found")
    model_arguments(parser, default=None)
    parser.set_defaults(run=run)


def query_arguments(parser: argparse.ArgumentParser) -> None:
    """What is searched for, and among which rows."""
    parser.add_argument("query", metavar="QUERY", nargs="*", help="words, pictures and URLs of such, with + and - "
                        "between them and weights (2:dog) before them; - alone: from standard input")  # fmt: skip
    parser.add_argument("--text", action="append", metavar="TEXT", help="words, even if such a file exists")
    parser.add_argument("--image", action="append", metavar="FILE", help="a picture, or the URL of one")
    parser.add_argument("--term", nargs=2, action="append", metavar=("WEIGHT", "QUERY"), help="words or a picture of "
                        "another weight than 1; below 0: unlike this")  # fmt: skip
    parser.add_argument("--filter", action="append", metavar="EXPR", help='e.g. "year>=2020", "name~*.png"; all hold')
    parser.add_argument("--index-type", choices=INDEX_TYPES, help=INDEX_TYPES_HELP + "; of an "
                        "engine its own by default")  # fmt: skip
    parser.add_argument("--folder", metavar="FOLDER", help="where the pictures lie now, if they were moved")
    parser.add_argument("--force", action="store_true", help="search although another model made the index")


def run(args: argparse.Namespace) -> int:
    from ..fingerprint import fingerprint
    from ..search import open_searchable
    from ..search.engines.addresses import is_address
    from ..search.terms import PICTURE

    if not args.query and not (args.text or args.image or args.term):
        _take_for_query(args)
    elif not is_address(args.index) and not os.path.exists(args.index):
        again = shlex.join([args.index, *args.query])
        raise FileNotFoundError(f"{args.index}: no such index or folder; of this folder: triclip search . {again}")
    terms = terms_of(args)
    check_plot(args)
    index = open_searchable(kept_index(args, args.index))
    model = args.model or index.origin.model
    if not args.force:
        index.origin.check_model(model, fingerprint(model) if index.origin.fingerprint else "")
    warn_of_photographs(model, [text for text, kind, _ in terms if kind == PICTURE])
    query = query_vector(load(args, index.origin), terms)
    scores, rows = index.search_rows(query[None], args.top, args.filter, args.index_type or index.default_kind)
    results = [(index.metadata(int(row)), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
    for about, _ in results:
        about["name"] = shown_path(about["name"], args.folder or index.origin.root)
    if args.plot:
        _plot_found(args.plot, terms, results)
    _print(args, results)
    if args.open and results:
        _open(results[0][0]["name"])
    return 0


def _take_for_query(args: argparse.Namespace) -> None:
    """`triclip search "a dog"` in a folder of pictures: its index is meant. Raises ValueError where that can't be."""
    if os.path.exists(args.index) or args.index.endswith((".index", ".npz", ".npy", ".parquet", "/", "\\")):
        raise ValueError("search: wanted a QUERY, --text, --image or --term")
    args.query, args.index = [args.index], "."


def _print(args: argparse.Namespace, results: Sequence[tuple[dict[str, Any], float]]) -> None:
    if args.json:
        found = [{"name": about["name"], "similarity": score, "metadata": _rest(about)} for about, score in results]
        print_json([{key: value for key, value in one.items() if value != {}} for one in found])
    elif args.paths_only:
        for about, _ in results:
            print_text(about["name"], "\0" if args.null else "\n")
    else:
        print_rows([(f"{rank:3d}", f"{score:6.3f}", about["name"]) for rank, (about, score) in enumerate(results, 1)])


def _rest(about: dict[str, Any]) -> dict[str, Any]:
    return {title: value for title, value in about.items() if title != "name"}


def _open(path: str) -> None:
    import webbrowser

    if not os.path.isfile(path):
        raise FileNotFoundError(f"--open {path}: no such file; say with --folder where the pictures lie")
    if not webbrowser.open(Path(path).resolve().as_uri()):
        print(f"triclip: no program was found to open {path}", file=sys.stderr)


def query_vector(clip: Any, terms: Sequence[Any]) -> Any:
    """The unit vector [P] of all terms."""
    from clip_core.image.input import fetch_image

    from ..search import combine
    from ..search.terms import URL, WORDS

    vectors = []
    for text, kind, _ in terms:
        if kind == WORDS:
            vectors.append(clip.encode_text(text)[0])
        else:
            vectors.append(clip.encode_image(fetch_image(text) if kind == URL else text)[0])
    return combine(vectors, [weight for _, _, weight in terms])


def path_in(name: str, folder: str) -> str:
    """The path of a picture of an index whose pictures lie in a folder ("" for none)."""
    return os.path.abspath(os.path.join(folder, name)) if folder else name


def shown_path(name: str, folder: str) -> str:
    """A name as it can be opened from here: relative if it lies below the working directory."""
    return path_in(name, folder).removeprefix(os.path.join(os.getcwd(), "")) if folder else name


def _plot_found(path: str, terms: Sequence[Any], results: Sequence[tuple[Any, float]]) -> None:
    """The query as a picture where it is one alone, in words otherwise."""
    from .. import viz
    from ..search.terms import PICTURE, WORDS

    query: Any = ""
    for text, kind, weight in terms:
        sign = "−" if weight < 0 else "+" if query else ""
        factor = "" if abs(weight) == 1 else f"{abs(weight):g} × "
        query = f"{query} {sign} {factor}{text if kind == WORDS else os.path.basename(text)}".strip()
    if len(terms) == 1 and terms[0].kind == PICTURE:
        query = Path(terms[0].text)
    found = [Path(about["name"]) if os.path.isfile(about["name"]) else about["name"] for about, _ in results]
    names = [Path(about["name"]).stem for about, _ in results]
    viz.save(viz.search_sheet(query, found, [score for _, score in results], names), path)


def terms_of(args: argparse.Namespace) -> list[Any]:
    """Everything that is searched for. Raises ValueError for nothing at all."""
    from ..search.terms import PICTURE, URL, WORDS, Term, as_term, parse_terms

    typed = [" ".join(read_input().split())] if args.query == ["-"] else args.query
    terms = parse_terms(typed)
    for weight, query in args.term or ():
        try:
            factor = float(weight)
        except ValueError as error:
            raise ValueError(f"--term {weight} {query!r}: wanted a number as the weight") from error
        terms.append(as_term(query)._replace(weight=factor))
    terms += [Term(text, WORDS) for text in args.text or ()]
    terms += [Term(path, URL if path.startswith(("http://", "https://")) else PICTURE) for path in args.image or ()]
    if not terms:
        raise ValueError("search: wanted a QUERY, --text, --image or --term")
    return terms
