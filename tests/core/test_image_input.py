"""Callers' pictures are left intact; deep, large and transparent pictures; errors that callers catch."""

from __future__ import annotations

import gc
import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_core import CLIPImageProcessor, ImageError, InputError, machine
from clip_core.image import input as image_input
from clip_core.image.input import flatten, load_image
from clip_core.image.processor import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
KINDS = ["jpg", "png", "gif", "tiff", "webp", "bmp", "ppm"]


def saved(path: Path, values: np.ndarray = NOISE) -> Path:
    Image.fromarray(values).save(path)
    return path


def state(picture: Image.Image) -> tuple:
    """What a caller can see of a picture."""
    file = getattr(picture, "fp", None)
    return (
        picture.tile if hasattr(picture, "tile") else None,
        None if file is None else file.closed,
        picture.mode,
        picture.size,
        picture.format,
        picture.info,
        picture.readonly,
        getattr(picture, "filename", None),
        picture.tobytes(),
    )


# ---- the caller's picture afterwards


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"profile": "openai"}, {"apply_exif_orientation": True}])
@pytest.mark.parametrize("opened", ["path", "file", "bytes"])
def test_a_picture_is_afterwards_as_after_load(tmp_path, kind, options, opened, short_cuts):
    path = saved(tmp_path / f"a.{kind}")

    def open_it() -> Image.Image:
        if opened == "path":
            return Image.open(path)
        return Image.open(path.open("rb") if opened == "file" else io.BytesIO(path.read_bytes()))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # GIF and TIFF files stay open, in Pillow too
        ours, theirs = open_it(), open_it()
        theirs.load()
        if options.get("apply_exif_orientation"):
            theirs.getexif()
        CLIPImageProcessor(**options)(ours)
        assert state(ours) == state(theirs)
        gc.collect()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_can_be_used_after_its_file_is_gone(tmp_path, kind, short_cuts):
    processor = CLIPImageProcessor()
    path = saved(tmp_path / f"a.{kind}")
    with Image.open(path) as picture:
        first = processor(images=picture)["pixel_values"][0]
    saved(path, 255 - NOISE)
    assert picture.resize((20, 10)).size == (20, 10)
    np.testing.assert_array_equal(processor(picture)["pixel_values"][0], first)
    path.unlink()
    np.testing.assert_array_equal(processor(picture.copy())["pixel_values"][0], first)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux shows them")
def test_kept_pictures_hold_no_files(tmp_path, short_cuts):
    path = saved(tmp_path / "a.jpg")
    before = len(os.listdir("/proc/self/fd"))
    kept = [Image.open(path) for _ in range(60)]
    CLIPImageProcessor()(kept)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert all(picture.getpixel((3, 3)) for picture in kept)


@pytest.mark.parametrize("kind", [*KINDS, "apng", "frames.gif", "pages.tiff"])
def test_a_path_s_picture_may_be_closed_by_its_reader(tmp_path, kind):
    """Pillow 10.1 to 11.1 can't close one twice."""
    path = tmp_path / f"a.{kind}"
    if kind in KINDS:
        saved(path)
    else:
        format_ = {"apng": "PNG", "frames.gif": "GIF", "pages.tiff": "TIFF"}[kind]
        frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
        frames[0].save(path, format_, save_all=True, append_images=frames[1:])
    want = np.array(Image.open(path).convert("RGB"))
    for unread in (False, True):
        with load_image(path, unread_jpeg=unread) as picture:
            assert picture.filename == str(path) or Path(picture.filename) == path
            values = CLIPImageProcessor()(picture)["pixel_values"][0]
        np.testing.assert_array_equal(values, CLIPImageProcessor()(Image.fromarray(want))["pixel_values"][0])
        if not unread:
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), want)
            picture.close()


# ---- errors


@pytest.mark.parametrize("cut", [30, 3000])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_broken_picture_is_an_oserror_too(tmp_path, kind, cut, short_cuts):
    """`except OSError: continue` stands in many programs, as Pillow raises that."""
    path = saved(tmp_path / f"a.{kind}")
    path.write_bytes(path.read_bytes()[: -cut if cut == 30 else cut])
    for read in (load_image, lambda path: CLIPImageProcessor()(Image.open(path))):
        with pytest.raises(OSError, match=f"a.{kind}") as caught:
            read(path)
        assert isinstance(caught.value, ImageError) and isinstance(caught.value, ValueError)


def test_errors_can_be_pickled():
    again = pickle.loads(pickle.dumps(ImageError("a.jpg: wanted a picture, found none")))
    assert type(again) is ImageError and str(again) == "a.jpg: wanted a picture, found none" and again.errno is None


# ---- deep pictures

