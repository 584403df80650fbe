"""`triclip data`: image-text data from one format to another."""

from __future__ import annotations

import argparse
from typing import Any

from ..data.config import FORMATS

EXAMPLES = """
  triclip data convert train.csv shards/ --to webdataset
  triclip data convert 'old/{000..012}.tar' shards/ --to parquet --workers 4
"""


def add(commands: Any) -> None:
    parser = commands.add_parser("data", help="convert image-text data between formats", examples=EXAMPLES)
    inner = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    convert = inner.add_parser(
        "convert",
        help="shards, tables and folders to shards of one format",
        description="Pictures are copied byte for byte. A conversion that was stopped goes on with the same command.",
        examples=EXAMPLES,
    )
    convert.add_argument("source", nargs="+", metavar="SOURCE", help="files, folders or patterns, all of one format")
    convert.add_argument("target", metavar="FOLDER", help="where the shards are written")
    convert.add_argument("--to", required=True, choices=("webdataset", "arrayrecord", "parquet"))
    convert.add_argument("--format", default="auto", choices=FORMATS, help="of the source (default: by its files)")
    convert.add_argument("--image-key", metavar="NAME", help="column, suffix or feature of the pictures")
    convert.add_argument("--caption-key", metavar="NAME", help="column, suffix or feature of the captions")
    convert.add_argument("--label-key", metavar="NAME", nargs="?", const="", help="keep labels, under the usual names")
    convert.add_argument("--separator", metavar="CHARACTER", help="between the fields of a CSV (default: as it shows)")
    convert.add_argument("--samples-per-shard", type=int, default=10_000, metavar="N", help="default 10,000")
    convert.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: this one)")
    convert.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..data import open_source
    from ..data.convert import convert

    source = open_source(
        args.source,
        args.format,
        args.image_key,
        args.caption_key,
        args.label_key,
        separator=args.separator,
        workers=args.workers,
    )
    report = convert(source, args.target, args.to, args.samples_per_shard, args.workers)
    left_out = f", {report['skipped']} broken ones left out" if report["skipped"] else ""
    print(f"{report['samples']} samples in {report['shards']} shards -> {args.target}{left_out}")
    return 0
