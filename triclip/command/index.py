"""`triclip index`: embedded files into one index."""

from __future__ import annotations

import argparse
from typing import Any

from .output import print_json
from .shared import INDEX_TYPES, INDEX_TYPES_HELP, appended_to, check_replaced, json_argument

EXAMPLES = """
  triclip index vectors/ -o photos.index --index-type hnsw
  triclip index vectors/ --to qdrant http://localhost:6333/photos
  triclip index one.npz two.npz -o both.index --dtype float16
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "index", help="embedded files into one index that opens at once, however large", examples=EXAMPLES
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="files or folders that `triclip embed` wrote")
    parser.add_argument("--output", "-o", metavar="FOLDER", help="the index, a name ending in .index")
    parser.add_argument("--to", nargs=2, metavar=("ENGINE", "ADDRESS"), help="instead, into a collection of Qdrant or "
                        "a table of LanceDB (extras of these names): qdrant http://host:6333/NAME, lancedb DIR/NAME; "
                        "run again, it goes on")  # fmt: skip
    parser.add_argument("--append", action="store_true", help="add what is new to the index that is there")
    parser.add_argument("--force", action="store_true", help="replace the index if it is there, without a question")
    parser.add_argument("--dtype", choices=("float32", "float16"), help="of the stored vectors (default: as given)")
    parser.add_argument("--index-type", choices=INDEX_TYPES, default="exact", help=INDEX_TYPES_HELP)
    json_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..search import append_index, build_folder, open_each, sampled_recall

    if (args.output is None) == (args.to is None):
        raise ValueError("index: wanted either --output FOLDER or --to ENGINE ADDRESS")
    if args.to:
        return _upload(args)
    if not args.output.endswith(".index"):
        raise ValueError(f"--output {args.output}: wanted a name ending in .index")
    if args.append and args.dtype:
        raise ValueError("--append: the vectors are stored as those before them, without --dtype")
    sources = (found for source in args.sources for found in open_each(source))
    added = None
    if args.append:
        index = appended_to(args.output)
        added = sum(append_index(index, source) for source in sources)
    else:
        check_replaced(args.output, args.force)
        index = build_folder(args.output, sources, args.dtype)
    report = {"output": args.output, "count": len(index), "width": index.width, "model": index.model}
    if args.index_type != "exact":
        index.rebuild_candidates(args.index_type)
        report.update(index_type=args.index_type, **sampled_recall(index, args.index_type))
    if args.json:
        print_json(report)
        return 0
    new = "" if added is None else f", {added} of them new"
    print(f"{len(index)} vectors of width {index.width} -> {args.output}{new}")
    if args.index_type != "exact":
        print(f"{args.index_type}: recall@10 {report['recall@10']:.1%} of exact search, {report['queries']} queries")
    return 0


def _upload(args: argparse.Namespace) -> int:
    """Into an engine; prints how many rows are there, and the recall of its search."""
    from ..search import open_each
    from ..search.changing import join
    from ..search.engines.addresses import ENGINES
    from ..search.engines.upload import upload

    engine, address = args.to
    if engine not in ENGINES:
        raise ValueError(f"--to {engine}: wanted one of {', '.join(ENGINES)}")
    if args.append or args.dtype:
        raise ValueError("--to: wanted neither --append nor --dtype; a run that was ended goes on by itself")
    sources = [found for source in args.sources for found in open_each(source)]
    for source in sources[1:]:
        sources[0].origin.check_model(source.model, source.origin.fingerprint)
    place = f"{engine}:{address}"
    report = {"output": place, **upload(join(sources), place, args.index_type, args.force)}
    if args.json:
        print_json(report)
        return 0
    print(f"{report['count']} vectors -> {place}, {report['uploaded']} of them new")
    print(f"recall@10 {report['recall@10']:.1%} of exact search, {report['queries']} queries")
    return 0
