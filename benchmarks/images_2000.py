"""JPEG files of 2,000 pixels to pixel_values: exact, and decoded at reduced size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Row
from benchmarks.images_640 import (
    GOALS,
    LIMITS,
    SIDES,
    decode_one_by_one,
    decode_with_pillow,
    files,
    process_with_hf,
    process_with_rust,
    process_with_triclip,
    same_bits,
)

COUNT = 16
ROW = Row(
    title="2,000-pixel JPEGs to pixel_values",
    about=(f"{COUNT} photographs as above at 2000 x 1500, 1500 x 2000 and 2000 x 1333, several side by side in each."),
    data=("photographs_2000",),
    sides=SIDES,
    pairs=GOALS,
    limits=LIMITS,
    count=COUNT,
    unit="pictures",
    check="same_bits",
)
__all__ = ["ROW", "same_bits"]


def ours(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data, 2000, COUNT))


def ours_by_pillow(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data, 2000, COUNT), by_pillow=True)


def reduced(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data, 2000, COUNT), reduced_decoding=True)


def hf_slow(data: Path) -> Callable[[], Any]:
    return process_with_hf(files(data, 2000, COUNT))


def rust(data: Path) -> Callable[[], Any]:
    return process_with_rust(files(data, 2000, COUNT))


def decode(data: Path) -> Callable[[], Any]:
    return decode_one_by_one(files(data, 2000, COUNT))


def decode_by_pillow(data: Path) -> Callable[[], Any]:
    return decode_with_pillow(files(data, 2000, COUNT))


def decode_reduced(data: Path) -> Callable[[], Any]:
    return decode_one_by_one(files(data, 2000, COUNT), shortest=224)
