"""Some samples of a unit, read and decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clip_core.errors import DataError

from ..data.prepare import BROKEN
from ..data.source import Sample, Source
from ..search.runs import Unit
from .duplicates import MISSING, Comparison, Expected, digest
from .encoder import Encoder
from .shards import plain


@dataclass
class Chunk:
    """Some samples of a unit.

    samples: their number. last: whether the unit ends with them. rows: columns of each vector, by kind. pixels,
    vectors: of the pictures; pixels are dropped once there are vectors. broken: items without a row, with reasons.
    record: of a unit that was finished before; then all else is empty.
    """

    unit: Unit
    samples: int = 0
    last: bool = False
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"image": [], "text": []})
    pixels: list[np.ndarray] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0
    record: dict[str, Any] | None = None

    def extend(self, other: Chunk) -> None:
        """Append the next chunk."""
        self.samples, self.last = self.samples + other.samples, other.last
        for kind, rows in other.rows.items():
            self.rows[kind] += rows
        self.pixels += other.pixels
        self.vectors += other.vectors
        self.broken += other.broken
        self.duplicates += other.duplicates

    def compute(self, encoder: Encoder, batch_size: int) -> None:
        """Compute the vectors of the pixels, and drop the pixels."""
        starts = range(0, len(self.pixels), batch_size)  # samples may have several pictures
        self.vectors += [encoder.images(np.stack(self.pixels[start : start + batch_size])) for start in starts]
        self.pixels = []


class Item(NamedTuple):
    """A picture or a caption of a sample."""

    kind: str
    place: int
    content: Any


class Reader(NamedTuple):
    """Reads samples of one unit. Thread-safe; has no side effects.

    path: the input's. kinds: "image", "text". comparisons: kind -> the first pass's result, with `deduplicate`.
    """

    unit: Unit
    source: Source
    path: str
    kinds: tuple[str, ...]
    encoder: Encoder
    comparisons: Mapping[str, Comparison]

    def read(self, numbers: range) -> Chunk:
        """The samples of these numbers. Raises DataError if one has changed since the run began."""
        chunk = Chunk(self.unit, len(numbers), numbers.stop == self.unit.stop)
        for number in numbers:
            try:
                sample = self.source[number]
            except BROKEN as error:
                check_there(self.path, error)
                chunk.broken.append((plain(_name(self.source, number)), plain(str(error))))
            else:
                self._add_sample(chunk, number, sample)
        return chunk

    def _add_sample(self, chunk: Chunk, number: int, sample: Sample) -> None:
        key = plain(sample.name.removeprefix(self.path).lstrip(":/\\ ") or sample.name)
        for kind in self.kinds:
            contents = contents_of(sample, kind)
            expected = self._expected(kind, number, sample, len(contents))
            for place, content in enumerate(contents):
                if expected is not None and not expected.keep[place]:
                    chunk.duplicates += 1
                    continue
                columns = {"key": key, "number": place, **_hash_column(sample, kind, content, place, expected)}
                self._add_item(chunk, sample, Item(kind, place, content), columns)

    def _expected(self, kind: str, number: int, sample: Sample, count: int) -> Expected | None:
        if kind not in self.comparisons:
            return None
        expected = self.comparisons[kind].of(number)
        if len(expected.keep) != count:
            raise DataError(f"{sample.name}: has changed since the run began")
        return expected

    def _add_item(self, chunk: Chunk, sample: Sample, item: Item, columns: dict[str, Any]) -> None:
        try:
            if item.kind == "image":
                chunk.pixels.append(self.encoder.read(item.content, sample.name))
                chunk.rows["image"].append(_image_row(sample, item.content, columns))
            else:
                chunk.rows["text"].append(_text_row(sample, item.content, columns))
        except BROKEN as error:
            check_there(self.path, error)
            chunk.broken.append((plain(sample.name), plain(str(error))))


def contents_of(sample: Sample, kind: str) -> Sequence[Any]:
    """The pictures or the captions of a sample."""
    return sample.images if kind == "image" else sample.captions


def item_digest(content: bytes | str, kind: str) -> tuple[str, tuple[int, int]]:
    """`digest` of a picture's bytes or a caption; MISSING for an unreadable picture."""
    try:
        if isinstance(content, str):
            content = _file_bytes(content) if kind == "image" else content.encode("utf-8", "surrogatepass")
        return digest(content)
    except OSError:
        return "", MISSING


def sample_digests(source: Source, unit: Unit, kinds: Sequence[str], path: str) -> Iterator[tuple[str, int, int, int]]:
    """(kind, number of the sample, hash) of all readable pictures and captions of a unit."""
    for number in range(unit.start, unit.stop):
        try:
            sample = source[number]
        except BROKEN as error:
            check_there(path, error)
            continue
        for kind in kinds:
            for content in contents_of(sample, kind):
                yield (kind, number, *item_digest(content, kind)[1])


def check_there(path: str, error: Exception) -> None:
    """Raise FileNotFoundError if the input is gone: the sample is not broken, and the run can be resumed."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: was there when the run began, and is no more") from error


def _hash_column(sample: Sample, kind: str, content: Any, place: int, expected: Expected | None) -> dict[str, str]:
    if expected is None:
        return {}
    text, found = item_digest(content, kind)
    if found != expected.hashes[place]:
        raise DataError(f"{sample.name}: has changed since the run began")
    return {"sha256": text}


def _image_row(sample: Sample, content: bytes | str, columns: dict[str, Any]) -> dict[str, Any]:
    name = content if isinstance(content, str) else sample.name
    caption = sample.captions[0] if sample.captions else ""
    return {"name": plain(name), **columns, "caption": plain(caption)}


def _text_row(sample: Sample, content: str, columns: dict[str, Any]) -> dict[str, Any]:
    if plain(content) != content:
        raise DataError(f"{sample.name}: wanted a caption in Unicode, found half a surrogate pair")
    image = next((one for one in sample.images if isinstance(one, str)), "")
    return {"name": content, **columns, "image": plain(image)}


def _file_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _name(source: Source, number: int) -> str:
    try:
        return source.name(number)
    except BROKEN:
        return f"sample {number}"
