"""tf.train.Example from its bytes: a few rules of protobuf's wire format, and nothing else.

Example  { Features features = 1; }
Features { map<string, Feature> feature = 1; }    (an entry: key = 1, value = 2)
Feature  { BytesList = 1 | FloatList = 2 | Int64List = 3, each with `repeated value = 1`, numbers packed or not }
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from clip_core.errors import DataError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3


def parse_example(record: bytes, name: str) -> dict[str, list[Any]]:
    """Feature -> its values: bytes, floats or whole numbers. Raises DataError for anything but an Example."""
    found: dict[str, list[Any]] = {}
    try:
        for features in _messages(record, 1):
            for entry in _messages(features, 1):
                key, value = b"", b""
                for number, _, content in _fields(entry):
                    key, value = (content, value) if number == 1 else (key, content) if number == 2 else (key, value)
                found[_bytes(key).decode("utf-8")] = _feature(_bytes(value))
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{name}: wanted a tf.train.Example, found other bytes ({error})") from error
    if not found:
        raise DataError(f"{name}: wanted a tf.train.Example with features, found none")
    return found


def _feature(data: bytes) -> list[Any]:
    values: list[Any] = []
    for kind, _, content in _fields(data):
        for number, wire, value in _fields(_bytes(content)):
            if number != 1:
                continue
            if kind == BYTES_LIST:
                values.append(_bytes(value))
            elif kind == FLOAT_LIST:
                packed = _bytes(value)
                values += struct.unpack(f"<{len(packed) // 4}f", packed)
            elif kind == INT64_LIST:
                values += [_signed(one) for one in (_varints(_bytes(value)) if wire == LENGTH else [value])]
    return values


def _messages(data: bytes, wanted: int) -> Iterator[bytes]:
    return (_bytes(content) for number, _, content in _fields(data) if number == wanted)


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, an int or bytes) one after the other."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        value: int | bytes
        if wire == VARINT:
            value, position = _varint(data, position)
        else:
            if wire == LENGTH:
                size, position = _varint(data, position)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire} at byte {position}")
            if size > len(data) - position:
                raise ValueError(f"{size} bytes wanted at byte {position} of {len(data)}")
            value, position = data[position : position + size], position + size
        yield tag >> 3, wire, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while shift < 70:  # ten bytes at most
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise ValueError(f"a number of more than ten bytes at byte {position}")


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where a message or string was wanted")
    return value
