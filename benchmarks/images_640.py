"""JPEG files of 640 pixels to pixel_values, to the bit of transformers' slow processor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA, Pair, Row, Side

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
    Pair("triclip[jpeg]", "HF slow 4.57", at_least=4.0, at_avx2=3.0),
    Pair("triclip[jpeg]", "hf-processors-rs", at_least=1.3, at_avx2=1.2),
    Pair("triclip", "HF slow 4.57", at_least=2.8),
    Pair("triclip", "hf-processors-rs"),
    Pair("triclip[jpeg], reduced decoding", "hf-processors-rs", at_least=4.0),
)
LIMITS = (
    "Which way each step goes, Pillow's or a short cut, is measured in the process (`triclip inspect --machine` says "
    "so): matrix products in place of Pillow's resizing win with AVX-512 and lose with AVX2; simplejpeg (the extra "
    "`jpeg`) is the same libjpeg-turbo. Decoding is about half of a core's time at 640 pixels and two thirds at 2,000. "
    "Reduced decoding of large pictures is bounded by JPEG's entropy coding, which it can't skip: twice what reduced "
    "decoding alone does on one core is about 4 times what hf-processors-rs does, which leaves next to nothing for all "
    "else. On an Intel Xeon with AMX, transformers takes 5.2 ms of one core for a picture; Pillow's decoding is 1.2 of "
    "them and its resizing 1.9, which are all but 0.2 of the time here (3.1 to 3.4 ms): twice that on two cores that "
    "nothing else uses is 3.2x, whichever way the steps go. Pillow-SIMD 12.1.1 (AVX2) resizes a 640-pixel picture in "
    "0.38 ms, but 0.34% of its bytes are off by one, so nothing here uses it. On a machine with other work, look at "
    "CPU seconds: triclip's and Rust's are spread over all cores."
)
ROW = Row(
    title="640-pixel JPEGs to pixel_values",
    about=(
        f"{COUNT} photographs (640 x 480, 480 x 640, 640 x 426; quality 90; from packages, or made up if these are not "
        "available: see what was checked), from files to float32 [N, 3, 224, 224]. triclip and hf-processors-rs use "
        "all cores; transformers uses one."
    ),
    data=("photographs_640",),
    sides=SIDES,
    pairs=GOALS[:4],
    limits=LIMITS,
    count=COUNT,
    unit="pictures",
    check="same_bits",
)


def files(data: Path, side: int = 640, count: int = COUNT) -> list[Path]:
    return sorted((data / f"photographs_{side}").glob("*.jpg"))[:count]


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

    from clip_core import CLIPImageProcessor, machine
    from clip_core.image.fast import decoder, measure

    if by_pillow:
        without_simplejpeg()
    assert (decoder() is None) == by_pillow
    measure()
    print(machine.describe(), file=sys.stderr)

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
    said = sorted({path.read_text(encoding="utf-8") for path in DATA.glob("photographs_*.txt")})
    return (
        f"{'; '.join(said)}. triclip's {len(want)} pictures equal transformers' to the bit; {off} of "
        f"hf-processors-rs' differ. With reduced decoding values are off by {error.mean():.3f} on average and "
        f"{error.max():.2f} at most (a byte is 0.015; values span -1.8 to 2.1)."
    )
