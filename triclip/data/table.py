"""Tables of text: CSV, TSV, JSON lines. Only where each row begins is kept; a row is parsed when it is asked for."""

from __future__ import annotations

import csv
import io
import json
import os
from abc import abstractmethod
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clip_core.errors import DataError

from .fields import (
    CAPTIONS,
    IMAGES,
    LABELS,
    as_captions,
    as_images,
    as_label,
    captions_if_any,
    choose,
    decode_text,
    first_present,
)
from .files import Files
from .sources import PARTS, Sample, Source

PROBED_ROWS = 20  # JSON rows whose keys are taken for the columns


def open_tables(files: Sequence[Path], **keys: Any) -> Source:
    """The rows of the tables, one after the other; all of one kind. Pictures' paths are relative to their table."""
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise DataError(f"{files[0]}: wanted tables of one kind, found {' and '.join(sorted(kinds))}")
    kind = kinds.pop()
    if kind == "parquet":
        from .arrow import Parquet

        return Parquet(files, **keys)
    return JsonLines(files, **keys) if kind == "JSONL" else DelimitedText(files, **keys)


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return "parquet"
    if suffix in (".jsonl", ".ndjson"):
        return "JSONL"
    if suffix in (".csv", ".tsv", ".txt"):
        return "CSV"
    raise DataError(f"{file}: wanted a table ending in .csv, .tsv, .jsonl, .ndjson or .parquet, found {suffix!r}")


class Rows(Source):
    """What all tables have in common: columns chosen by name, and a row made a sample."""

    def __init__(
        self,
        image_key: str | None,
        caption_key: str | None,
        label_key: str | None,
        needs: Collection[str] = PARTS,
    ) -> None:
        self.image_key, self.caption_key, self.label_key = image_key, caption_key, label_key
        self.needs = frozenset(needs)
        self.images: list[str] = []
        self.captions: list[str] = []
        self.label: str | None = None

    def choose_columns(self, found: Sequence[str], where: Any) -> None:
        """Fix the columns to read. Raises DataError that lists those there are."""
        if "images" in self.needs or self.image_key:
            self.images = choose("image", self.image_key, IMAGES, found, where)
        if self.label_key is not None:
            self.label = choose("label", self.label_key or None, LABELS, found, where)[0]
        others = [column for column in found if column not in (*self.images, self.label)]
        self.captions = first_present(CAPTIONS, others)
        if self.caption_key or (self.label_key is None and "captions" in self.needs):
            others = [column for column in found if column not in self.images] or list(found)
            self.captions = choose("caption", self.caption_key, CAPTIONS, others, where)

    def sample(self, row: dict[str, Any], folder: str, name: str) -> Sample:
        """A row's values as a sample. Raises DataError when they can't be."""
        label = None
        if self.label is not None:
            label = as_label(row.get(self.label), name)
        captions: list[str] = []
        texts = [row.get(key) for key in self.captions]
        if label is None and "captions" in self.needs:
            captions = as_captions(texts, name)
        elif any(texts):
            captions = as_captions(texts, name) if "captions" in self.needs else captions_if_any(texts, name)
        pictures = [row.get(key) for key in self.images]
        images = as_images(pictures, folder, name) if "images" in self.needs or any(pictures) else []
        return Sample(name, images, captions, label)


class TextRows(Rows):
    """Rows of text files by their place in them."""

    def __init__(
        self,
        files: Sequence[Path],
        image_key: str | None = None,
        caption_key: str | None = None,
        label_key: str | None = None,
        needs: Collection[str] = PARTS,
    ) -> None:
        super().__init__(image_key, caption_key, label_key, needs)
        self.files = Files(files)
        starts, sizes, first = array("q"), array("q"), array("q")
        for path in files:
            first.append(len(starts))
            with open(path, "rb") as file:
                for start, size in self.places(file, path):
                    starts.append(start)
                    sizes.append(size)
            if len(starts) == first[-1]:
                raise DataError(f"{path}: wanted rows, found an empty table")
        self._starts, self._sizes = np.frombuffer(starts, np.int64), np.frombuffer(sizes, np.int64)
        self._first = np.frombuffer(first, np.int64)

    @abstractmethod
    def places(self, file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
        """(start, size) in bytes of every row; chooses the columns on the way."""

    @abstractmethod
    def parse(self, text: str, name: str, file: int) -> dict[str, Any]:
        """A row's values by column."""

    def __len__(self) -> int:
        return len(self._starts)

    def _file(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return int(np.searchsorted(self._first, number, "right")) - 1

    def name(self, number: int) -> str:
        file = self._file(number)
        return f"{self.files.paths[file]}: row {number - int(self._first[file]) + 1}"

    def __getitem__(self, number: int) -> Sample:
        file, name = self._file(number), self.name(number)
        text = decode_text(self.files.read(file, int(self._starts[number]), int(self._sizes[number])), name)
        return self.sample(self.parse(text, name, file), os.path.dirname(self.files.paths[file]) or ".", name)


class JsonLines(TextRows):
    """One JSON object per line."""

    def places(self, file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
        keys: dict[str, None] = {}
        probed, position = 0, 0
        for line in file:
            if line.strip():
                if probed < PROBED_ROWS:
                    probed += 1
                    keys.update(dict.fromkeys(_keys(line)))
                yield position, len(line)
            position += len(line)
        if probed:
            self.choose_columns(list(keys), path)

    def parse(self, text: str, name: str, file: int) -> dict[str, Any]:
        try:
            row = json.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: wanted a JSON object, found something else ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}: wanted a JSON object, found {type(row).__name__}")
        return row


def _keys(line: bytes) -> list[str]:
    """The keys of a JSON object; none of a line that is broken, which is for whoever reads it to say."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    return list(row) if isinstance(row, dict) else []


class DelimitedText(TextRows):
    """CSV with a header, quoted as spreadsheets do; separated by tabs in a .tsv, or where the header has only those."""

    def places(self, file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
        header = decode_text(file.readline(), f"{path}: the header").removeprefix("\ufeff")
        tabs = path.suffix.lower() == ".tsv" or ("\t" in header and "," not in header)
        self._separator = "\t" if tabs else ","
        columns = next(csv.reader([header], delimiter=self._separator), [])
        columns = [column.strip() for column in columns]
        if not any(columns):
            raise DataError(f"{path}: wanted a header and rows, found {'an empty file' if not header else 'no header'}")
        self.choose_columns(columns, path)
        self._columns = [*getattr(self, "_columns", []), columns]
        yield from self._rows(file, path)

    def _rows(self, file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
        position = start = file.tell()

        def lines() -> Iterator[str]:
            nonlocal position
            for line in file:
                position += len(line)
                # Latin-1 keeps every byte, so that a row of another encoding breaks itself alone, later.
                yield line.decode("latin-1")

        rows = csv.reader(lines(), delimiter=self._separator)
        try:
            for row in rows:
                if row:
                    yield start, position - start
                start = position
        except csv.Error as error:
            raise DataError(f"{path}: wanted a row at byte {start}, found none ({error}); check its quotes") from error

    def parse(self, text: str, name: str, file: int) -> dict[str, Any]:
        columns = self._columns[file]
        try:
            values = next(csv.reader(io.StringIO(text, newline="\n"), delimiter=self._separator))
        except csv.Error as error:
            raise DataError(f"{name}: wanted a row, found none ({error})") from error
        if len(values) != len(columns):
            raise DataError(f"{name}: wanted {len(columns)} fields, found {len(values)}")
        return dict(zip(columns, values, strict=True))
