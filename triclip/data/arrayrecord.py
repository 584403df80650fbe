"""ArrayRecord files of tf.train.Example records, read without TensorFlow."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import DataError, MissingDependencyError

from .example import parse_example
from .files import OPEN_FILES
from .sources import PARTS, Sample
from .table import Rows

RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"  # the library's advice for it


class ArrayRecords(Rows):
    """Records of ArrayRecord files, one after the other; features are chosen as columns are."""

    def __init__(
        self,
        paths: Sequence[Path],
        image_key: str | None = None,
        caption_key: str | None = None,
        label_key: str | None = None,
        needs: Collection[str] = PARTS,
    ) -> None:
        super().__init__(image_key, caption_key, label_key, needs)
        self.paths = [str(path) for path in paths]
        self._local = threading.local()
        lengths = [self._length(number) for number in range(len(paths))]
        self._first = np.cumsum([0, *lengths])
        name = self.name(0)
        self.choose_columns(list(parse_example(self._record(0, 0), name)), name)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def _reader(self, number: int) -> Any:
        """A reader of this thread's own: they aren't made to be shared."""
        readers: OrderedDict[int, Any] = self._local.__dict__.setdefault("readers", OrderedDict())
        if number not in readers:
            try:
                from array_record.python.array_record_module import ArrayRecordReader
            except ImportError as error:
                raise MissingDependencyError("ArrayRecord files need array_record: pip install array_record") from error
            try:
                readers[number] = ArrayRecordReader(self.paths[number], RANDOM_ACCESS)
            except RuntimeError as error:
                raise DataError(f"{self.paths[number]}: wanted an ArrayRecord file, found none ({error})") from error
            if len(readers) > OPEN_FILES:
                readers.popitem(last=False)[1].close()
        readers.move_to_end(number)
        return readers[number]

    def _length(self, number: int) -> int:
        length = self._reader(number).num_records()
        if length == 0:
            raise DataError(f"{self.paths[number]}: wanted records, found an empty file or one that was cut off")
        return length

    def _record(self, number: int, row: int) -> bytes:
        try:
            return self._reader(number).read([row])[0]
        except (RuntimeError, IndexError) as error:
            raise DataError(f"{self.paths[number]}: record {row + 1} can't be read ({error})") from error

    def __len__(self) -> int:
        return int(self._first[-1])

    def _place(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        file = int(np.searchsorted(self._first, number, "right")) - 1
        return file, number - int(self._first[file])

    def name(self, number: int) -> str:
        file, row = self._place(number)
        return f"{self.paths[file]}: record {row + 1}"

    def __getitem__(self, number: int) -> Sample:
        file, row = self._place(number)
        name = self.name(number)
        features = parse_example(self._record(file, row), name)
        return self.sample(features, str(Path(self.paths[file]).parent), name)
