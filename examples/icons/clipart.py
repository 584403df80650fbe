"""Drawings of Debian's `openclipart-svg` (public domain), with the title and keywords in each file's metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

TITLE = re.compile(r"<dc:title[^>]*>([^<]*)</dc:title>")
KEYWORD = re.compile(r"<rdf:li[^>]*>([^<]*)</rdf:li>")
LICENCE = re.compile(r"licen[sc]es?/publicdomain|web\.resource\.org/cc/PublicDomain", re.IGNORECASE)
LARGEST = 400_000  # bytes: larger files are photographs traced, and slow
LEFT_OUT = ("logos",)  # folders
DULL = {"clip art", "clipart", "unsorted", "svg", "image", "vector", "hash(0x8a60e3c)", "media", "openclipart"}


@dataclass
class Drawing:
    """One file: its id, title (lower case, "" for none that says anything), keywords, and SVG text."""

    id: str
    title: str
    keywords: list[str]
    svg: str


def clean(text: str) -> str:
    """Lower case, without file suffixes, authors, counters and punctuation."""
    text = unescape(text).lower().replace("_", " ")
    text = re.sub(
        r"\.svg$|clipart by .* - |\(.*?\)|\bby [a-z. ]+$|\b(remix|clip ?art|architetto francesco.*)\b", " ", text
    )
    return " ".join(re.sub(r"[^a-z' -]+", " ", text).replace("-", " ").split())


def drawings(folder: Path) -> Iterator[Drawing]:
    """Every drawing in the unpacked package that says it is in the public domain."""
    root = folder / "usr" / "share" / "openclipart" / "svg"
    for path in sorted(root.rglob("*.svg")):
        if path.is_symlink() or path.stat().st_size > LARGEST or path.relative_to(root).parts[0] in LEFT_OUT:
            continue
        svg = path.read_text(encoding="utf-8", errors="replace")
        if not LICENCE.search(svg) or "<image" in svg:
            continue
        title = TITLE.search(svg)
        folders = [part.replace("_", " ") for part in path.relative_to(root).parts[:-1]]
        keywords = [clean(word) for word in KEYWORD.findall(svg)[:12]] + folders
        keywords = [word for word in dict.fromkeys(keywords) if word and word not in DULL and len(word) > 1]
        name = clean(title[1]) if title else ""
        yield Drawing(str(path.relative_to(root)), name or clean(path.stem), keywords, svg)
