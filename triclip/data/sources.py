"""Opening image-text data: files from paths and patterns, their format, and the source for it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from clip_core.errors import DataError

from .config import FORMATS
from .files import MissingShards
from .source import PARTS, Keys, Source

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PROBED = 16  # samples read when a source is opened
ARRAY_RECORD = re.compile(r"\.array_?record(-\d+-of-\d+)?$")  # also "name.array_record-00000-of-00010"


def open_source(
    paths: Sequence[str | os.PathLike] | str | os.PathLike,
    format: str = "auto",
    image_key: str | None = None,
    caption_key: str | None = None,
    label_key: str | None = None,
    *,
    needs: Collection[str] = PARTS,
    salvage: bool = False,
    probe: bool = True,
    skip_shards: int = 0,
    index: str | os.PathLike | None = "auto",
    workers: int = 0,
    separator: str | None = None,
) -> Source:
    """The samples at `paths`, in the order given (patterns: sorted).

    Args:
        paths: files, folders or patterns: `*`, `?`, `[…]`, and braces `{000..012}` and `{a,b}`. All of one format.
        format: "webdataset": uncompressed tar shards. "table": CSV, TSV, JSONL or parquet with a column of picture
            paths relative to the table, or of pictures; or a folder of pictures with a .txt beside each, or, with
            labels, of one folder per class. "datasets": what Hugging Face `save_to_disk` wrote. "arrayrecord":
            tf.train.Example records. "coco": captions_<split>.json, where `image_key` may name the folder of
            pictures. "auto": by suffix and contents.
        image_key, caption_key: column, suffix in a shard or feature; None: the usual names. `caption_key` may name
            several, separated by commas.
        label_key: as these; only with one, or with "" for the usual names, are labels read and captions optional.
        needs: what every sample must have, of "images" and "captions". Captions that aren't needed are kept where
            there are some; pictures that aren't needed are not read unless `image_key` names them.
        salvage: of a shard that was cut off, give the samples before the cut, and say so in `source.damage`; samples
            of shards that were left out are counted there too, not in the log.
        probe: raise the first sample's error when the first 16 are all broken.
        skip_shards: how many shards (.tar, .array_record, .parquet) may be missing or damaged: they are passed over,
            named in the log and in `source.skipped_shards`. One at least must be left.
        index: where the places of a tar shard's samples are kept once its headers were read: a folder, "auto" (the
            user's cache, or `TRICLIP_CACHE`; sets below 64 MB are read anew each time), or None.
        workers: processes that read headers which are not kept yet; 0: this one.
        separator: between the fields of a CSV; None: tabs in a .tsv, else comma, semicolon, tab or bar, whichever
            gives the header the most columns.
    Raises:
        FileNotFoundError: a missing path, or a pattern without files. DataError: a damaged or empty file, no pairs in
        it, an unknown column (the message lists the existing ones), several formats, a URL.
    """
    missing = MissingShards(skip_shards)
    kind, files = separate(paths, format, missing)
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise DataError(f"separator: wanted one character, no quote and no end of a line, found {separator!r}")
    keys = Keys(image_key, caption_key, label_key, frozenset(needs), separator)
    if kind == "webdataset":
        from .webdataset import WebDataset

        source: Source = WebDataset(files, keys, salvage, missing, index, workers)
    else:
        source = _open(kind, files, keys, missing)
    if probe:
        check_samples(source, range(min(PROBED, len(source))))
    return source


def separate(
    paths: Sequence[str | os.PathLike] | str | os.PathLike, format: str = "auto", missing: MissingShards | None = None
) -> tuple[str, list[Path]]:
    """(kind, files) at `paths`: the parts that can be opened separately, in order; a part may be a folder.

    Each opens with `open_source(file)`. Raises like that function; the files themselves are not read.
    """
    if format not in FORMATS:
        raise DataError(f"format: wanted one of {', '.join(FORMATS)}, found {format!r}")
    files = expand(paths, missing)
    found = {_format_of(file) if format == "auto" else format for file in files}
    if len(found) > 1:
        raise DataError(f"{files[0]}: wanted data of one format, found {' and '.join(sorted(found))}")
    kind = found.pop()
    if kind == "webdataset":
        return kind, _inside(files, (".tar",))
    if kind == "arrayrecord":
        return kind, _inside(files, ARRAY_RECORD)
    return (kind, files) if kind in ("datasets", "coco") else _separate_tables(files)


def _open(kind: str, files: list[Path], keys: Keys, missing: MissingShards) -> Source:
    if kind == "datasets":
        from .arrow import open_saved

        return open_saved(files, keys)
    if kind == "arrayrecord":
        from .arrayrecord import ArrayRecords

        return ArrayRecords(files, keys, missing)
    if kind == "coco":
        from .coco import CocoCaptions

        return CocoCaptions(files, keys)
    if kind == "folder":
        from .folder import open_folder

        return open_folder(files, keys)
    from .table import open_tables

    return open_tables(files, keys, missing)


def check_samples(source: Source, numbers: Sequence[int]) -> None:
    """Raise the first one's error if all of these samples are broken, because then the data as a whole are wrong."""
    if len(source) == 0:
        raise DataError("paths: wanted samples, found none")
    first: DataError | None = None
    for number in numbers:
        try:
            source[number]
            return
        except DataError as error:
            first = first or error
    assert first is not None
    raise first


