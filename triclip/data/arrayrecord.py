"""ArrayRecord files of tf.train.Example records, read by grain, without TensorFlow."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_core.errors import DataError, MissingDependencyError

from .example import parse_example
from .files import MissingShards, Parts
from .rows import TableRows
from .source import Keys, Sample

OPEN_FILES = 64  # per process: a few hundred shards must stay below the limit on open files
RANDOM_ACCESS = {"max_parallelism": "0"}  # as the library recommends


class ArrayRecords(TableRows):
    """Records of ArrayRecord files, concatenated; features are chosen like columns."""

    def __init__(self, paths: Sequence[Path], keys: Keys, missing: MissingShards) -> None:
        super().__init__(keys)
        self._lock, self._opened = threading.Lock(), OrderedDict()  # type: Any, OrderedDict[str, Any]
        lengths = {str(path): length for path in paths for length in missing.passing_over(path, self._length)}
        missing.check_some_left(lengths)
        self.paths, self.skipped_shards = list(lengths), missing.names
        self._parts = Parts(lengths.values())
        name = self.name(0)
        self.choose_columns(list(parse_example(self._record(0, 0), name)), name)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_opened")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._opened = threading.Lock(), OrderedDict()

    def _records(self, path: str) -> Any:
        """The file's records. A file dropped here is closed after the last thread has finished reading it."""
        with self._lock:
            if path not in self._opened:
                self._opened[path] = _open(path)
                if len(self._opened) > OPEN_FILES:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(path)
            return self._opened[path]

    def _length(self, path: Path) -> int:
        length = len(self._records(str(path)))
        if length == 0:
            raise DataError(f"{path}: wanted records, found an empty file or one that was cut off")
        return length

    def _record(self, file: int, row: int) -> bytes:
        path = self.paths[file]
        try:
            return self._records(path)[row]
        except (RuntimeError, IndexError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: record {row + 1} can't be read ({error})") from error

    def name(self, number: int) -> str:
        file, row = self._parts.place(number)
        return f"{self.paths[file]}: record {row + 1}"

    def __getitem__(self, number: int) -> Sample:
        file, row = self._parts.place(number)
        name = self.name(number)
        features = parse_example(self._record(file, row), name)
        return self.sample(features, str(Path(self.paths[file]).parent), name)


def _open(path: str) -> Any:
    try:
        from grain.sources import ArrayRecordDataSource
    except ImportError as error:
        raise MissingDependencyError("ArrayRecord files need grain: pip install 'triclip[train]'") from error
    try:
        return ArrayRecordDataSource([path], RANDOM_ACCESS)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path}: wanted an ArrayRecord file, found none ({error})") from error
