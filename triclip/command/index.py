"""`triclip index`: embedded files into one index."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import INDEX_TYPES, INDEX_TYPES_HELP, appended_to, json_argument, print_json


def add(commands: Any) -> None:
    parser = commands.add_parser("index", help="embedded files into one index that opens at once, however large")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="files or folders that `triclip embed` wrote")
    parser.add_argument("--output", "-o", required=True, metavar="FOLDER", help="the index, a name ending in .index")
    parser.add_argument("--append", action="store_true", help="add to the index that is there")
    parser.add_argument("--dtype", choices=("float32", "float16"), help="of the stored vectors (default: as given)")
    parser.add_argument("--index-type", choices=INDEX_TYPES, default="exact", help=INDEX_TYPES_HELP)
    json_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..embed.opened import open_each
    from ..search import append_index, build_folder, sampled_recall

    if not args.output.endswith(".index"):
        raise ValueError(f"--output {args.output}: wanted a name ending in .index")
    if args.append and args.dtype:
        raise ValueError("--append: the vectors are stored as those before them, without --dtype")
    sources = (found for source in args.sources for found in open_each(Path(source)))
    if args.append:
        index = appended_to(args.output)
        for source in sources:
            append_index(index, source)
    else:
        index = build_folder(args.output, sources, args.dtype)
    report = {"output": args.output, "count": len(index), "width": index.width, "model": index.model}
    if args.index_type != "exact":
        index.rebuild_candidates(args.index_type)
        report.update(index_type=args.index_type, **sampled_recall(index, args.index_type))
    if args.json:
        print_json(report)
        return 0
    print(f"{len(index)} vectors of width {index.width} -> {args.output}")
    if args.index_type != "exact":
        print(f"{args.index_type}: recall@10 {report['recall@10']:.1%} of exact search, {report['queries']} queries")
    return 0