def _separate_tables(files: list[Path]) -> tuple[str, list[Path]]:
    if all(file.is_dir() and not _listed(file, TABLES) for file in files):
        return "folder", files
    for folder in filter(Path.is_dir, files):
        listed = _listed(folder, TABLES)
        if len(listed) > 1 and not all(file.suffix.lower() == ".parquet" for file in listed):
            names = ", ".join(file.name for file in listed)
            raise DataError(f"{folder}: wanted one table in this folder, found {names}; name the one to read")
    return "table", _inside(files, TABLES)


def expand(paths: Sequence[str | os.PathLike] | str | os.PathLike, missing: MissingShards | None = None) -> list[Path]:
    """Existing paths, with braces and patterns expanded; missing shards are skipped as far as `missing` allows.

    Raises FileNotFoundError, DataError for URLs and [].
    """
    missing = missing or MissingShards()
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    if not paths:
        raise DataError("paths: wanted at least one file or folder, found none")
    files: list[Path] = []
    for path in paths:
        text = os.fspath(path)
        if "://" in text:
            raise DataError(f"{text}: wanted a file or folder of this machine, found a URL; download it first")
        if os.path.exists(text):  # a name may contain brackets
            files.append(Path(text))
            continue
        for pattern in _braces(text):
            found = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
            if found and os.path.exists(found[0]):
                files += map(Path, found)
                continue
            asked = text if pattern == text else f"{pattern} (of {text})"
            error = FileNotFoundError(f"{asked}: no such file or folder")
            if glob.has_magic(pattern) or not _is_shard(pattern):
                raise error
            missing.skip(pattern, error)
    missing.check_some_left(files)
    return files


def _is_shard(name: str) -> bool:
    return _matches(name, (".tar", ".parquet")) or _matches(name, ARRAY_RECORD)


def _braces(text: str) -> list[str]:
    """The text with every `{1..3}` and `{a,b}` expanded, from the left."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", text)
    if match is None:
        return [text]
    if match[3] is not None:
        values = match[3].split(",")
    else:
        first, last = int(match[1]), int(match[2])
        if last < first or last - first > 10_000_000:
            raise DataError(f"{text}: wanted a rising range in braces, found {match[0]}")
        values = [f"{number:0{len(match[1])}d}" for number in range(first, last + 1)]
    return [text[: match.start()] + value + rest for value in values for rest in _braces(text[match.end() :])]


def _format_of(path: Path) -> str:
    """The format of a file or folder, by its suffix or contents."""
    if path.is_dir():
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return "datasets"
        if _listed(path, (".tar",)):
            return "webdataset"
        return "arrayrecord" if _listed(path, ARRAY_RECORD) else "table"
    if _matches(path.name, (".tar",)):
        return "webdataset"
    if _matches(path.name, ARRAY_RECORD):
        return "arrayrecord"
    if _matches(path.name, TABLES):
        return "table"
    if _matches(path.name, (".json",)):
        return "coco"
    if re.search(r"\.(tgz|tar\.\w+)$", path.name.lower()):
        raise DataError(f"{path}: wanted a shard that can be read from any place, found a compressed one; unpack it")
    raise DataError(
        f"{path}: wanted a .tar shard, a table ({', '.join(TABLES)}), COCO's .json, an .array_record file or a folder, "
        f"found the suffix {path.suffix!r}; name the format if it is one of these"
    )


def _matches(name: str, wanted: tuple[str, ...] | re.Pattern) -> bool:
    return name.lower().endswith(wanted) if isinstance(wanted, tuple) else wanted.search(name.lower()) is not None


def _listed(folder: Path, wanted: tuple[str, ...] | re.Pattern) -> list[Path]:
    """The files directly in a folder with matching names, sorted."""
    return sorted(file for file in folder.iterdir() if _matches(file.name, wanted) and file.is_file())


def _inside(files: list[Path], wanted: tuple[str, ...] | re.Pattern) -> list[Path]:
    """The files, with folders replaced by their files."""
    out: list[Path] = []
    for file in files:
        found = _listed(file, wanted) if file.is_dir() else [file]
        if not found:
            raise DataError(f"{file}: wanted files of the format in this folder, found none")
        out += found
    return out
