"""`triclip inspect`: a checkpoint's format and sizes; with `--machine`, the machine and its short cuts."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from .output import print_json
from .shared import json_argument

EXAMPLES = """
  triclip inspect openai/clip-vit-base-patch32
  triclip inspect --machine
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect", help="what a checkpoint is: format, config, parameters, dtype, processor", examples=EXAMPLES
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="folder, file, hub name or 'emoji'")
    parser.add_argument(
        "--machine",
        action="store_true",
        help="instead: the processor, the threads, and which short cuts are taken (TRICLIP_SHORT_CUTS sets them)",
    )
    json_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from clip_core import checkpoint
    from clip_core.hub import resolve_folder

    if args.machine:
        return _inspect_machine(args)
    if args.checkpoint is None:
        raise ValueError("inspect: wanted a checkpoint or --machine, found neither")
    facts = checkpoint.inspect(resolve_folder(args.checkpoint, weights=True))
    if args.json:
        print_json(facts)
    else:
        _print_facts(facts)
    return 0


def _inspect_machine(args: argparse.Namespace) -> int:
    from clip_core import machine
    from clip_core.image.fast import measure

    if args.checkpoint is not None:
        raise ValueError(f"inspect: wanted a checkpoint or --machine, found both ({args.checkpoint})")
    measure()
    with contextlib.suppress(ImportError):  # without PyTorch the step "linear" is undecided
        from clip_torch import layers

        machine.choice("linear", layers.avx512)
    if args.json:
        print_json(machine.report())
    else:
        print(machine.describe())
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
