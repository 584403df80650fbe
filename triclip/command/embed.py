"""`triclip embed`: pictures or sentences to vectors, in a file or, of millions, in a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import embed_folder
from .shared import (
    appended_to,
    check_plot,
    embed_readable,
    lines,
    load,
    model_arguments,
    plot_argument,
    positive,
    print_json,
)


def add(commands: Any) -> None:
    parser = commands.add_parser("embed", help="pictures or sentences to vectors, in a file or, of millions, a folder")
    parser.add_argument("images", nargs="*", metavar="INPUT", help="pictures, folders or glob patterns; of millions: "
                        "tar shards, tables, folders, patterns")  # fmt: skip
    parser.add_argument("--texts", metavar="FILE", help="embed the lines of this file instead of pictures")
    parser.add_argument("--output", "-o", required=True, metavar="PATH", help=".npz, .npy, .parquet or .index; a "
                        "folder (ending in / or without suffix) for millions")  # fmt: skip
    parser.add_argument("--append", action="store_true", help="add to the .index folder that is there")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N")
    plot_argument(parser, "a map of the vectors")
    parser.add_argument("--plot-method", choices=("pca", "umap"), default="pca", help="default: pca")
    embed_folder.add_arguments(parser)
    model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..search import Index, append_index, check_output

    if embed_folder.is_meant(args):
        return embed_folder.run(args)
    if bool(args.images) == bool(args.texts):
        raise ValueError("embed: wanted either pictures or --texts FILE")
    check_output(args.output)  # before the work, not after it
    check_plot(args)
    target = appended_to(args.output) if args.append else None
    clip = load(args)
    if args.texts:
        names, skipped = lines(args.texts), []
        vectors = clip.encode_text(names, batch_size=args.batch_size)
    else:
        found = embed_readable(clip, args.images, args.batch_size)
        names, vectors, skipped = [str(source) for source in found.sources], found.vectors, found.skipped
    found_index = Index(vectors, names, str(args.model))
    if target is None:
        found_index.save(args.output)
    else:
        append_index(target, found_index)
    if args.plot:
        _plot_map(args, vectors, names)
    report = {"output": args.output, "count": len(names), "width": int(vectors.shape[1]), "model": str(args.model)}
    if args.json:
        print_json({**report, "skipped": [{"image": str(s), "reason": r} for s, r in skipped]})
    else:
        print(f"{len(names)} vectors of width {vectors.shape[1]} -> {args.output}")
    return 0


def _plot_map(args: argparse.Namespace, vectors: Any, names: Sequence[str]) -> None:
    from .. import viz

    few = len(names) <= 60  # pictures that can be told apart on one map
    labels = list(names) if args.texts else [Path(name).stem for name in names]
    pictures = None if args.texts or not few else [Path(name) for name in names]
    viz.save(viz.embedding_map(vectors, labels, pictures=pictures, method=args.plot_method), args.plot)
