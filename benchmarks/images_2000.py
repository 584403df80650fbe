"""JPEG files of 2,000 pixels to pixel_values: exact, and decoded at reduced size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, Side
from benchmarks.images_640 import (
    GOALS,
    LIMITS,
    decode_one_by_one,
    files,
    process_with_hf,
    process_with_rust,
    process_with_triclip,
    same_bits,
)

COUNT = 16
ROW = Row(
    title="2,000-pixel JPEGs to pixel_values",
    about=(f"{COUNT} photographs as above at 2000 x 1500, 1500 x 2000 and 2000 x 1333, 1.0 MB each."),
    data=("photos_2000",),
    sides={
        "triclip": Side("triclip", "ours"),
        "triclip, reduced decoding": Side("triclip", "reduced"),
        "HF slow 4.57": Side("hf4", "hf_slow"),
        "hf-processors-rs": Side("rust", "rust"),
        "decoding alone, one core": Side("triclip", "decode"),
        "reduced decoding alone, one core": Side("triclip", "decode_reduced"),
    },
    pairs=GOALS,
    limits=LIMITS,
    count=COUNT,
    unit="pictures",
    check="same_bits",
)
__all__ = ["ROW", "same_bits"]


def ours(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data, 2000, COUNT))


def reduced(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data, 2000, COUNT), reduced_decoding=True)


def hf_slow(data: Path) -> Callable[[], Any]:
    return process_with_hf(files(data, 2000, COUNT))


def rust(data: Path) -> Callable[[], Any]:
    return process_with_rust(files(data, 2000, COUNT))


def decode(data: Path) -> Callable[[], Any]:
    return decode_one_by_one(files(data, 2000, COUNT))


def decode_reduced(data: Path) -> Callable[[], Any]:
    return decode_one_by_one(files(data, 2000, COUNT), shortest=224)
