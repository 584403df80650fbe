"""`triclip embed`: pictures or sentences to vectors, in a file or, of millions, in a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import embed_folder
from .shared import (
    appended_to,
    check_plot,
    check_replaced,
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
    parser.add_argument("--append", action="store_true", help="add what is new to the .index folder that is there")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there, without a question")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N")
    plot_argument(parser, "a map of the vectors")
    parser.add_argument("--plot-method", choices=("pca", "umap"), default="pca", help="default: pca")
    embed_folder.add_arguments(parser)
    model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..embed.encoder import ClipSpec
    from ..fingerprint import fingerprint
    from ..search import Index, append_index, check_output
    from ..search.origin import common_root, relative_name

    if embed_folder.is_meant(args):
        return embed_folder.run(args)
    if bool(args.images) == bool(args.texts):
        raise ValueError("embed: wanted either pictures or --texts FILE")
    check_output(args.output)  # before the work, not after it
    check_plot(args)
    target = appended_to(args.output) if args.append else None
    if target is None:
        check_replaced(args.output, args.force)
    model, print_of_model, root = ClipSpec(args.model).name, fingerprint(args.model), ""
    if target is not None:
        target.origin.check_model(model, print_of_model)
    clip = load(args)
    if args.texts:
        names, skipped = lines(args.texts), []
        vectors = clip.encode_text(names, batch_size=args.batch_size)
    else:
        found = embed_readable(clip, args.images, args.model, args.batch_size)
        names, vectors, skipped = [str(source) for source in found.sources], found.vectors, found.skipped
        root = common_root(names)
    stored = [relative_name(os.path.abspath(name), root) for name in names] if root else names
    index, added = Index(vectors, stored, model, None, print_of_model, root), len(names)
    if target is None:
        index.save(args.output)
    else:
        added = append_index(target, index)
    if args.plot:
        _plot_map(args, vectors, names)
    report = {"output": args.output, "count": len(names), "width": int(vectors.shape[1]), "model": str(args.model)}
    if args.json:
        print_json({**report, "skipped": [{"image": str(s), "reason": r} for s, r in skipped]})
    else:
        again = f", {len(names) - added} were there already" if added < len(names) else ""
        print(f"{added} vectors of width {vectors.shape[1]} -> {args.output}{again}")
    return 0


def _plot_map(args: argparse.Namespace, vectors: Any, names: Sequence[str]) -> None:
    from .. import viz

    few = len(names) <= 60  # pictures that can be told apart on one map
    labels = list(names) if args.texts else [Path(name).stem for name in names]
    pictures = None if args.texts or not few else [Path(name) for name in names]
    viz.save(viz.embedding_map(vectors, labels, pictures=pictures, method=args.plot_method), args.plot)
