"""`triclip demo`: the bundled pictures with the embedded model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import BACKENDS

EXAMPLES = """
  triclip demo --output demo-output
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "demo", help="classify the bundled pictures with the embedded model", examples=EXAMPLES
    )
    parser.add_argument("--output", default="demo-output", metavar="FOLDER", help="where the picture grid goes")
    parser.add_argument("--backend", choices=BACKENDS, help="default: the first of them that is installed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..demo import show

    return show(Path(args.output), args.backend)
