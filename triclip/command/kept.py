"""The index that a command is given: a path to one, or a folder of pictures, which has one inside or is offered one."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from .shared import clip_spec, report_skipped


def update_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--update", action=argparse.BooleanOptionalAction, default=None,
        help="bring the index up to date first, or make it (default: of a folder of pictures that has one)",
    )  # fmt: skip


def kept_index(args: argparse.Namespace, path: str) -> str:
    """The path of the index that `path` stands for, brought up to date where that is asked for.

    Raises FileNotFoundError for a folder of pictures without an index, when nobody at a terminal wants one.
    """
    from ..search.engines.addresses import is_address
    from ..search.opening import index_at, is_index, own_index

    if is_address(path):
        if args.update:
            raise ValueError(f"--update {path}: wanted an index of this machine; update that, and upload it again")
        return path
    if is_index(path):
        is_inside = index_at(path) != Path(path)
        if args.update:
            _update(args, str(index_at(path)), [path] if is_inside else None)
        elif args.update is None and is_inside:
            _try_to_update(args, str(index_at(path)), path)
        return path
    if not os.path.isdir(path) or not _pictures_in(path):
        return path  # opening it says what is wrong
    where = str(own_index(path)) if args.update else _offer(path)
    _update(args, where, [path])
    return where


def _pictures_in(folder: str) -> int:
    from ..walk import find_pictures

    return len(find_pictures([folder]).files)


def _offer(folder: str) -> str:
    """Where somebody at the terminal wants the index."""
    from ..search.opening import own_index

    own, count = str(own_index(folder)), _pictures_in(folder)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise FileNotFoundError(
            f"{folder}: {count} pictures, and no index of them: make one with `triclip embed {shlex.quote(folder)}`, "
            "or here with --update"
        )
    asked = f"{folder} has {count} pictures and no index. Make one in {own}? [Y/n, or another place: NAME.index] "
    print(asked, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer or answer.strip().lower() in ("n", "no"):
        raise FileNotFoundError(f"{folder}: no index was made")
    answer = answer.strip()
    if answer.lower() in ("", "y", "yes"):
        return own
    if not answer.endswith(".index"):
        raise ValueError(f"{answer}: wanted y, n, or a name ending in .index")
    return answer


def _try_to_update(args: argparse.Namespace, index: str, folder: str) -> None:
    """What nobody asked for must not keep them from a search: the index may lie on a disk that can't be written to, be
    brought up to date by another program, or its pictures' drive may be missing."""
    from ..upkeep.store import BusyError

    try:
        _update(args, index, [folder])
    except BusyError:
        return
    except OSError as error:
        print(f"triclip: warning: {index} is not brought up to date: {error}", file=sys.stderr)


def _update(args: argparse.Namespace, path: str, inputs: list[str] | None) -> None:
    from ..search import open_index
    from ..search.opening import is_index
    from ..upkeep import update

    origin = open_index(path).origin if is_index(path) else None
    if inputs is None:
        assert origin is not None
        if not origin.root:
            raise ValueError(
                f"--update {path}: wanted an index that knows the folder of its pictures, found one without"
            )
        inputs = [origin.root]
    spec: Any = clip_spec(args, origin)
    changes = update(path, inputs, spec)
    report_skipped(changes.unreadable)
    if changes:
        parts = [(changes.new + changes.changed + changes.moved, "new or changed"), (changes.gone, "gone")]
        said = ", ".join(f"{count} {what}" for count, what in parts if count)
        print(f"triclip: {path}: {said or 'looked through'}; {changes.total} pictures", file=sys.stderr)
