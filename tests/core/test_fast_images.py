"""Resizing by matrix products gives Pillow's own bytes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_core import CLIPImageProcessor, ImageError, machine
from clip_core.image import fast, resample
from clip_core.image.fast import look_up
from clip_core.image.ops import center_crop, normalize, rescale
from clip_core.image.profiles import PROFILES
from clip_core.image.resample import BITS, FILTER_SUPPORT, packed_pixels, passing

BICUBIC = Image.Resampling.BICUBIC
LENGTHS_ACROSS = resample.LENGTHS_ACROSS


@pytest.fixture
def by_products(monkeypatch):
    """Pictures are resized by products, however quick they are here; gives what was asked of them."""
    monkeypatch.setenv(machine.VARIABLE, "pixels=fast")
    used = []
    ours = resample.resized_planes
    monkeypatch.setattr(resample, "resized_planes", lambda *given: used.append(given) or ours(*given))
    return used


def resized_planes(picture, height, width, box, filter_):
    return resample.resized_planes(packed_pixels(picture), height, width, box, filter_)


def lookup_table(*given):
    return fast.lookup_table(PROFILES["hf"].worked_out, *given)


def noise(mode: str, width: int, height: int, seed: int = 0, hard: bool = False) -> Image.Image:
    """Random bytes; `hard`: only 0 and 255, so that sums overshoot on both sides."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    values = np.where(values > 127, np.uint8(255), np.uint8(0)) if hard else values
    return Image.fromarray(values if mode == "RGB" else np.ascontiguousarray(values[..., 0]))


def across_then_down(picture, height, width, box, filter_):
    """Pillow's two passes one at a time, then the crop, channels first."""
    both = picture.resize((width, picture.height), filter_).resize((width, height), filter_).crop(box)
    pixels = np.asarray(both)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_sizes_filters_and_crops(data):
    draw = data.draw
    width, height = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    new_width, new_height = draw(st.integers(1, 260)), draw(st.integers(1, 260))
    left, top = draw(st.integers(0, new_width - 1)), draw(st.integers(0, new_height - 1))
    box = (left, top, draw(st.integers(left + 1, new_width)), draw(st.integers(top + 1, new_height)))
    filter_ = draw(st.sampled_from(sorted(FILTER_SUPPORT)))
    picture = noise(draw(st.sampled_from(["RGB", "L"])), width, height, draw(st.integers(0, 99)), draw(st.booleans()))
    if width == new_width or height == new_height:  # Pillow leaves that pass out; so does `suits`
        return
    found = resized_planes(picture, new_height, new_width, box, filter_)
    np.testing.assert_array_equal(found, across_then_down(picture, new_height, new_width, box, filter_))


@pytest.mark.parametrize(
    "size", [(640, 480), (481, 640), (640, 426), (1999, 1501), (300, 1200), (1200, 300), (257, 256)]
)
@pytest.mark.parametrize("hard", [False, True])
def test_the_processor_on_large_pictures(size, hard, by_products):
    picture = noise("RGB", *size, hard=hard)
    processor = CLIPImageProcessor()
    found = processor(picture, return_tensors="np")["pixel_values"][0]
    assert len(by_products) == 1, "another way was taken"
    scale = 224 / min(size)
    height, width = (
        (int(224 * size[1] / size[0]), 224) if scale == 224 / size[0] else (224, int(224 * size[0] / size[1]))
    )
    plain = center_crop(np.asarray(picture.resize((width, height), BICUBIC)), 224, 224, "channels_last")
    plain = normalize(rescale(plain, 1 / 255), processor.image_mean, processor.image_std, "channels_last")
    np.testing.assert_array_equal(found, plain.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(640, 480), (481, 641), (300, 1200), (2000, 333), (257, 256)])