DEEP = {
    "I;16": np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 32,
    "I": np.arange(-1000, 1000, dtype=np.int32).reshape(40, 50) * 40,
    "F": np.arange(-1000, 1000, dtype=np.float32).reshape(40, 50) / 3,
}


def of_rgb(picture: Image.Image) -> np.ndarray:
    """transformers 4.37.2 written out: Pillow's conversion, then the usual steps."""
    pixels = picture.convert("RGB").resize((30, 24), Image.Resampling.BICUBIC).crop((3, 0, 27, 24))
    values = np.asarray(pixels).astype(np.float64) * (1 / 255)
    mean, std = np.array(OPENAI_CLIP_MEAN, np.float32), np.array(OPENAI_CLIP_STD, np.float32)
    return ((values.astype(np.float32) - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("mode", DEEP)
@pytest.mark.parametrize("from_file", [False, True])
def test_deep_pictures_are_as_in_transformers_with_one_warning(mode, from_file, tmp_path, short_cuts):
    picture = Image.fromarray(DEEP[mode])
    assert picture.mode == mode
    if from_file:
        picture.save(tmp_path / "deep.tiff")
        picture = load_image(tmp_path / "deep.tiff")
    processor = CLIPImageProcessor(size=24, crop_size=24)
    with pytest.warns(UserWarning, match=f"mode {mode}.*8 bits") as caught:
        found = processor([picture, picture, Image.new("L", (30, 30))])["pixel_values"]
    assert len(caught) == 1 and caught[0].filename == __file__
    np.testing.assert_array_equal(found[0], of_rgb(picture))
    np.testing.assert_array_equal(found[1], found[0])


@pytest.mark.parametrize("mode", DEEP)
def test_deep_pictures_that_lose_nothing_are_silent(mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CLIPImageProcessor()(Image.fromarray((DEEP[mode] % 256).astype(np.uint8).astype(DEEP[mode].dtype)))
        CLIPImageProcessor(do_convert_rgb=False, do_resize=False, do_normalize=False, do_center_crop=False)(
            DEEP["I"][..., None].clip(0)
        )


# ---- large pictures


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_up_to_twice_pillows_limit_is_read_with_its_warning(tmp_path, kind, monkeypatch):
    path = saved(tmp_path / f"large.{kind}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 300 * 2 // 3)
    for unread in (False, True):
        with pytest.warns(Image.DecompressionBombWarning), load_image(path, unread) as picture:
            assert picture.size == (400, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match=f"large.{kind}"):
            load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 300 // 2 - 1)
    with pytest.raises(ImageError, match=f"large.{kind}"):
        load_image(path)


# ---- transparency


def rgba() -> Image.Image:
    """Red, of every alpha."""
    values = np.zeros((16, 16, 4), np.uint8)
    values[..., 0], values[..., 3] = 200, np.arange(256).reshape(16, 16)
    return Image.fromarray(values)


def over(colour: tuple[int, int, int]) -> np.ndarray:
    alpha = np.arange(256).reshape(16, 16, 1) / 255
    return np.rint(np.array([200, 0, 0]) * alpha + np.array(colour) * (1 - alpha))


@pytest.mark.parametrize("background", ["white", "#102030", (1, 2, 3), [9, 8, 7], "hsl(120, 100%, 50%)"])
def test_the_background_shows_through_alpha(background):
    colour = {"white": (255,) * 3, "#102030": (16, 32, 48), "hsl(120, 100%, 50%)": (0, 255, 0)}.get(str(background))
    found = flatten(rgba(), background)
    assert found.mode == "RGB" and found.size == (16, 16)
    assert np.abs(np.asarray(found) - over(colour or tuple(background))).max() <= 1


def transparent_corner(mode: str) -> Image.Image:
    """3 x 2 pixels of one colour, but the first, which is another one and transparent."""
    if mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = Image.new("RGBA", (3, 2), (90, 90, 90, 255))
        picture.putpixel((0, 0), (10, 10, 10, 0))
        if mode == "PA":
            grey = Image.new("PA", (3, 2), (1, 255))
            grey.putpalette([10, 10, 10, 90, 90, 90])
            grey.putpixel((0, 0), (0, 0))
            return grey
        return picture.convert("LA").convert(mode) if mode == "La" else picture.convert(mode)
    if mode in ("P", "P, bytes", "P, RGBA palette"):
        picture = Image.new("P", (3, 2), 1)
        picture.putpixel((0, 0), 0)
        if mode == "P, RGBA palette":
            picture.putpalette([10, 10, 10, 0, 90, 90, 90, 255], "RGBA")
            return picture
        picture.putpalette([10, 10, 10, 90, 90, 90])
        picture.info["transparency"] = bytes([0, 255]) if mode == "P, bytes" else 0
        return picture
    low, high = {"1": (0, 1), "RGB": ((10, 10, 10), (90, 90, 90))}.get(mode, (10, 90))
    picture = Image.new(mode, (3, 2), high)
    picture.putpixel((0, 0), low)
    picture.info["transparency"] = low
    return picture


MODES = ["RGBA", "LA", "PA", "RGBa", "La", "P", "P, bytes", "P, RGBA palette", "L", "RGB", "1"]


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_transparency(mode):
    found = np.asarray(flatten(transparent_corner(mode), (1, 200, 3)))
    assert found.shape == (2, 3, 3)
    assert found[0, 0].tolist() == [1, 200, 3]
    rest = 255 if mode == "1" else 90
    assert (found.reshape(-1, 3)[1:] == rest).all()


@pytest.mark.parametrize("kind", ["png", "gif", "webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparency_of_files(kind, mode, tmp_path):
    picture = transparent_corner(mode)
    if kind == "webp" or (kind, mode) == ("gif", "LA"):
        picture = picture.convert("RGBA")
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    path = tmp_path / f"a.{kind}"
    picture.save(path, **options)
    for read in (Image.open, load_image):
        found = np.asarray(flatten(read(path), "white"))
        assert found[0, 0].tolist() == [255] * 3 and (found.reshape(-1, 3)[1:] == 90).all()


def png(colour: int, depth: int, key: bytes, row: bytes) -> io.BytesIO:
    """Two pixels of a PNG file with a colour key, which Pillow doesn't write in all depths."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)) + chunk(b"tRNS", key)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("file", "second"),
    [
        (lambda: png(0, 16, struct.pack(">H", 100), struct.pack(">HH", 100, 60)), (60, 60, 60)),
        (lambda: png(0, 8, struct.pack(">H", 10), b"\x0a\x5a"), (90, 90, 90)),
        (lambda: png(0, 2, struct.pack(">H", 0), b"\x10"), (85, 85, 85)),
        (lambda: png(0, 1, struct.pack(">H", 0), b"\x40"), (255, 255, 255)),
        (lambda: png(2, 8, struct.pack(">HHH", 1, 2, 3), bytes([1, 2, 3, 4, 5, 6])), (4, 5, 6)),
        (
            lambda: png(2, 16, struct.pack(">HHH", 256, 512, 768), struct.pack(">HHHHHH", 256, 512, 768, 1024, 0, 0)),
            (4, 0, 0),
        ),
    ],
)
def test_colour_keys_of_png_files_of_every_depth(file, second):
    found = flatten(Image.open(file()), (7, 200, 9))
    assert [found.getpixel((x, 0)) for x in range(2)] == [(7, 200, 9), second]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "RGBX"])
def test_what_is_opaque_comes_back_as_it_is(mode, tmp_path):
    picture = Image.new(mode, (4, 3))
    assert flatten(picture) is picture
    assert flatten(transparent_corner("RGBA"), None).mode == "RGBA"


@pytest.mark.parametrize("background", ["no colour", "", (1, 2), (1, 2, 256), (1, 2, 3, 4), (1.0, 2, 3), 7, True])
def test_a_background_that_is_no_colour(background):
    with pytest.raises(InputError, match="background"):
        flatten(rgba(), background)


def test_a_broken_transparent_picture_is_named(tmp_path):
    path = tmp_path / "icon.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 4), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageError, match="icon.png"):
        flatten(Image.open(path))


def test_the_processor_itself_drops_alpha():
    """It is transformers' processor, which does so: who wants a background flattens first."""
    processor = CLIPImageProcessor()
    np.testing.assert_array_equal(
        processor(rgba())["pixel_values"][0], processor(Image.new("RGB", (16, 16), (200, 0, 0)))["pixel_values"][0]
    )


def test_locks_are_shared_out():
    pictures = [Image.new("L", (1, 1)) for _ in range(200)]
    assert len({id(image_input._lock_of(picture)) for picture in pictures}) > 20


@pytest.mark.parametrize("read", [load_image, lambda path: CLIPImageProcessor()(Image.open(path))])
def test_a_wrong_setting_of_short_cuts_is_no_damaged_picture(read, tmp_path, monkeypatch):
    path = saved(tmp_path / "a.jpg")
    monkeypatch.setenv(machine.VARIABLE, "jpg=fast")
    with pytest.raises(InputError, match=f"^{machine.VARIABLE}") as caught:
        read(path)
    assert not isinstance(caught.value, ImageError)


def test_the_warning_names_the_callers_line_whatever_is_asked_for():
    deep, processor = Image.fromarray(DEEP["I"]), CLIPImageProcessor(size={"height": 9, "width": 9})
    for options in ({}, {"return_tensors": "np"}, {"return_tensors": "np", "do_center_crop": False}):
        with pytest.warns(UserWarning, match="mode I") as caught:
            processor(deep, **options)
        assert caught[0].filename == __file__
