"""`triclip classify`: the labels that fit each picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .output import print_json
from .shared import (
    check_plot,
    embed_readable,
    inputs,
    lines,
    load,
    model_arguments,
    plot_argument,
    positive,
    warn_of_photographs,
)

_GRID = 40  # pictures and labels of a grid: more can't be read on paper

EXAMPLES = """
  triclip classify photos/ --labels "a cat" "a dog"
  triclip classify photo.jpg --labels-file labels.txt --template "a photo of a {}" --json
  find photos -name "*.png" | triclip classify - --labels day night
"""


def add(commands: Any) -> None:
    parser = commands.add_parser("classify", help="which label fits each picture", examples=EXAMPLES)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, folders or glob patterns; -: as standard "
                        "input lists them")  # fmt: skip
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", nargs="+", metavar="LABEL", help="the labels")
    labels.add_argument("--labels-file", metavar="FILE", help="the labels, one a line")
    parser.add_argument("--template", action="append", metavar="TEXT", help="a sentence with {} for the label")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="labels shown per picture (default 5)")
    plot_argument(parser, "the pictures with their labels, the first 40")
    parser.add_argument("--plot-grid", action="store_true", help="draw cosines, pictures by labels, instead")
    model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..zero_shot import as_labels

    labels = as_labels(args.labels or lines(args.labels_file))  # before a model is loaded
    if args.plot_grid and not args.plot:
        raise ValueError("classify: wanted --plot FILE with --plot-grid, found none")
    check_plot(args)
    clip = load(args)
    found = embed_readable(clip, inputs(args.images))
    warn_of_photographs(args.model, found.sources)
    result = clip.classify(found.vectors, labels, args.template)
    rows = [(str(source), ranked[: args.top]) for source, ranked in zip(found.sources, result, strict=True)]
    if args.plot:
        _plot_classes(args, clip, found, [ranked for _, ranked in rows], labels)
    if args.json:
        print_json([{"image": s, "labels": [{"label": n, "probability": p} for n, p in ranked]} for s, ranked in rows])
        return 0
    for source, ranked in rows:
        print(source)
        for label, probability in ranked:
            print(f"  {probability:7.2%}  {label}")
    return 0


def _plot_classes(args: argparse.Namespace, clip: Any, found: Any, ranked: Sequence[Any], labels: Any) -> None:
    """The most probable labels of each picture, or all cosines (for a label: with the mean of its sentences)."""
    from .. import viz

    if not args.plot_grid:
        viz.save(viz.predictions(found.sources[:40], ranked[:40], top=args.top), args.plot)
        return
    shown, vectors = found.sources[:_GRID], found.vectors[:_GRID]
    cosines = vectors @ clip.zero_shot_head(labels[:_GRID], args.template)
    viz.save(viz.similarity_grid(shown, labels[:_GRID], cosines), args.plot)
