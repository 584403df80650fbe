"""JPEG files decoded by simplejpeg give the bytes, and the errors, of Pillow."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_core import CLIPImageProcessor, ImageError, machine
from clip_core.image import fast
from clip_core.image.input import load_image
from triclip import Clip
from triclip.data.pictures import PictureReader

pytest.importorskip("simplejpeg")


@pytest.fixture
def calls(monkeypatch) -> list[Any]:
    """What simplejpeg was asked to decode, and what it gave or raised."""
    monkeypatch.setenv(machine.VARIABLE, "jpeg=fast")
    seen: list[Any] = []
    decode = fast.decoder()
    assert decode is not None, "simplejpeg's bytes aren't those of this Pillow's libjpeg"

    def counted(*given: Any, **options: Any) -> np.ndarray:
        try:
            seen.append(decode(*given, **options))
        except Exception as error:
            seen.append(error)
            raise
        return seen[-1]

    monkeypatch.setattr(fast, "decoder", lambda: counted)
    return seen


@pytest.fixture
def by_pillow(monkeypatch):
    """A function's result without simplejpeg: the value, or the ImageError's text."""

    def run(function: Any, *given: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(fast, "decoder", lambda: None)
            return outcome(function, *given, **options)

    return run


def outcome(function: Any, *given: Any, **options: Any) -> Any:
    try:
        return function(*given, **options)
    except ImageError as error:
        return str(error)


def jpeg(width: int, height: int, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    """Smooth colours under noise, as photographs have them."""
    random = np.random.default_rng(seed)
    low = Image.fromarray(random.integers(0, 256, (6, 7, 3), np.uint8)).resize((width, height))
    values = np.asarray(low) // 2 + random.integers(0, 128, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def unpacked(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)


def found(data: bytes, draft: tuple[int, int] | None = None) -> np.ndarray | None:
    with Image.open(io.BytesIO(data)) as picture:
        if draft:
            picture.draft("RGB", draft)
        packed = fast._decoded(picture)
        return None if packed is None else unpacked(packed)


def wanted(data: bytes, draft: tuple[int, int] | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        if draft:
            picture.draft("RGB", draft)
        return np.asarray(picture)


@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_the_bytes_of_any_jpeg(data):
    draw = data.draw
    options: dict[str, Any] = {"quality": draw(st.integers(1, 100)), "seed": draw(st.integers(0, 9))}
    for name in ("progressive", "optimize", "keep_rgb"):
        options[name] = draw(st.booleans())
    if not options["keep_rgb"]:
        options["subsampling"] = draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1"]))
    if draw(st.booleans()):
        options["restart_marker_blocks"] = draw(st.integers(1, 9))
    if draw(st.booleans()):
        options |= {"exif": b"Exif\0\0" + bytes(40), "icc_profile": b"no profile" * 9, "comment": b"words"}
    encoded = jpeg(draw(st.integers(1, 130)), draw(st.integers(1, 130)), **options)
    np.testing.assert_array_equal(found(encoded), wanted(encoded))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(1001, 751), (640, 480), (333, 1111)])
def test_the_bytes_of_a_smaller_picture(size, subsampling):
    encoded = jpeg(*size, subsampling=subsampling)
    for part in (2, 4, 8):
        draft = size[0] // part, size[1] // part
        np.testing.assert_array_equal(found(encoded, draft), wanted(encoded, draft))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode, calls):
    with Image.open(io.BytesIO(jpeg(300, 300, mode))) as picture:
        assert fast.load(picture) is None and calls == [] and picture.mode == mode


OPTIONS: list[dict[str, Any]] = [
    *({}, {"do_center_crop": False}, {"resample": 2}, {"reduced_decoding": True}),
    *(
        {"profile": "openai"},
        {"profile": "open_clip"},
        {"profile": "open_clip", "crop_size": {"height": 150, "width": 90}},
    ),
]
SIZES = [(640, 480), (480, 640), (300, 1200), (1200, 300), (4000, 330), (257, 256)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_processors_values(size, options, calls, by_pillow):
    processor = CLIPImageProcessor(**options)
    pictures = [jpeg(*size, seed=seed) for seed in range(3)]

    def values() -> list[np.ndarray]:
        return processor([Image.open(io.BytesIO(picture)) for picture in pictures])["pixel_values"]

    want = by_pillow(values)
    assert calls == []
    np.testing.assert_array_equal(values(), want)
    assert len(calls) == 3 and not any(isinstance(call, Exception) for call in calls)


def test_a_picture_is_decoded_once(calls):
    picture = Image.open(io.BytesIO(jpeg(400, 300)))
    picture.fp.read()  # type: ignore[attr-defined]  # the file's place doesn't matter
    processor = CLIPImageProcessor()
    first = processor(picture)["pixel_values"][0]
    assert not fast.is_unread(picture)
    np.testing.assert_array_equal(np.asarray(picture), wanted(jpeg(400, 300)))
    np.testing.assert_array_equal(processor(picture)["pixel_values"][0], first)
    assert len(calls) == 1


@pytest.mark.parametrize("quick", [True, False])
def test_a_callers_draft_is_followed(quick, calls, monkeypatch):
    """`Image.draft` asks for a smaller picture, and transformers sees that."""
    if not quick:
        monkeypatch.setenv(machine.VARIABLE, "jpeg=plain")
    encoded = jpeg(1600, 1200)
    for options in ({}, {"reduced_decoding": True}):
        drafted = Image.open(io.BytesIO(encoded))
        drafted.draft("RGB", (800, 600))
        smaller = Image.open(io.BytesIO(encoded))
        smaller.draft("RGB", (800, 600))
        smaller.load()
        want = CLIPImageProcessor()(smaller)["pixel_values"][0]
        np.testing.assert_array_equal(CLIPImageProcessor(**options)(drafted)["pixel_values"][0], want)
    assert len(calls) == (2 if quick else 0)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("options", [{}, {"reduced_decoding": True}, {"profile": "openai"}])
def test_turned_pictures(orientation, options, calls, by_pillow):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = jpeg(900, 700, exif=exif)
    processor = CLIPImageProcessor(apply_exif_orientation=True, do_center_crop=False, **options)

    def values() -> np.ndarray:
        return processor(Image.open(io.BytesIO(encoded)))["pixel_values"][0]

    np.testing.assert_array_equal(values(), by_pillow(values))
    assert len(calls) == 1


def test_damaged_files_end_as_they_do_by_pillow(calls, by_pillow):
    whole = jpeg(330, 320, quality=80)
    random = np.random.default_rng(5)
    damaged = [whole[: len(whole) * part // 24] for part in range(1, 24)] + [whole + b"more", whole[:-2]]
    for _ in range(60):
        changed = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            changed[place] = random.integers(0, 256)
        damaged.append(bytes(changed))
    processor = CLIPImageProcessor()
    ended = set()
    for encoded in damaged:
        try:
            Image.open(io.BytesIO(encoded))
        except Exception:
            continue  # never gets as far as this
        values = [
            run(lambda file: processor(Image.open(file))["pixel_values"][0], io.BytesIO(encoded))
            for run in (outcome, by_pillow)
        ]
        np.testing.assert_array_equal(*values)
        ended.add((type(values[0]), isinstance(calls[-1], Exception)))
    # Errors of both; results by simplejpeg; results where simplejpeg gave up and Pillow didn't.
    assert ended == {(str, True), (np.ndarray, False), (np.ndarray, True)}


def test_long_files_are_left_to_pillow(calls, monkeypatch):
    encoded = jpeg(400, 300)
    monkeypatch.setattr(fast, "MOST_BYTES", len(encoded) - 1)
    assert found(encoded) is None and calls == []
    monkeypatch.setattr(fast, "MOST_BYTES", len(encoded))
    assert found(encoded) is not None


def test_a_header_that_says_another_size_than_the_pixels(calls):
    picture = Image.open(io.BytesIO(jpeg(400, 300)))
    for size in ((400, 299), (399, 300), (401, 300), (300, 400), (400, 301)):
        picture._size = size  # type: ignore[attr-defined]
        assert fast._decoded(picture) is None
    assert len(calls) == 5


def test_a_decoder_with_other_bytes_is_not_used():
    decode = fast.decoder()
    assert decode is not None and fast._gives_pillows_bytes(decode)

    def off_by_one(*given: Any, **options: Any) -> np.ndarray:
        pixels = decode(*given, **options)
        pixels[-1, -1, 2] ^= 1
        return pixels

    assert not fast._gives_pillows_bytes(off_by_one)
    assert not fast._gives_pillows_bytes(lambda *given, **options: decode(*given, fastupsample=True, **options))

    def failing(*given: Any, **options: Any) -> np.ndarray:
        raise TypeError("no such option")

    assert not fast._gives_pillows_bytes(failing)


def test_without_simplejpeg(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setenv(machine.VARIABLE, "all")
    fast.decoder.cache_clear()
    try:
        assert fast.decoder() is None and found(jpeg(300, 300)) is None
        assert fast._jpeg_ratio() is False
    finally:
        fast.decoder.cache_clear()


def test_files_stay_unread_only_for_the_processor(tmp_path, calls):
    path = tmp_path / "picture.jpg"
    path.write_bytes(jpeg(400, 300))
    assert not fast.is_unread(load_image(path))
    assert len(calls) == 1
    with load_image(path, unread_jpeg=True) as picture:
        assert fast.is_unread(picture)
    (tmp_path / "picture.png").write_bytes(b"")
    Image.open(path).save(tmp_path / "picture.png")
    assert not fast.is_unread(load_image(tmp_path / "picture.png", unread_jpeg=True))
    assert len(calls) == 1


def test_a_models_vectors_and_what_it_skips(tmp_path, calls, by_pillow):
    pytest.importorskip("torch")
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(400, 300 + number, seed=number)[: 900 if number == 2 else None])
    paths = [str(tmp_path / f"{number}.jpg") for number in range(5)]
    clip = Clip.from_pretrained("emoji")
    embedded, want = clip.embed(paths, progress=False), by_pillow(clip.embed, paths, progress=False)
    np.testing.assert_array_equal(embedded.vectors, want.vectors)
    assert embedded.sources == want.sources and len(embedded.sources) == 4
    assert embedded.skipped == want.skipped and paths[2] in embedded.skipped[0][1]
    assert len(calls) == 5


@pytest.mark.parametrize("cut", [None, 900])
def test_the_readers_values(tmp_path, cut, calls, by_pillow):
    encoded = jpeg(400, 300)[:cut]
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded)
    reader = PictureReader(CLIPImageProcessor())

    def read(picture: Any) -> np.ndarray:
        out = np.zeros(reader.shape, np.float32)
        reader.read(picture, "sample 7", out, None)
        return out

    for picture in (encoded, str(path)):
        np.testing.assert_array_equal(outcome(read, picture), by_pillow(read, picture))
    assert len(calls) == 2
