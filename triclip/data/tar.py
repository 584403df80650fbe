"""The members of a tar file and the places of their bytes, found by tarfile. Nothing is ever extracted.

tarfile takes a damaged header for the end of the archive and ignores a damaged extension; both are checked here.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clip_core.errors import DataError

BLOCK = tarfile.BLOCKSIZE
LONGEST_PLAIN_NAME = 100  # bytes; longer ones need an extension or ustar's prefix
# Errors of tarfile on other data.
_DAMAGE = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, AttributeError, TypeError)


class Member(NamedTuple):
    """A regular file in the archive: its bytes are [offset, offset + size)."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[tuple[Member, bool]]:
    """The regular files of a tar file, in order, each with False; see below for True.

    Yields (an empty member, True) once at the end of a file without the blocks of zeros that end an archive: it may
    have been truncated between two members. Raises DataError for a file that is not a tar file, is damaged, or was
    truncated within a member.
    """
    end, position = path.stat().st_size, -1
    if end == 0:
        yield Member("", 0, 0), True
        return
    with open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # an object per member would stay
                    if not position < info.offset_data <= info.offset_data + info.size <= end:
                        wanted = f"{info.size} bytes from {info.offset_data}"
                        raise DataError(f"{path}: cut off: wanted {wanted}, found a file of {end} bytes")
                    position = info.offset_data
                    if info.isreg() and not info.issparse():
                        yield Member(_name(info, path), info.offset_data, info.size), False
                stopped = archive.offset
        except _DAMAGE as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path}: wanted a whole tar file, found one that is damaged or cut off ({error})"
            ) from error
        file.seek(stopped)
        block = file.read(BLOCK)
    if not block:
        yield Member("", stopped, 0), True
    elif len(block) < BLOCK:
        raise DataError(f"{path}: cut off: wanted a header of {BLOCK} bytes at {stopped}, found {len(block)}")
    elif block.strip(b"\0"):
        raise DataError(
            f"{path}: wanted the header of a member at byte {stopped}, found something else (wrong checksum)"
        )


def _name(info: tarfile.TarInfo, path: Path) -> str:
    """The name, possibly from an extension before the header. Raises DataError for one that tarfile ignored."""
    extended = info.offset < info.offset_data - BLOCK
    short = len(os.fsencode(info.name)) <= LONGEST_PLAIN_NAME
    if "\0" in info.name or extended and short and not info.pax_headers:
        raise DataError(f"{path}: wanted an extended header at byte {info.offset}, found a damaged one ({info.name!r})")
    return info.name


def block_name(block: bytes) -> str:
    """The name in a header block; for a longer name the part that fits."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").name
    except tarfile.TarError:
        return "a member that has changed"
