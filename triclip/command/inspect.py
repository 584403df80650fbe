"""`triclip inspect`: what a checkpoint is."""

from __future__ import annotations

import argparse
from typing import Any

from .shared import json_argument, print_json


def add(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="what a checkpoint is: format, config, parameters, dtype, processor")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, file, hub name or 'emoji'")
    json_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from clip_core import checkpoint
    from clip_core.hub import resolve_folder

    facts = checkpoint.inspect(resolve_folder(args.checkpoint, weights=True))
    if args.json:
        print_json(facts)
    else:
        _print_facts(facts)
    return 0


def _print_facts(facts: Any, indent: int = 0) -> None:
    for key, value in facts.items():
        pad = " " * indent
        if isinstance(value, dict) and value:
            print(f"{pad}{key}:")
            _print_facts(value, indent + 2)
        elif isinstance(value, list | tuple):
            print(f"{pad}{key}: {', '.join(str(item) for item in value) or '-'}")
        else:
            print(f"{pad}{key}: {value}")
