"""The parser of every command: help with examples, in colour where Rich is installed; completion of shells."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

# What an argument is called that wants a file or a folder.
_FILES = {
    "FILE",
    "PATH",
    "FOLDER",
    "FOLDER|INDEX",
    "INDEX",
    "INPUT",
    "IMAGE",
    "SOURCE",
    "SRC",
    "DST",
    "CHECKPOINT",
    "QUERY",
}


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that shows `examples` below the options, as they are."""

    def __init__(self, *args: Any, description: str | None = None, examples: str = "", **options: Any) -> None:
        described = None if description is None else textwrap.fill(description, 100)
        epilog = f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}" if examples else None
        options.setdefault("formatter_class", _formatter())
        super().__init__(*args, **{"description": described, "epilog": epilog, **options})


def _formatter() -> Any:
    """Rich's, which colours a terminal unless NO_COLOR says otherwise (extra `cli`), or argparse's own."""
    try:
        from rich_argparse import RawDescriptionRichHelpFormatter
    except ImportError:
        return argparse.RawDescriptionHelpFormatter

    class Formatter(RawDescriptionRichHelpFormatter):
        text_markup = help_markup = False  # brackets in a help are brackets

    return Formatter


class PrintCompletion(argparse.Action):
    """Print a script that completes commands, options, choices and file names in a shell, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.exit(1, "triclip: --print-completion needs shtab: pip install 'triclip[cli]'\n")
        for one in _parsers(parser):
            for action in one._actions:
                if action.choices is None and action.metavar in _FILES:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, values))
        parser.exit()


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [parser, *commands.choices.values()]
