"""`triclip convert`: a checkpoint of any format into another format."""

from __future__ import annotations

import argparse
from typing import Any

# Of `checkpoint.convert`, as a tuple so that --help imports no NumPy.
FORMATS = ("hf", "hf-flat", "hf-bin", "tf", "flax", "openai", "open_clip", "kerashub", "orbax", "gguf", "sd1", "sdxl")
EXAMPLES = """
  triclip convert openai/clip-vit-base-patch32 clip-flax --to flax
  triclip convert ViT-B-32.pt clip-hf --dtype float16
"""


def add(commands: Any) -> None:
    parser = commands.add_parser("convert", help="a checkpoint of any format into another format", examples=EXAMPLES)
    parser.add_argument("source", metavar="SRC", help="folder, file or hub name")
    parser.add_argument("target", metavar="DST", help="folder or file to write")
    parser.add_argument("--to", default="hf", choices=FORMATS, help="the format to write (default hf)")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="default: kept per tensor")
    parser.add_argument("--component", help="text, vision, text_encoder, text_encoder_2, …")
    parser.add_argument("--shard-size", metavar="SIZE", help='e.g. "2GB"')
    parser.add_argument("--config", metavar="FILE", help="a config.json to use where the source has none")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from clip_core import checkpoint
    from clip_core.hub import resolve_folder

    from ..progress import Progress

    options: dict[str, Any] = {"to": args.to, "dtype": args.dtype, "component": args.component, "config": args.config}
    if args.shard_size:
        options["shard_size"] = args.shard_size
    source = resolve_folder(args.source, weights=True)
    with Progress("bytes", 0) as bar:
        saved = checkpoint.convert(source, args.target, progress=bar.reach, **options)
    for note in saved.notes:
        print(f"note: {note}")
    print(f"{args.source} -> {args.target} ({args.to})")
    return 0
