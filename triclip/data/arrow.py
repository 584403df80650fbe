"""Arrow data: parquet tables, and folders written by Hugging Face's `save_to_disk`.

Both are read with pyarrow alone. Pictures stay as stored, {bytes, path}, and are decoded when needed.
"""

from __future__ import annotations

import json
import logging
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_core.errors import DataError, MissingDependencyError

from .fields import decode_text, json_object
from .files import MissingShards, Parts
from .rows import TableRows
from .source import Keys, Sample

logger = logging.getLogger("triclip")

ROW_GROUP_MEMORY = 1 << 30  # bytes of decoded parquet row groups that a process keeps
LARGE_GROUP = 4 << 20  # bytes: decoding a smaller one takes no longer than decoding a picture


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError("this data needs pyarrow: pip install 'triclip[parquet]'") from error
    return pyarrow


class ArrowRows(TableRows):
    """Rows of several Arrow tables, concatenated."""

    def __init__(self, paths: Sequence[Path], keys: Keys) -> None:
        super().__init__(keys)
        self.paths = [Path(path) for path in paths]
        self._begin()

    def _begin(self) -> None:
        """Create the state that can't be pickled."""
        self._lock = threading.RLock()

    def _set_lengths(self, lengths: Sequence[int], where: Any) -> None:
        self._parts = Parts(lengths)
        if not len(self._parts):
            raise DataError(f"{where}: wanted rows, found an empty table")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @abstractmethod
    def _table(self, part: int) -> Any:
        """The chosen columns of a part, as a pyarrow.Table."""

    @abstractmethod
    def _file(self, part: int) -> tuple[Path, int]:
        """The file of a part, and the number of its first row in it."""

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys([*self.images, *self.captions, *([self.label] if self.label else [])]))

    def name(self, number: int) -> str:
        part, row = self._parts.place(number)
        path, first = self._file(part)
        return f"{path}: row {first + row + 1}"

    def __getitem__(self, number: int) -> Sample:
        part, row = self._parts.place(number)
        name = self.name(number)
        table = self._table(part)
        try:
            values = {key: table[key][row].as_py() for key in self._columns}
        except (UnicodeDecodeError, _pyarrow().ArrowException) as error:
            raise DataError(f"{name}: wanted readable columns, found damaged ones ({error})") from error
        return self.sample(values, str(self._file(part)[0].parent), name)

    def _take_features(self, features: Any) -> None:
        """Take the names of label numbers from Hugging Face's features, if they have them."""
        feature = features.get(self.label) if isinstance(features, dict) and self.label else None
        if isinstance(feature, dict) and isinstance(feature.get("names"), list):
            self.label_names = [str(name) for name in feature["names"]]


class Parquet(ArrowRows):
    """Parquet files, by row groups, of which as many as fit into ROW_GROUP_MEMORY stay decoded.

    Larger sets of pictures are better kept as tar shards or `save_to_disk` folders, which are read row by row.
    """

    def __init__(self, paths: Sequence[Path], keys: Keys, missing: MissingShards) -> None:
        super().__init__(paths, keys)
        self.paths = [path for path in self.paths for _ in missing.passing_over(path, _checked)]
        missing.check_some_left(self.paths)
        self._begin()  # readers are numbered like the remaining paths
        self.skipped_shards = missing.names
        self._warn_of_large_groups()
        groups: list[tuple[int, int, int]] = []  # file, row group, first row in the file
        lengths: list[int] = []
        for number, path in enumerate(self.paths):
            file = self._reader(number)
            self.choose_columns(file.schema_arrow.names, path)
            first = 0
            for group in range(file.metadata.num_row_groups):
                groups.append((number, group, first))
                lengths.append(file.metadata.row_group(group).num_rows)
                first += lengths[-1]
            self._take_features(_features(file.schema_arrow))
        self._groups = groups
        self._set_lengths(lengths, self.paths[0])

    def _warn_of_large_groups(self) -> None:
        """Read in a drawn order, a row group that is not kept is decoded whole for one row."""
        metadata = [self._reader(number).metadata for number in range(len(self.paths))]
        sizes = [one.row_group(group).total_byte_size for one in metadata for group in range(one.num_row_groups)]
        if sum(sizes) > ROW_GROUP_MEMORY and max(sizes) > LARGE_GROUP:
            logger.warning(
                "%s: row groups of up to %d MB, %d MB in all: in a shuffled order each row decodes a whole one. Keep "
                "the data as shards instead: triclip data convert SOURCE FOLDER --to webdataset",
                self.paths[0], max(sizes) >> 20, sum(sizes) >> 20,
            )  # fmt: skip

    def _begin(self) -> None:
        super()._begin()
        self._open: tuple[dict[int, Any], OrderedDict[int, Any]] = ({}, OrderedDict())

    def _reader(self, number: int) -> Any:
        files = self._open[0]
        if number not in files:
            files[number] = _parquet_file(self.paths[number])
        return files[number]

    def _file(self, part: int) -> tuple[Path, int]:
        number, _, first = self._groups[part]
        return self.paths[number], first

    def _table(self, part: int) -> Any:
        with self._lock:
            kept = self._open[1]
            if part not in kept:
                number, group, _ = self._groups[part]
                try:
                    kept[part] = self._reader(number).read_row_group(group, columns=self._columns, use_threads=False)
                except (_pyarrow().ArrowException, OSError) as error:
                    raise DataError(f"{self.paths[number]}: row group {group} can't be read ({error})") from error
                while len(kept) > 1 and sum(table.nbytes for table in kept.values()) > ROW_GROUP_MEMORY:
                    kept.popitem(last=False)
            kept.move_to_end(part)
            return kept[part]


