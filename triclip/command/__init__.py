"""The `triclip` command: one module a sub-command, each with `add` (its arguments) and `run`.

They import what they need when they run, so `--help` is fast.

Exit codes: 0 done; 1 an error, described on standard error; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import classify, conform, convert, demo, embed, evaluate, explain, index, inspect, search, serve, train

COMMANDS = (classify, explain, embed, index, search, serve, inspect, convert, conform, train, evaluate, demo)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("triclip: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (`| head`) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError, TypeError, ImportError) as error:
        # The documented error types (clip_core.errors) are all of these; each message names what is wrong.
        print(f"triclip: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="triclip", description="CLIP in PyTorch, Keras/TensorFlow and JAX/Flax.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions that a bug report needs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from .version import described

        print(described())
        parser.exit()
