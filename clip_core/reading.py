"""Reading small files whole: only regular ones of bounded size; errors identify leftovers of failed downloads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import CheckpointError

MAX_JSON = 64 << 20

# Leftovers of failed downloads: how they begin (without leading white space, in lower case) -> what they are.
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned"),
    (b"<!doctype html", "an HTML page, as failed downloads leave it: download the file again"),
    (b"<html", "an HTML page, as failed downloads leave it: download the file again"),
    (b"<?xml", "an XML text, as failed downloads leave it: download the file again"),
    (b"entry not found", "a hub's message that there is no such file: download the file again"),
    (b"invalid username or password", "a hub's message that access was refused: log in and download the file again"),
)
IMPOSTOR_BYTES = 512


def impostor(start: bytes) -> str | None:
    """What a file with this beginning is, if it is a failed download's leftover; else None."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for mark, what in _IMPOSTORS if start.startswith(mark)), None)


def is_there(path: Path) -> bool:
    """Whether the file exists. Raises CheckpointError if the name is that of something else."""
    if path.is_file():
        return True
    if os.path.lexists(path):
        kind = "a folder" if path.is_dir() else "a broken link" if path.is_symlink() else "no regular file"
        raise CheckpointError(f"{path}: wanted a file, found {kind}")
    return False


def read_json_object(path: Path, error: type[ValueError] = CheckpointError) -> dict[str, Any]:
    """The JSON object in a file.

    Raises: FileNotFoundError; `error`, naming the file, for anything else and for more than 64 MiB.
    """
    if not path.is_file():
        if os.path.lexists(path):
            raise error(f"{path}: wanted a JSON file, found {'a folder' if path.is_dir() else 'no regular file'}")
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > MAX_JSON:
        raise error(f"{path}: {path.stat().st_size} bytes are too many for a JSON file")
    raw = path.read_bytes()
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as reason:  # bad JSON, bad UTF-8, or unlimited nesting
        what = impostor(raw[:IMPOSTOR_BYTES]) or f"a file that does not parse: {reason}"
        raise error(f"{path}: wanted a JSON object, found {what}") from None
    if not isinstance(content, dict):
        raise error(f"{path}: wanted a JSON object, found {type(content).__name__}")
    return content
