"""`triclip conform`: one checkpoint through every backend."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

EXAMPLES = """
  triclip conform my-model/
  triclip conform emoji --backends torch,tf --html report.html
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "conform", help="run a checkpoint through every installed backend and compare", examples=EXAMPLES
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, file, hub name or 'emoji'")
    parser.add_argument("--backends", metavar="NAMES", help="torch,tf,flax or some of them (default: all installed)")
    parser.add_argument(
        "--reference", metavar="transformers|FILE.npz", help="compare with this, not with the first backend"
    )
    parser.add_argument("--images", nargs="+", metavar="IMAGE", help="pictures, folders or glob patterns to run it on")
    parser.add_argument("--texts", nargs="+", metavar="TEXT", help="sentences to run it on")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--tolerance", type=float, metavar="X", help="largest relative error allowed")
    parser.add_argument("--all", action="store_true", help="print every field, not the worst of each kind")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON ('-': print it)")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page")
    parser.add_argument("--plot", metavar="FILE", help="draw the report: .pdf, .svg or .png (extra `viz`)")
    parser.add_argument("--save", metavar="FILE.npz", help="only write one backend's inputs and fields there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: all agree; 1: a break."""
    from ..conform import conform, save_reference

    backends = None if args.backends is None else [name for name in args.backends.split(",") if name]
    if args.save:
        save_reference(args.save, args.checkpoint, backends[0] if backends else None, args.images, args.texts)
        print(f"{args.checkpoint} -> {args.save}")
        return 0
    if args.plot:
        from .. import viz
        from ..conform.figure import draw_report

        viz.check_output(args.plot)  # checked before the work
    options = {"dtype": args.dtype, "tolerance": args.tolerance}
    report = conform(args.checkpoint, backends, args.reference, args.images, args.texts, **options)
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
    if args.json == "-":
        print(text, end="")
    else:
        print(report.table(every_row=args.all))
    if args.json and args.json != "-":
        Path(args.json).write_text(text, encoding="utf-8", newline="\n")
    if args.html:
        Path(args.html).write_text(report.to_html(), encoding="utf-8", newline="\n")
    if args.plot:
        viz.save(draw_report(report), args.plot)
    return 0 if report.ok else 1