@pytest.mark.parametrize("profile", ["openai", "open_clip"])
def test_torchvisions_profiles_on_large_pictures(profile, size, by_products):
    """torchvision's Resize (the longer edge cut to a whole number), CenterCrop (halves rounded to even), ToTensor."""
    picture = noise("RGB", *size)
    processor = CLIPImageProcessor(profile=profile)
    found = processor(picture, return_tensors="np")["pixel_values"][0]
    assert len(by_products) == 1, "another way was taken"
    width, height = (int(224 * edge / min(size)) for edge in size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    plain = np.asarray(picture.resize((width, height), BICUBIC).crop((left, top, left + 224, top + 224)))
    mean, std = (np.array(values, np.float32) for values in (processor.image_mean, processor.image_std))
    plain = (plain.astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(found, plain.transpose(2, 0, 1))


def test_sums_at_the_border_between_two_bytes():
    """A picture of two greys, made so that sums come to halves: float32 alone decides some of them wrongly."""
    picture = noise("L", 400, 300, seed=3)
    # Every byte is tried against the same weights: all sums of a flat picture's neighbours lie close to whole numbers.
    for grey in range(0, 256, 5):
        pixels = np.asarray(picture) // 128 + np.uint8(min(grey, 254))
        flat = Image.fromarray(pixels)
        found = resized_planes(flat, 150, 200, (0, 0, 200, 150), BICUBIC)
        np.testing.assert_array_equal(found, across_then_down(flat, 150, 200, (0, 0, 200, 150), BICUBIC))


def test_doubtful_sums_are_done_again(monkeypatch):
    """Without the second look some bytes are wrong; the bound catches all of them."""
    picture = noise("RGB", 640, 480)
    box = (0, 0, 298, 224)
    want = across_then_down(picture, 224, 298, box, BICUBIC)
    monkeypatch.setattr(np, "flatnonzero", lambda mask: np.arange(0))
    found = resized_planes(picture, 224, 298, box, BICUBIC).copy()
    assert 0 < (found != want).sum() < 100
    monkeypatch.undo()
    np.testing.assert_array_equal(resized_planes(picture, 224, 298, box, BICUBIC), want)


@pytest.mark.parametrize("factors", [(1.0,), resample.PACKED_FACTORS])
def test_weights_are_pillow_s_whole_numbers(factors):
    found = passing(640, 298, 0, 298, BICUBIC, factors, 1, LENGTHS_ACROSS)
    assert np.array_equal(found.weights, np.rint(found.weights))
    assert np.abs(found.weights.sum(1) - 2**BITS).max() <= found.weights.shape[1]
    channels, blocks, inputs, length = found.matrices.shape
    assert channels == len(factors)
    assert found.outputs == blocks * length >= 298 and found.span == (blocks - 1) * found.step + inputs
    for output in range(298):
        block, place = divmod(output, length)
        begin = found.starts[output] - found.low - block * found.step
        for factor, matrices in zip(factors, found.matrices, strict=True):
            matrix = matrices[block, :, place]
            np.testing.assert_array_equal(matrix[begin : begin + 12] * factor * 2.0**BITS, found.weights[output])
            assert np.count_nonzero(matrix) == np.count_nonzero(found.weights[output])


@pytest.mark.parametrize("filter_", [BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.HAMMING])
@pytest.mark.parametrize("size", [350, 640, 2000])
def test_no_order_of_adding_is_off_by_more_than_is_allowed_for(filter_, size):
    found = passing(size, 224, 0, 224, filter_, (1.0,), 1, LENGTHS_ACROSS)
    allowed = 0.5 - float(found.surest)
    random = np.random.default_rng(0)
    weights = found.weights / 2.0**BITS
    worst = 0.0
    for bytes_ in (np.where(weights > 0, 255, 0), *random.integers(200, 256, (300, *weights.shape))):
        products = (bytes_ * weights).astype(np.float32)  # rounded once
        exact = (bytes_ * weights).sum(1)
        for order in (products, products[:, ::-1], products[:, random.permutation(weights.shape[1])]):
            # cumsum adds one after the other, sum in pairs.
            for found_sum in (np.cumsum(order, 1, np.float32)[:, -1], order.sum(1, np.float32)):
                worst = max(worst, np.abs(found_sum - exact).max())
    assert allowed / 100 < worst <= allowed


def test_bytes_become_values_by_arithmetic_only_where_it_is_exact():
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    planes = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)
    exact = lookup_table(3, 1 / 255, mean, std)
    assert exact.arithmetic is not None
    for scale in (1 / 255, 1 / 256, 0.5, None):
        values = lookup_table(3, scale, mean, std)
        assert (values.arithmetic is None) == (scale != 1 / 255)
        plain = normalize(planes if scale is None else rescale(planes, scale), mean, std, "channels_first")
        np.testing.assert_array_equal(look_up(planes, values), plain)
    assert lookup_table(3, 1 / 255, None, None).arithmetic is None


def test_threads_do_not_share_scratch_space():
    pictures = [noise("RGB", 500, 400, seed) for seed in range(2)]
    alone = [resized_planes(picture, 224, 280, (28, 0, 252, 224), BICUBIC).copy() for picture in pictures]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            found = resized_planes(pictures[number], 224, 280, (28, 0, 252, 224), BICUBIC)
            if not np.array_equal(found, alone[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_batch_is_made_in_place_and_equals_single_pictures(short_cuts):
    processor = CLIPImageProcessor(size=64, crop_size=56)
    pictures = [noise("RGB", 300, 260), noise("RGB", 80, 90), noise("L", 400, 300), Image.new("RGB", (40, 300))]
    together = processor(pictures, return_tensors="np")["pixel_values"]
    assert together.shape == (4, 3, 56, 56) and together.dtype == np.float32
    for picture, row in zip(pictures, together, strict=True):
        np.testing.assert_array_equal(processor(picture)["pixel_values"][0], row)
    bytes_ = processor(pictures, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    assert bytes_.dtype == np.uint8


def photograph(path, width, height, **options):
    """A smooth picture with some texture, as a JPEG file."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.stack([np.sin(x / 37 + c) + np.cos(y / 53 - c) + np.sin((x + y) / 11) / 4 for c in range(3)], -1)
    Image.fromarray((127 + 50 * waves).clip(0, 255).astype(np.uint8)).save(path, quality=92, **options)
    return path


@pytest.mark.parametrize("size", [(1000, 750), (747, 1333), (460, 900)])
@pytest.mark.parametrize("crop", [True, False])
def test_reduced_decoding_is_close_and_of_the_same_shape(size, crop, tmp_path, short_cuts):
    path = photograph(tmp_path / "a.jpg", *size)
    exact = CLIPImageProcessor(do_center_crop=crop)(Image.open(path))["pixel_values"][0]
    opened = Image.open(path)
    near = CLIPImageProcessor(do_center_crop=crop, reduced_decoding=True)(opened)["pixel_values"][0]
    assert near.shape == exact.shape
    error = np.abs(near - exact)
    assert 0 < error.mean() < 0.03 and error.max() < 0.5
    # The caller's picture is still itself, unread: reading it is what this spares.
    assert opened.size == size and fast.is_unread(opened)
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(Image.open(path)))


def test_reduced_decoding_leaves_other_pictures_exact(tmp_path):
    exact, reduced = CLIPImageProcessor(), CLIPImageProcessor(reduced_decoding=True)
    small = photograph(tmp_path / "small.jpg", 440, 400)  # not twice as large as needed
    png = tmp_path / "a.png"
    noise("RGB", 900, 700).save(png)
    decoded = Image.open(photograph(tmp_path / "large.jpg", 900, 700))
    decoded.load()
    for picture in (small, png):
        found = reduced(Image.open(picture))["pixel_values"][0]
        np.testing.assert_array_equal(found, exact(Image.open(picture))["pixel_values"][0])
    np.testing.assert_array_equal(reduced(decoded)["pixel_values"][0], exact(decoded)["pixel_values"][0])


def test_reduced_decoding_of_a_turned_picture(tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6
    path = photograph(tmp_path / "a.jpg", 1000, 700, exif=tag)
    settings_ = {"apply_exif_orientation": True, "do_center_crop": False}
    exact = CLIPImageProcessor(**settings_)(Image.open(path))["pixel_values"][0]
    near = CLIPImageProcessor(**settings_, reduced_decoding=True)(Image.open(path))["pixel_values"][0]
    assert exact.shape == near.shape == (3, 320, 224)
    assert np.abs(near - exact).mean() < 0.03


def test_reduced_decoding_is_saved_only_when_chosen(tmp_path):
    CLIPImageProcessor(reduced_decoding=True).save_pretrained(tmp_path)
    assert CLIPImageProcessor.from_pretrained(tmp_path).reduced_decoding is True
    assert "reduced_decoding" not in CLIPImageProcessor().to_dict()


def test_reduced_decoding_of_a_truncated_file_is_an_error(tmp_path):
    path = photograph(tmp_path / "a.jpg", 1000, 700)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ImageError, match="truncated|damaged"):
        CLIPImageProcessor(reduced_decoding=True)(Image.open(path))


def test_a_broken_opened_jpeg_is_named(tmp_path, short_cuts):
    path = photograph(tmp_path / "broken.jpg", 500, 400)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ImageError, match="broken.jpg"):
        CLIPImageProcessor()(Image.open(path))


@pytest.mark.parametrize("kinds", [("file",), ("file", "picture"), ("file", "array", "broken")])
def test_a_folder_s_values_are_the_processor_s(kinds, tmp_path):
    """`Clip` makes a file's values where it decodes it; the same as the image processor in one call."""
    from triclip.pipeline import Clip

    sources, pictures = [], []
    for number, kind in enumerate(kinds * 3):
        path = photograph(tmp_path / f"{number}.jpg", 300 + number, 280)
        picture = Image.open(path)
        picture.load()
        sources.append({"picture": picture, "array": np.asarray(picture)}.get(kind, path))
        if kind == "broken":
            path.write_bytes(path.read_bytes()[:3000])
        else:
            pictures.append(np.asarray(picture) if kind == "array" else picture)
    clip = Clip.__new__(Clip)
    clip.processor, clip.background = type("Processor", (), {"image_processor": CLIPImageProcessor()})(), "white"
    with ThreadPoolExecutor(2) as pool:
        pixels, good, skipped = clip._pixels(sources, True, pool.map)
    np.testing.assert_array_equal(pixels, CLIPImageProcessor()(pictures, return_tensors="np")["pixel_values"])
    assert len(good) == len(pictures) and len(skipped) == len(sources) - len(pictures)
