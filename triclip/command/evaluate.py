"""`triclip evaluate`: retrieval and zero-shot figures of a model on data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.config import FORMATS
from .output import print_json
from .shared import load, model_arguments, positive

EXAMPLES = """
  triclip evaluate --retrieval test.jsonl --model openai/clip-vit-base-patch32
  triclip evaluate --zero-shot pictures/ --labels imagenet --json figures.json
"""


def add(commands: Any) -> None:
    """The sub-command `evaluate`."""
    parser = commands.add_parser(
        "evaluate", help="retrieval and zero-shot figures of a model on your data", examples=EXAMPLES
    )
    model_arguments(parser, json=False)
    parser.add_argument("--retrieval", nargs="+", metavar="PATH", help="image-text data: shards, tables, folders")
    parser.add_argument("--zero-shot", nargs="+", metavar="PATH", help="image-label data, also one folder per class")
    parser.add_argument(
        "--labels", metavar="FILE", help="one label per line, or 'imagenet'; default the names in the data"
    )
    parser.add_argument(
        "--templates", "--template", nargs="+", action="extend", metavar="TEXT",
        help="sentences with {} for the label; default the model's own, of imagenet OpenAI's 80",
    )  # fmt: skip
    parser.add_argument("--format", default="auto", choices=FORMATS, help="of the data (default: by its files)")
    for name, what in (("image", "pictures"), ("caption", "captions"), ("label", "labels")):
        parser.add_argument(f"--{name}-key", metavar="NAME", help=f"column, suffix or feature of the {what}")
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default 64")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it to FILE")
    parser.add_argument("--plot", metavar="FILE", help="draw the confusion of classes, or the recalls (extra `viz`)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; returns the exit code."""
    from ..train.evaluate import evaluate_clip
    from ..train.labels import default_templates, read_labels

    if not args.retrieval and not args.zero_shot:
        raise ValueError("evaluate: wanted --retrieval PATH or --zero-shot PATH, found neither")
    if (args.labels or args.templates) and not args.zero_shot:
        raise ValueError("evaluate: wanted --zero-shot PATH with --labels and --templates, found none")
    labels = None if args.labels is None else read_labels(args.labels)  # checked before a model is loaded
    templates = args.templates or default_templates(args.labels)
    if args.plot:
        _check_plot(args)
    predictions: list[Any] = []
    clip = load(args)
    found = evaluate_clip(
        clip, args.retrieval, args.zero_shot, labels, templates, format=args.format, image_key=args.image_key,
        caption_key=args.caption_key, label_key=args.label_key, batch_size=args.batch_size, predictions=predictions,
    )  # fmt: skip
    if args.plot:
        _plot(args, found, predictions)
    report = {"model": str(args.model), "backend": clip.backend, **found}
    if args.json == "-":
        print_json(report)
        return 0
    _print_figures(found)
    if args.json is not None:
        from clip_core.files import write_text

        write_text(Path(args.json), json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return 0


def _check_plot(args: argparse.Namespace) -> None:
    from .. import viz

    if args.retrieval and args.zero_shot:
        raise ValueError("evaluate: --plot draws one figure: wanted --retrieval or --zero-shot with it, found both")
    viz.check_output(args.plot)


def _plot(args: argparse.Namespace, found: Mapping[str, Any], predictions: list[Any]) -> None:
    """The confusion of classes, or the recalls of retrieval."""
    from .. import viz

    if predictions:
        one = predictions[0]
        top1 = found["zero_shot"]["top1"]
        figure = viz.confusion_matrix(one.truth, one.predicted, one.names, title=f"{args.model}: top-1 {top1:.1%}")
    else:
        figure = viz.recall_bars({str(args.model): found["retrieval"]}, title=f"{args.model}: retrieval")
    viz.save(figure, args.plot)


def _print_figures(found: Mapping[str, Any]) -> None:
    if "retrieval" in found:
        part = found["retrieval"]
        print(f"retrieval: {part['images']} pictures, {part['texts']} texts")
        for name, key in (("image to text", "image_to_text"), ("text to image", "text_to_image")):
            print(f"  {name}  " + "  ".join(f"{figure} {value:.4f}" for figure, value in part[key].items()))
    if "zero_shot" in found:
        part = found["zero_shot"]
        print(f"zero-shot: {part['images']} pictures, {part['classes']} classes")
        print(f"  top-1 {part['top1']:.4f}  top-5 {part['top5']:.4f}  mean per class {part['mean_per_class']:.4f}")
    skipped = sum(part["skipped"] for part in found.values())
    if skipped:
        print(f"{skipped} broken samples were left out", file=sys.stderr)
