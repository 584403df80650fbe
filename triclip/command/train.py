"""`triclip train`: a training run from a configuration file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

EXAMPLES = """
  triclip train --config run.yaml
  triclip train --config run.yaml optimizer.lr=1e-4 backend=torch
  triclip train --config run.yaml --export my-model
"""


def add(commands: Any) -> None:
    """The sub-command `train`."""
    parser = commands.add_parser(
        "train",
        help="train or fine-tune a model, as a file describes",
        description="Train as a YAML, TOML or JSON file describes, or go on with the run in its output folder. Paths "
        "in the file are relative to it, those of key=value to the working directory.",
        examples=EXAMPLES,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the run's configuration")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optimizer.lr=1e-4 backend=torch")
    parser.add_argument("--export", metavar="FOLDER", help="don't train: write the newest checkpoint as a model folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train or export; returns the exit code, 0 also for a run that was stopped by a signal and saved its state."""
    from ..train.load import load_config
    from ..train.loop import export, train

    config = load_config(args.config, args.overrides)
    if args.export is not None:
        written = export(config, args.export)
        print(f"step {written['step']} -> {written['model']}")
        return 0
    summary = train(config)
    if summary["first"]:
        _print_summary(summary)
    return 0


def _print_summary(summary: Mapping[str, Any]) -> None:
    from ..train.runlog import duration, evaluation_text

    state = "stopped at step" if summary["stopped"] else "step"
    figures = [f"{state} {summary['step']} of {summary['steps']}", duration(summary["seconds"])]
    if summary["loss"] is not None:
        figures.append(f"loss {summary['loss']:.4f}")
    if summary["skipped"]:
        figures.append(f"{summary['skipped']} samples skipped")
    print(", ".join(figures))
    if summary["evaluation"]:
        print(evaluation_text(summary["evaluation"]).replace(" | ", "\n"))
    if summary["stopped"]:
        print("the same command goes on from there")
    else:
        print(f"model: {summary['model']}")
