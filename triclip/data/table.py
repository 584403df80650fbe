"""Tables of text: CSV, TSV, JSON lines. Only the start of each row is kept; a row is parsed on access."""

from __future__ import annotations

import csv
import io
import json
import os
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clip_core.errors import DataError

from .fields import decode_text, json_object
from .files import Files, MissingShards, Parts
from .rows import TableRows
from .source import Keys, Sample, Source

SEPARATORS = (",", ";", "\t", "|")
PROBED_ROWS = 20  # JSON rows whose keys are taken for the columns


def open_tables(files: Sequence[Path], keys: Keys, missing: MissingShards) -> Source:
    """The rows of tables of one kind, concatenated. Pictures' paths are relative to their table."""
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise DataError(f"{files[0]}: wanted tables of one kind, found {' and '.join(sorted(kinds))}")
    kind = kinds.pop()
    if kind == "parquet":
        from .arrow import Parquet

        return Parquet(files, keys, missing)
    return JsonLines(files, keys) if kind == "JSONL" else DelimitedText(files, keys)


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return "parquet"
    if suffix in (".jsonl", ".ndjson"):
        return "JSONL"
    if suffix in (".csv", ".tsv", ".txt"):
        return "CSV"
    raise DataError(f"{file}: wanted a table ending in .csv, .tsv, .jsonl, .ndjson or .parquet, found {suffix!r}")


class TextRows(TableRows):
    """Rows of text files by their place in them."""

    def __init__(self, files: Sequence[Path], keys: Keys) -> None:
        super().__init__(keys)
        self.files = Files(files)
        starts, sizes, lengths = array("q"), array("q"), []  # type: array, array, list[int]
        for path in files:
            before = len(starts)
            with open(path, "rb") as file:
                for start, size in self.places(file, path):
                    starts.append(start)
                    sizes.append(size)
            lengths.append(len(starts) - before)
            if not lengths[-1]:
                raise DataError(f"{path}: wanted rows, found an empty table")
        self._starts, self._sizes = np.frombuffer(starts, np.int64), np.frombuffer(sizes, np.int64)
        self._parts = Parts(lengths)

    @abstractmethod
    def places(self, file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
        """(start, size) in bytes of every row; also chooses the columns."""

    @abstractmethod
    def parse(self, text: str, name: str, file: int) -> dict[str, Any]:
        """A row's values by column."""

    def name(self, number: int) -> str:
        file, row = self._parts.place(number)
        return f"{self.files.paths[file]}: row {row + 1}"

    def __getitem__(self, number: int) -> Sample:
        file, name = self._parts.place(number)[0], self.name(number)
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
        return json_object(text.removeprefix("\ufeff"), name)


def _keys(line: bytes) -> list[str]:
    """The keys of a JSON object; [] for a broken line, whose error is raised when it is read."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    return list(row) if isinstance(row, dict) else []


class DelimitedText(TextRows):
    """CSV with a header, quoted as spreadsheets do.

    Fields are separated by the separator that is named, else by tabs in a .tsv, else by whichever of comma, semicolon,
    tab and bar splits the header into the most columns (a comma where they tie).
    """

    def __init__(self, files: Sequence[Path], keys: Keys) -> None:
        self._separators: list[str] = []
        super().__init__(files, keys)

    def _separator_of(self, header: str, path: Path) -> str:
        if self.keys.separator is not None:
            return self.keys.separator
        if path.suffix.lower() == ".tsv":
            return "\t"
        return max(SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one, strict=True), [])))

    def places(self, file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
        lines = _Lines(file)
        header = decode_text(lines.first.encode("latin-1"), f"{path}: the header").removeprefix("\ufeff")
        try:
            found = self._separator_of(header, path)
            if self._separators and found != self._separators[0]:
                raise DataError(f"{path}: wanted fields separated as in the table before, found {found!r}")
            self._separators.append(found)
            columns = [column.strip() for column in next(self._reader([header]), [])]
        except csv.Error as error:
            raise DataError(f"{path}: wanted a header, found none ({error}); check its quotes") from error
        if not any(columns):
            raise DataError(f"{path}: wanted a header and rows, found {'an empty file' if not header else 'no header'}")
        self.choose_columns(columns, path)
        for column in (*self.images, *self.captions, self.label):
            if columns.count(column) > 1:
                raise DataError(f"{path}: wanted one column {column!r}, found {columns.count(column)}")
        self._columns = [*getattr(self, "_columns", []), columns]
        yield from self._rows(lines, path)

    def _reader(self, lines: Iterable[str]) -> Any:
        """Strict: a quote that is not closed is an error, not a caption that holds the rest of the table."""
        return csv.reader(lines, delimiter=self._separators[0], strict=True)

    def _rows(self, lines: _Lines, path: Path) -> Iterator[tuple[int, int]]:
        rows, start, count, line = self._reader(lines), lines.position, 0, 2  # line numbers begin at 1, the header's
        try:
            for row in rows:
                if row:
                    count += 1
                    yield start, lines.position - start
                start, line = lines.position, rows.line_num + 2
        except csv.Error as error:
            raise DataError(
                f"{path}: row {count + 1} (line {line}): wanted fields in quotes that are closed, found none ({error})"
            ) from error

    def parse(self, text: str, name: str, file: int) -> dict[str, Any]:
        columns = self._columns[file]
        try:
            values = next(self._reader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise DataError(f"{name}: wanted a row, found none ({error})") from error
        if len(values) != len(columns):
            raise DataError(f"{name}: wanted {len(columns)} fields, found {len(values)}")
        return dict(zip(columns, values, strict=True))


class _Lines:
    """The lines of a file after the first, and the position of the next; CR, LF and CRLF end lines.

    Read as Latin-1, which keeps every byte, so that a row in another encoding fails by itself when it is read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._text = io.TextIOWrapper(file, "latin-1", newline="")
        self.first = self._text.readline()
        self.position = len(self.first)

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.position += len(line)
            yield line
