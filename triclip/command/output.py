"""What commands print: for people at a terminal, for pipes, for programs; on any console, whatever letters it has."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


def prepare(*streams: Any) -> None:
    """Letters that a console lacks, and bytes of file names that are no text, are written as escapes from now on."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # not one that a program put in its place
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any) -> None:
    """JSON in ASCII: any console and any reader takes it."""
    print(json.dumps(value, indent=2))


def print_text(text: str, end: str = "\n") -> None:
    """A path as the bytes that it is, for other programs."""
    if not hasattr(sys.stdout, "buffer"):
        print(text, end=end)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text + end))
    sys.stdout.buffer.flush()


def print_rows(rows: Sequence[Sequence[str]], colours: Sequence[str] = ("dim", "cyan", "")) -> None:
    """Rows whose last cell may be long: at a terminal it is folded there, if Rich is installed (extra `cli`)."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            table = Table(box=None, show_header=False, pad_edge=False)
            for colour in colours:
                table.add_column(style=colour, overflow="fold")
            for row in rows:
                table.add_row(*map(Text, row))
            Console().print(table)
            return
    for row in rows:
        print("  ".join(row))
