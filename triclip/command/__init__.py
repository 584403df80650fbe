"""The `triclip` command: one module for each sub-command, with `add` (its arguments) and `run`.

They import their dependencies in `run`, so that `--help` is fast.

Exit codes: 0 done; 1 an error, described on standard error; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import (
    classify,
    conform,
    convert,
    data,
    demo,
    duplicates,
    embed,
    evaluate,
    explain,
    filter,
    index,
    inspect,
    search,
    serve,
    train,
)
from .output import prepare
from .parser import Parser, PrintCompletion

COMMANDS = (
    classify, explain, embed, index, search, filter, duplicates, serve, inspect, convert, conform, train, evaluate,
    data, demo,
)  # fmt: skip

EXAMPLES = """
  triclip classify photo.jpg --labels cat dog
  triclip embed photos/
  triclip search photos/ "a dog in the snow"
  triclip COMMAND --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    prepare(sys.stdout, sys.stderr)
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    # argparse ends a list of words at the first option behind it
    if (
        rest
        and args.command in ("search", "filter")
        and not any(len(word) > 1 and word.startswith("-") for word in rest)
    ):
        args.query, rest = args.query + rest, []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("triclip: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (`| head`) has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError, TypeError, ImportError) as error:
        # All documented error types (clip_core.errors) are subclasses of these.
        print(f"triclip: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="triclip", description="CLIP in PyTorch, Keras/TensorFlow and JAX/Flax.", examples=EXAMPLES
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions that a bug report needs")
    parser.add_argument("--print-completion", action=PrintCompletion, choices=("bash", "zsh", "tcsh"), help="print a "
                        "script that completes commands and options in that shell, and exit (extra `cli`)")  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from .version import described

        print(described())
        parser.exit()
