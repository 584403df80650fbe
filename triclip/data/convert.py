"""Image-text data from one format to another: pictures are copied byte for byte, captions and labels as they are read.

A shard holds a range of the source's samples, so shards are written by several processes, in any order, and a
conversion that was stopped goes on with those that are not there yet.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clip_core.errors import DataError, MissingDependencyError
from clip_core.files import replace_file, write_text

from .arrow import LARGE_GROUP
from .example import make_example
from .files import in_processes
from .source import Sample, Source, fingerprint

logger = logging.getLogger("triclip")

RECORD = "conversion.json"
SUFFIXES = {"webdataset": ".tar", "arrayrecord": ".array_record", "parquet": ".parquet"}
_SIGNATURES = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))


def convert(
    source: Source, target: str | os.PathLike, to: str, samples_per_shard: int = 10_000, workers: int = 0
) -> dict[str, Any]:
    """Write the samples of a source as shards.

    Args:
        source: what `open_source` gave.
        target: a folder; made if needed. If the same conversion was stopped there, it is resumed.
        to: "webdataset" (tar), "arrayrecord" (tf.train.Example; extra `train`) or "parquet" (row groups small enough
            for reading in a drawn order; extra `parquet`). Other picture formats than JPEG, PNG and WebP do not go
            into tar shards.
        samples_per_shard: of the source; broken ones are left out and named in the log.
        workers: processes; 0: this one.
    Returns {"samples", "shards", "skipped", "written": shards written by this call}.
    Raises DataError naming the folder when it holds something else.
    """
    if to not in SUFFIXES:
        raise DataError(f"to: wanted one of {', '.join(SUFFIXES)}, found {to!r}")
    if samples_per_shard < 1:
        raise DataError(f"samples_per_shard: wanted 1 or more, found {samples_per_shard}")
    folder = Path(target)
    count = -(-len(source) // samples_per_shard)
    described = {"to": to, "samples_per_shard": samples_per_shard, "source": fingerprint(source), "of": len(source)}
    kept = _begin(folder, described)
    write = functools.partial(_write_shard, source, folder, to, samples_per_shard, count)
    there = {number for number in range(count) if (folder / _name(number, count, to)).exists()}
    wanted = [number for number in range(count) if number not in there or str(number) not in kept]
    for number, found in zip(wanted, in_processes(write, wanted, workers), strict=True):
        kept[str(number)] = found
        _write_record(folder, described, kept)
    samples, skipped = (sum(found[i] for found in kept.values()) for i in range(2))
    return {"samples": samples, "shards": count, "skipped": skipped, "written": len(wanted)}


def _begin(folder: Path, described: dict[str, Any]) -> dict[str, list[int]]:
    """Make the folder and its record, or check that they are of this conversion; returns the counts of its shards."""
    record = folder / RECORD
    if record.exists():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{record}: wanted the record of a conversion, found something else ({error})") from error
        differs = [key for key, value in described.items() if found.get(key) != value]
        if differs:
            named = ", ".join(f"{key}: {described[key]}, there {found.get(key)}" for key in differs)
            raise DataError(f"{folder}: wanted the same conversion or an empty folder, found another one ({named})")
        return dict(found.get("shards", {}))
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: wanted an empty folder, found {next(folder.iterdir()).name} in it")
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, described, {})
    return {}


def _write_record(folder: Path, described: dict[str, Any], kept: dict[str, list[int]]) -> None:
    write_text(folder / RECORD, json.dumps(described | {"shards": kept}) + "\n")


def _name(number: int, count: int, to: str) -> str:
    return f"{number:0{max(5, len(str(count - 1)))}d}{SUFFIXES[to]}"


def _write_shard(source: Source, folder: Path, to: str, per_shard: int, count: int, number: int) -> list[int]:
    """[samples written, samples left out] of a shard."""
    skipped = 0

    def samples() -> Iterator[tuple[int, Sample, list[bytes]]]:
        nonlocal skipped
        for place in range(number * per_shard, min((number + 1) * per_shard, len(source))):
            try:
                sample = source[place]
                pictures = [one if isinstance(one, bytes) else Path(one).read_bytes() for one in sample.images]
                if to == "webdataset":
                    [_suffix(picture, sample.name) for picture in pictures]
            except (DataError, OSError) as error:
                skipped += 1
                logger.warning("left out: %s", error)
                continue
            yield place, sample, pictures

    with replace_file(folder / _name(number, count, to)) as draft:
        written = _WRITERS[to](draft, samples())
    return [written, skipped]


Samples = Iterator[tuple[int, Sample, list[bytes]]]


def _write_tar(path: Path, samples: Samples) -> int:
    written = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for place, sample, pictures in samples:
            for number, picture in enumerate(pictures):
                inner = f"{number}." if len(pictures) > 1 else ""
                add(f"{place:09d}.{inner}{_suffix(picture, sample.name)}", picture)
            if len(sample.captions) == 1:
                add(f"{place:09d}.txt", sample.captions[0].encode())
            elif sample.captions:
                add(f"{place:09d}.json", json.dumps({"caption": list(sample.captions)}).encode())
            if sample.label is not None:
                add(f"{place:09d}.cls", str(sample.label).encode())
            written += 1
    return written


def _suffix(picture: bytes, name: str) -> str:
    for start, suffix in _SIGNATURES:
        if picture.startswith(start):
            return suffix
    raise DataError(f"{name}: wanted a JPEG, PNG or WebP picture for a tar shard, found {picture[:8]!r}")


def _write_array_record(path: Path, samples: Samples) -> int:
    try:
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError as error:
        raise MissingDependencyError("ArrayRecord files need array_record: pip install 'triclip[train]'") from error
    writer, written = ArrayRecordWriter(str(path), "group_size:1"), 0
    try:
        for _, sample, pictures in samples:
            features: dict[str, list[Any]] = {
                "image/encoded": pictures,
                "image/caption": [caption.encode() for caption in sample.captions],
            }
            if sample.label is not None:
                label = sample.label
                features["image/class/label"] = [label if isinstance(label, int) else label.encode()]
            writer.write(make_example({key: values for key, values in features.items() if values}))
            written += 1
    finally:
        writer.close()
    return written


def _write_parquet(path: Path, samples: Samples) -> int:
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(".parquet files need pyarrow: pip install 'triclip[parquet]'") from error
    written, writer = 0, None
    rows: list[dict[str, Any]] = []
    schema = None

    def flush() -> None:
        nonlocal writer, rows
        if rows:
            writer = writer or pyarrow.parquet.ParquetWriter(path, schema, compression="none")
            writer.write_table(arrow.Table.from_pylist(rows, schema))
        rows = []

    size = 0
    for _, sample, pictures in samples:
        if schema is None:
            kind = arrow.int64() if isinstance(sample.label, int) else arrow.string()
            columns = [("image", arrow.list_(arrow.binary())), ("caption", arrow.list_(arrow.string()))]
            schema = arrow.schema(columns + ([("label", kind)] if sample.label is not None else []))
        rows.append({"image": pictures, "caption": list(sample.captions), "label": sample.label})
        size += sum(map(len, pictures))
        written += 1
        if size > LARGE_GROUP // 2:
            flush()
            size = 0
    flush()
    if writer is None:
        raise DataError(f"{path.name}: wanted samples for this shard, found only broken ones")
    writer.close()
    return written


_WRITERS: dict[str, Callable[[Path, Samples], int]] = {
    "webdataset": _write_tar,
    "arrayrecord": _write_array_record,
    "parquet": _write_parquet,
}
