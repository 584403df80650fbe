"""JPEG files of 640 pixels to pixel_values, to the bit of transformers' slow processor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Row, Side

COUNT = 96
SIDES = {
    "triclip[jpeg]": Side("triclip", "ours"),
    "triclip[jpeg], reduced decoding": Side("triclip", "reduced"),
    "triclip": Side("triclip", "ours_by_pillow"),
    "HF slow 4.57": Side("hf4", "hf_slow"),
    "hf-processors-rs": Side("rust", "rust"),
    "decoding alone, simplejpeg, one core": Side("triclip", "decode"),
    "decoding alone, Pillow, one core": Side("triclip", "decode_by_pillow"),
    "reduced decoding alone, simplejpeg, one core": Side("triclip", "decode_reduced"),
}
GOALS = (
    Pair("triclip[jpeg]", "HF slow 4.57", at_least=4.0),
    Pair("triclip[jpeg]", "hf-processors-rs", at_least=1.3),
    Pair("triclip", "HF slow 4.57"),
    Pair("triclip", "hf-processors-rs"),
    Pair("triclip[jpeg], reduced decoding", "hf-processors-rs", at_least=4.0),
)
LIMITS = (
    "The extra `jpeg` is simplejpeg: the same libjpeg-turbo, without Pillow's four bytes a pixel, their copies and the "
    "interpreter's lock. Decoding with it is half of a core's time at 640 pixels and two thirds at 2,000. Of the 6.5 "
    "ms that resizing such a large picture takes, matrix products are 3, bringing bytes into planes of floats 2, "
    "rounding the sums to bytes, doubtful ones again in whole numbers, 1.3. Half of the threads rather decode and half "
    "rather resize, so that they wait for the interpreter's lock twice a picture (19 times before). Reduced decoding "
    "of large pictures is bounded by JPEG's entropy coding, which it can't skip: twice what reduced decoding alone "
    "does on one core is about 4 times what hf-processors-rs does, which leaves next to nothing for all else (2 ms of "
    "11). Pillow-SIMD 12.1.1 (AVX2) resizes a 640-pixel picture in 0.38 ms, which is 2.6 in Pillow and 1.3 here, but "
    "0.34% of its bytes are off by one, so nothing here uses it. On a machine with other work, look at CPU seconds: "
    "triclip's and Rust's are spread over all cores."
)
ROW = Row(
    title="640-pixel JPEGs to pixel_values",
    about=(
        f"{COUNT} photographs made from noise and shapes (640 x 480, 480 x 640, 640 x 426; 110 kB each, as photographs "
        "have at quality 90), from files to float32 [N, 3, 224, 224]. triclip and hf-processors-rs use all cores; "
        "transformers uses one."
    ),
    data=("photos_640",),
    sides=SIDES,
    pairs=GOALS[:4],
    limits=LIMITS,
    count=COUNT,
    unit="pictures",
    check="same_bits",
)


def files(data: Path, side: int = 640, count: int = COUNT) -> list[Path]:
    return sorted((data / f"photos_{side}").glob("*.jpg"))[:count]


def ours(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data))


def ours_by_pillow(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data), by_pillow=True)


def reduced(data: Path) -> Callable[[], Any]:
    return process_with_triclip(files(data), reduced_decoding=True)


def hf_slow(data: Path) -> Callable[[], Any]:
    return process_with_hf(files(data))


def rust(data: Path) -> Callable[[], Any]:
    return process_with_rust(files(data))


def decode(data: Path) -> Callable[[], Any]:
    return decode_one_by_one(files(data))


def decode_by_pillow(data: Path) -> Callable[[], Any]:
    return decode_with_pillow(files(data))


def decode_reduced(data: Path) -> Callable[[], Any]:
    return decode_one_by_one(files(data), shortest=224)


def without_simplejpeg() -> None:
    """Imports of it fail from here on."""
    sys.modules["simplejpeg"] = None  # type: ignore[assignment]


def process_with_triclip(paths: list[Path], by_pillow: bool = False, **options: Any) -> Callable[[], Any]:
    """`by_pillow`: as it is without the `jpeg` extra."""
    from PIL import Image

    from clip_core import CLIPImageProcessor
    from clip_core.image_jpeg import decoder

    if by_pillow:
        without_simplejpeg()
    assert (decoder() is None) == by_pillow

    processor = CLIPImageProcessor(**options)
    return lambda: processor([Image.open(path) for path in paths], return_tensors="np")["pixel_values"]


def process_with_hf(paths: list[Path]) -> Callable[[], Any]:
    from PIL import Image
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor()
    return lambda: processor([Image.open(path) for path in paths], return_tensors="np")["pixel_values"]


def process_with_rust(paths: list[Path]) -> Callable[[], Any]:
    import hf_processors_rs

    from clip_core import CLIPImageProcessor

    settings = CLIPImageProcessor().to_dict()
    processor = hf_processors_rs.AutoImageProcessor.from_dict(settings, backend="pil")
    return lambda: processor(paths)


def decode_one_by_one(paths: list[Path], shortest: int | None = None) -> Callable[[], Any]:
    """`shortest`: decode as small as JPEG can without the shorter edge falling below it."""
    from simplejpeg import decode_jpeg

    def run() -> None:
        for path in paths:
            decode_jpeg(path.read_bytes(), "RGB", min_height=shortest or 0, min_width=shortest or 0)

    return run


def decode_with_pillow(paths: list[Path]) -> Callable[[], Any]:
    from PIL import Image

    def run() -> None:
        for path in paths:
            with Image.open(path) as picture:
                picture.load()

    return run


def same_bits(results: dict[str, Any]) -> str:
    import numpy as np

    want = results["HF slow 4.57"]
    for name in ("triclip", "triclip[jpeg]"):
        assert np.array_equal(results[name], want), f"{name} differs from transformers"
    off = int((results["hf-processors-rs"] != want).any((1, 2, 3)).sum())
    error = np.abs(results["triclip[jpeg], reduced decoding"] - want)
    return (
        f"triclip's {len(want)} pictures equal transformers' to the bit; {off} of hf-processors-rs' differ. With "
        f"reduced decoding values are off by {error.mean():.3f} on average and {error.max():.2f} at most (a byte is "
        f"0.015; values span -1.8 to 2.1)."
    )