def _parquet_file(path: Path) -> Any:
    arrow = _pyarrow()
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, memory_map=True)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: wanted a parquet file, found none ({error})") from error


def _checked(path: Path) -> None:
    """Raise DataError for a file that can't be read, or is empty."""
    if _parquet_file(path).metadata.num_rows == 0:
        raise DataError(f"{path}: wanted rows, found an empty table")


class SavedDataset(ArrowRows):
    """Folders written by `datasets.Dataset.save_to_disk`: Arrow files, mapped into memory."""

    def __init__(self, folders: Sequence[Path], keys: Keys) -> None:
        super().__init__([folder / name for folder in folders for name in _data_files(folder)], keys)
        lengths = []
        for number, path in enumerate(self.paths):
            table = self._table(number)
            self.choose_columns(table.column_names, path.parent)
            lengths.append(table.num_rows)
        information = folders[0] / "dataset_info.json"
        if information.is_file():
            self._take_features(_json(information).get("features"))
        self._set_lengths(lengths, folders[0])

    def _begin(self) -> None:
        super()._begin()
        self._open: dict[int, Any] = {}

    def _file(self, part: int) -> tuple[Path, int]:
        return self.paths[part], 0

    def _table(self, part: int) -> Any:
        with self._lock:
            if part not in self._open:
                arrow, path = _pyarrow(), self.paths[part]
                try:
                    self._open[part] = arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
                    self._open[part].validate()
                except FileNotFoundError as error:
                    raise FileNotFoundError(f"{path}: no such file, though {path.parent} names it") from error
                except (arrow.ArrowException, OSError) as error:
                    raise DataError(f"{path}: wanted an Arrow stream, found a damaged one ({error})") from error
            return self._open[part]


def open_saved(folders: Sequence[Path], keys: Keys) -> SavedDataset:
    """Open folders of `save_to_disk`. Raises DataError for a folder of several splits, naming them."""
    for folder in folders:
        splits = folder / "dataset_dict.json"
        if splits.is_file():
            names = _json(splits).get("splits", [])
            raise DataError(f"{folder}: wanted one split, found {', '.join(map(str, names))}; name one: {folder}/…")
        if not (folder / "state.json").is_file():
            raise DataError(f"{folder}: wanted a folder that save_to_disk wrote, found no state.json in it")
    return SavedDataset(folders, keys)


def _data_files(folder: Path) -> list[str]:
    state = _json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder}: wanted rows in order, found an index over them; save flatten_indices() of it")
    listed = state.get("_data_files")
    names = [entry.get("filename") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise DataError(f"{folder / 'state.json'}: wanted the names of data files in it, found {listed!r}")
    return [str(name) for name in names]


def _json(path: Path) -> dict[str, Any]:
    return json_object(decode_text(path.read_bytes(), str(path)), str(path))


def _features(schema: Any) -> Any:
    """Hugging Face's description of the columns, kept in an Arrow schema; None without."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return None
