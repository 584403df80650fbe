"""Small image-text data in every format, for the tests of triclip.data."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(number: int, width: int = 40, height: int = 32, format: str = "PNG", mode: str = "RGB") -> bytes:
    """A noisy picture, another one for every number."""
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode).save(file, format)
    return file.getvalue()


def bomb(side: int = 60000) -> bytes:
    """A PNG of some hundred bytes that claims `side` x `side` pixels."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def write_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, count: int, first: int = 0, **replaced: bytes) -> Path:
    """A webdataset shard of pictures with captions. `replaced`: "s3_png" -> the content of sample 3's picture."""
    members = []
    for number in range(first, first + count):
        for suffix, data in (("png", picture(number)), ("txt", f"caption {number}".encode())):
            members.append((f"{number:05d}.{suffix}", replaced.get(f"s{number}_{suffix}", data)))
    return write_tar(path, members)


def table(folder: Path, count: int, name: str = "train.jsonl") -> Path:
    """Pictures in files, listed in a CSV, TSV or JSONL table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        (folder / "pictures" / f"{number}.png").write_bytes(picture(number))
        rows.append({"image": f"pictures/{number}.png", "caption": f"caption {number}"})
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        if name.endswith("jsonl"):
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, ["image", "caption"], delimiter="\t" if name.endswith("tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return folder / name


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(**features: bytes | list[bytes] | int) -> bytes:
    """A serialised tf.train.Example, written by hand; "__" in a name stands for "/"."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            value = [value]
        if isinstance(value, list):
            feature = field(1, b"".join(field(1, one) for one in value))
        else:
            feature = field(3, field(1, varint(value % 2**64)))
        entries += field(1, field(1, key.replace("__", "/").encode()) + field(2, feature))
    return field(1, entries)


def array_record(path: Path, records: list[bytes]) -> Path:
    module = pytest.importorskip("array_record.python.array_record_module", reason="writes the files to be read")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path
