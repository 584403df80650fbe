"""The members of a tar file by one pass over its headers: where each one's bytes are. Nothing is ever extracted.

Understands ustar, GNU long names and base-256 sizes, and pax paths and sizes: what tarfile, GNU tar and webdataset
write. (`tarfile` keeps an object per member, and takes some cut files for whole ones.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from clip_core.errors import DataError

BLOCK = 512
LONGEST_NAME = 1 << 16  # of the extension records that hold names
REGULAR = (b"0", b"\0", b"7")
LONG_NAME, PAX, PAX_GLOBAL = b"L", b"x", b"g"
EXTENSIONS = (LONG_NAME, b"K", PAX, PAX_GLOBAL)


class Member(NamedTuple):
    """A regular file in the archive: its bytes are [offset, offset + size)."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[tuple[Member, bool]]:
    """The regular files of a tar file, in order. The second value is whether the end mark was missing: see below.

    Yields (member, True), with an empty member, once at the end of a file without the two blocks of zeros that end an
    archive: it may have been cut between two members. Raises DataError for a file that is no tar, is damaged, or was
    cut within a member.
    """
    end = path.stat().st_size
    with open(path, "rb") as file:
        position, long_name = 0, ""
        pax: dict[str, str] = {}
        while True:
            block = _read(file, position, BLOCK)
            if block.count(0) == BLOCK:
                return
            if not block:
                yield Member("", position, 0), True
                return
            size, kind = _header(block, position, path)
            size = _number(pax["size"], position, path) if "size" in pax else size
            start = position + BLOCK
            if start + size > end:
                raise DataError(f"{path}: cut off: wanted {size} bytes from {start}, found a file of {end} bytes")
            position = start + -(-size // BLOCK) * BLOCK
            if kind in EXTENSIONS:
                if kind in (LONG_NAME, PAX):
                    if size > LONGEST_NAME:
                        raise DataError(f"{path}: wanted a name of at most {LONGEST_NAME} bytes, found {size}")
                    data = _read(file, start, size)
                    if kind == LONG_NAME:
                        long_name = os.fsdecode(data.rstrip(b"\0"))
                    else:
                        pax = _pax(data, start, path)
                continue
            if kind in REGULAR:
                yield Member(pax.get("path") or long_name or block_name(block), start, size), False
            long_name, pax = "", {}


def block_name(block: bytes) -> str:
    """The name in a header block: its first 100 bytes, and ustar's prefix. Longer ones stand before the block."""
    name = os.fsdecode(block[:100].partition(b"\0")[0])
    prefix = os.fsdecode(block[345:500].partition(b"\0")[0]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _header(block: bytes, position: int, path: Path) -> tuple[int, bytes]:
    """(size, kind) of a header block whose checksum holds."""
    if len(block) < BLOCK:
        raise DataError(f"{path}: cut off: wanted a header of {BLOCK} bytes at {position}, found {len(block)}")
    # The sum of all bytes, those of the checksum itself counted as spaces.
    total = sum(block) - sum(block[148:156]) + 8 * 32
    if total != _octal(block[148:156]):
        what = "a tar file" if position == 0 else "the header of a member"
        raise DataError(f"{path}: wanted {what} at byte {position}, found something else (wrong checksum)")
    field = block[124:136]
    if field[0] == 0x80:  # base 256, for 8 GiB and more
        return int.from_bytes(field[1:], "big"), block[156:157]
    size = _octal(field)
    if size is None:
        raise DataError(f"{path}: wanted a size in the header at byte {position}, found {field!r}")
    return size, block[156:157]


def _octal(field: bytes) -> int | None:
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


def _number(text: str, position: int, path: Path) -> int:
    if not text.isascii() or not text.isdigit():
        raise DataError(f"{path}: wanted a size in the extended header before byte {position}, found {text!r}")
    return int(text)


def _pax(data: bytes, position: int, path: Path) -> dict[str, str]:
    """The records "length key=value\\n" of an extended header."""
    found: dict[str, str] = {}
    while data.strip(b"\0"):
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or not len(length) + 2 <= int(length) <= len(data):
            raise DataError(f"{path}: wanted an extended header at byte {position}, found {data[:40]!r}")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        found[os.fsdecode(key)] = os.fsdecode(value)
        data = data[int(length) :]
    return found
