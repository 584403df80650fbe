"""Pixel values against transformers 4.37.2, torchvision and open_clip (golden hashes); short cuts against steps."""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_core.errors import ImageError, InputError
from clip_core.image import fast, ops
from clip_core.image.processor import CLIPFeatureExtractor, CLIPImageProcessor
from clip_core.image.profiles import fast_values, plain_values

GOLDEN = Path(__file__).parent.parent / "golden"
spec = importlib.util.spec_from_file_location("make_images", GOLDEN / "make_images.py")
make_images = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_images)

HF = json.loads((GOLDEN / "images" / "hf.json").read_text())
HF_CASES = make_images.hf_cases()
TORCHVISION = json.loads((GOLDEN / "images" / "torchvision.json").read_text())
TORCHVISION_CASES = make_images.torchvision_cases()
# transformers reads one pixel as a single channel and fails on its three means; it can only be one RGB pixel.
BETTER_THAN_AN_ERROR = {"size 1x1", "size 1x1 as it is"}

rgb = make_images.picture("RGB", 60, 41)


@pytest.mark.parametrize("name", HF_CASES)
@pytest.mark.filterwarnings("ignore:images. found (values in|mode)")
def test_hf_profile_equals_transformers_to_the_bit(name, short_cuts):
    images, init, call = HF_CASES[name]
    if HF[name] == "error" and name not in BETTER_THAN_AN_ERROR:
        with pytest.raises(InputError):
            CLIPImageProcessor(**init)(images, **call)
        return
    found = CLIPImageProcessor(**init)(images, **call)["pixel_values"]
    if name in BETTER_THAN_AN_ERROR:
        assert found[0].shape[0] == 3
        return
    assert make_images.fingerprint(found) == HF[name]


@pytest.mark.parametrize("name", TORCHVISION_CASES)
def test_openai_and_open_clip_profiles_equal_theirs_to_the_bit(name, short_cuts):
    image, profile, init, _ = TORCHVISION_CASES[name]
    found = CLIPImageProcessor(profile=profile, **init)(image)["pixel_values"][0]
    assert make_images.fingerprint(found) == TORCHVISION[name]


def test_profiles_differ_where_the_libraries_do():
    def values(profile, image, **kwargs):
        processor = CLIPImageProcessor(profile=profile, size=23, crop_size=23, **kwargs)
        return processor(image, return_tensors="np")["pixel_values"]

    palette = make_images.picture("P", 60, 41)
    assert not np.array_equal(values("hf", palette), values("openai", palette))
    # 23 columns of 26 (the difference, 3, is 3 mod 4): torchvision's crop starts one pixel later.
    columns = make_images.picture("RGB", 26, 23)
    assert not np.allclose(values("hf", columns), values("openai", columns), atol=1e-3)
    np.testing.assert_allclose(
        values("hf", make_images.picture("RGB", 25, 23)),
        values("openai", make_images.picture("RGB", 25, 23)),
        atol=1e-6,
    )
    # Only open_clip scales to cover a crop that isn't square.
    oblong = {"size": 20, "crop_size": (20, 33)}
    ours = CLIPImageProcessor(profile="open_clip", **oblong)(make_images.picture("RGB", 30, 40))["pixel_values"][0]
    theirs = CLIPImageProcessor(profile="openai", **oblong)(make_images.picture("RGB", 30, 40))["pixel_values"][0]
    assert ours.shape == theirs.shape == (3, 20, 33)
    assert not np.array_equal(ours, theirs)


def both_ways(picture, **kwargs):
    processor = CLIPImageProcessor(**kwargs)
    steps = processor.steps()
    array = np.array(picture)
    return fast_values(picture, "channels_last", steps), plain_values(
        array if array.ndim == 3 else array[..., None], "channels_last", steps
    )


edges = st.one_of(st.integers(1, 120), st.integers(1, 6), st.integers(300, 700))
targets = st.one_of(
    st.integers(1, 90), st.fixed_dictionaries({"height": st.integers(1, 90), "width": st.integers(1, 90)})
)


@settings(deadline=None, max_examples=150)
@given(
    width=edges,
    height=edges,
    mode=st.sampled_from(["RGB", "L"]),
    size=targets,
    crop=targets,
    resample=st.integers(0, 5),
    resize=st.booleans(),
    cropping=st.booleans(),
    rescale=st.booleans(),
    normalize=st.booleans(),
    factor=st.sampled_from([1 / 255, 1 / 127.5, 2]),
)
def test_short_cuts_equal_the_plain_steps(
    width, height, mode, size, crop, resample, resize, cropping, rescale, normalize, factor
):
    quick, plain = both_ways(
        make_images.picture(mode, width, height),
        size=size,
        crop_size=crop,
        resample=resample,
        do_resize=resize,
        do_center_crop=cropping,
        do_rescale=rescale,
        do_normalize=normalize,
        rescale_factor=factor,
        image_mean=0.4 if mode == "L" else None,
        image_std=0.3 if mode == "L" else None,
    )
    assert quick.dtype == plain.dtype
    np.testing.assert_array_equal(quick, plain)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320), (200, 700), (700, 200), (37, 1000), (1000, 37)])
@pytest.mark.parametrize("resample", sorted(fast.FILTER_SUPPORT))
def test_short_cuts_equal_the_plain_steps_on_photograph_shapes(width, height, resample, short_cuts):
    quick, plain = both_ways(make_images.picture("RGB", width, height), size=96, crop_size=96, resample=resample)
    np.testing.assert_array_equal(quick, plain)


def test_strips_of_columns_equal_whole_columns(monkeypatch):
    picture = make_images.picture("RGB", 30, 50)
    whole = picture.resize((31, 60), Image.Resampling.BICUBIC).crop((2, 7, 29, 51))
    monkeypatch.setattr(fast, "MAX_COLUMN_PIXELS", 60 * 4)
    strips = fast.resize_and_crop(picture, 60, 31, (2, 7, 29, 51), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.array(strips), np.array(whole))


def test_an_unknown_pillow_is_not_taken_apart(monkeypatch):
    asked = []
    resize = Image.Image.resize
    monkeypatch.setattr(fast, "PILLOW", fast.NEWEST_KNOWN_PILLOW + 1)
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *args: asked.append(size) or resize(self, size, *args)
    )
    CLIPImageProcessor(size=20, crop_size=20)(rgb)
    assert asked == [(29, 20)]


def test_order_of_passes_by_pillow_version():
    tall = Image.new("RGB", (100, 300))
    assert fast.passes_down_first(tall.size, 40, 60, pillow=13)
    assert not fast.passes_down_first(tall.size, 40, 60, pillow=12)
    assert not fast.passes_down_first(tall.size, 220, 60, pillow=13)  # 80 rows fewer, 40 columns fewer
    assert int(PIL.__version__.split(".")[0]) == fast.PILLOW


def test_threads_give_the_same_and_a_picture_may_come_twice(tmp_path, short_cuts):
    path = tmp_path / "a.png"
    rgb.save(path)
    processor = CLIPImageProcessor(size=24, crop_size=20)
    lazy = Image.open(path)
    pictures = [lazy, rgb, lazy, *(make_images.picture("RGB", 30 + n, 40) for n in range(9)), lazy]
    together = processor(pictures, return_tensors="np")["pixel_values"]
    alone = [processor(picture)["pixel_values"][0] for picture in pictures]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_tall_and_wide_pictures_take_bounded_memory():
    for width, height in ((1, 9000), (9000, 1)):
        values = CLIPImageProcessor()(make_images.picture("RGB", width, height))["pixel_values"][0]
        assert values.shape == (3, 224, 224)


# ---- what may be given


def test_nested_lists_are_flattened():
    processor = CLIPImageProcessor(size=24, crop_size=20)
    array = make_images.array("uint8", 30, 44)
    flat = processor([rgb, array, array], return_tensors="np")["pixel_values"]
    nested = processor([[rgb, array], [array]], return_tensors="np")["pixel_values"]
    batches = processor([[rgb], np.stack([array, array])], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(nested, flat)
    np.testing.assert_array_equal(batches, flat)
    np.testing.assert_array_equal(processor(array.tolist())["pixel_values"][0], processor(array)["pixel_values"][0])


class DeviceTensor:
    """A torch tensor as the image processor sees one."""

    def __init__(self, array, dtype=None):
        self.array, self.dtype, self.shape = array, dtype or array.dtype, array.shape

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return DeviceTensor(self.array.astype(np.float32))

    def numpy(self):
        assert str(self.dtype) != "torch.bfloat16"
        return self.array


class ArrayLike:
    """A JAX array as the image processor sees one."""

    def __init__(self, array):
        self.array, self.dtype, self.shape = array, array.dtype, array.shape

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize("wrap", [DeviceTensor, ArrayLike, lambda a: DeviceTensor(a, dtype="torch.bfloat16")])
def test_tensors_are_read_as_arrays(wrap):
    processor = CLIPImageProcessor(size=24, crop_size=20)
    array = make_images.array("uint8", 30, 44)
    want = processor(array)["pixel_values"][0]
    for given_ in (wrap(array), [wrap(array)], wrap(array[None])):
        np.testing.assert_array_equal(processor(given_)["pixel_values"][0], want)


def test_one_row_is_channels_last_and_can_be_told_otherwise():
    processor = CLIPImageProcessor(size=24, crop_size=20)
    row = make_images.picture("RGB", 40, 1)
    column = make_images.picture("RGB", 1, 40)
    assert processor(row)["pixel_values"][0].shape == (3, 20, 20)
    np.testing.assert_array_equal(
        processor(row)["pixel_values"][0], processor(column)["pixel_values"][0].transpose(0, 2, 1)
    )
    three_rows = make_images.array("uint8", 3, 40)
    told = processor(three_rows, input_data_format="channels_last")["pixel_values"][0]
    assert not np.array_equal(told, processor(three_rows)["pixel_values"][0])


def test_arguments_are_not_changed():
    array = make_images.array("float32", 30, 36)
    before = array.copy()
    call = {"size": {"shortest_edge": 24}, "crop_size": {"height": 30, "width": 50}, "image_mean": [0.5, 0.4, 0.3]}
    processor = CLIPImageProcessor()
    settings_before = processor.to_dict()
    processor([array], **call)
    np.testing.assert_array_equal(array, before)
    assert call == {
        "size": {"shortest_edge": 24},
        "crop_size": {"height": 30, "width": 50},
        "image_mean": [0.5, 0.4, 0.3],
    }
    assert processor.to_dict() == settings_before


@pytest.mark.parametrize("images", [[], [[]], None, "a.jpg", 3, [None], [rgb, "a.jpg"], {}, object(), np.float32(1.0)])
def test_what_is_no_picture(images):
    with pytest.raises(InputError, match="images"):
        CLIPImageProcessor()(images)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((1, 2, 3, 4, 3), np.uint8),
        np.zeros((4, 4, 3), complex),
        np.array([["a"]]),
        np.full((4, 4, 3), None),
        np.full((4, 4, 3), np.nan, np.float32),
        np.full((4, 4, 3), np.inf),
        np.full((4, 4, 3), 256),
        np.zeros((4, 4, 2), np.uint8),
        [[1, 2], [3]],
    ],
)
def test_arrays_that_are_no_picture(array):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="images"):
            CLIPImageProcessor()(array)


def test_empty_list_names_the_argument():
    with pytest.raises(InputError, match="images: wanted at least one picture"):
        CLIPImageProcessor()([])


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "I;16B"])
@pytest.mark.parametrize("profile", ["hf", "openai", "open_clip"])
def test_deep_modes_convert_as_pillow_does(mode, profile):
    processor = CLIPImageProcessor(size=24, crop_size=24, profile=profile)
    shallow, deep = Image.new(mode, (30, 30), 7), Image.new(mode, (30, 30), 3000)
    if profile != "hf" and mode.startswith("I;16") and int(PIL.__version__.split(".")[0]) < 11:
        with pytest.raises(ImageError, match=mode):  # Pillow 10 doesn't resize them, nor does torchvision on it
            processor(shallow)
        return
    np.testing.assert_array_equal(
        processor(shallow)["pixel_values"][0], processor(Image.new("L", (30, 30), 7))["pixel_values"][0]
    )
    with pytest.warns(UserWarning, match=mode):
        found = processor(deep)["pixel_values"][0]
    np.testing.assert_array_equal(found, processor(Image.new("L", (30, 30), 255))["pixel_values"][0])


# ---- settings


@pytest.mark.parametrize(
    ("settings_", "argument"),
    [
        ({"size": 0}, "size"),
        ({"size": {"height": 3}}, "size"),
        ({"size": "224"}, "size"),
        ({"size": {"shortest_edge": 22.5}}, "size"),
        ({"crop_size": {"height": -3, "width": 3}}, "crop_size"),
        ({"crop_size": True}, "crop_size"),
        ({"resample": 17}, "resample"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"image_mean": [0.1, 0.2]}, "image_mean"),
        ({"image_std": [0.1, 0.2, 0]}, "image_std"),
        ({"image_std": ["a", "b", "c"]}, "image_std"),
        ({"data_format": "NCHW"}, "data_format"),
        ({"input_data_format": "none"}, "input_data_format"),
    ],
)
def test_impossible_settings_name_the_argument(settings_, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        CLIPImageProcessor()(rgb, **settings_)


def test_unknown_profile():
    with pytest.raises(InputError, match="profile"):
        CLIPImageProcessor(profile="timm")


def test_unknown_keywords_of_a_call_are_ignored_as_in_transformers():
    processor = CLIPImageProcessor(size=24, crop_size=20)
    np.testing.assert_array_equal(
        processor(rgb, padding=True, max_length=3)["pixel_values"][0], processor(rgb)["pixel_values"][0]
    )


def test_data_format_none_keeps_the_order():
    processor = CLIPImageProcessor(size=24, crop_size=(20, 18))
    assert processor(rgb, data_format=None)["pixel_values"][0].shape == (20, 18, 3)
    first = make_images.array("uint8", 30, 44, first=True)
    assert processor(first, data_format=None)["pixel_values"][0].shape == (3, 20, 18)


def test_results_of_different_shapes_make_a_list_but_no_tensor():
    processor = CLIPImageProcessor(size=24, do_center_crop=False)
    pictures = [rgb, make_images.picture("RGB", 30, 30)]
    assert [array.shape for array in processor(pictures)["pixel_values"]] == [(3, 24, 35), (3, 24, 24)]
    with pytest.raises(InputError, match="shape"):
        processor(pictures, return_tensors="np")


def test_unprocessed_bytes_stay_bytes():
    values = CLIPImageProcessor(do_rescale=False, do_normalize=False)(rgb, return_tensors="np")["pixel_values"]
    assert values.dtype == np.uint8


def test_scaled_floats_warn_once_a_call():
    processor = CLIPImageProcessor(size=24, crop_size=20)
    scaled = make_images.array("unit32", 30, 36)
    for images in (scaled, [scaled, scaled], [rgb, scaled]):
        with pytest.warns(UserWarning, match="do_rescale=False") as caught:
            processor(images)
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor(scaled, do_rescale=False)
        processor(make_images.array("float32", 30, 36))
        processor(np.zeros((30, 36, 3), np.uint8))
        CLIPImageProcessor(profile="openai")(scaled)  # it is made bytes first, as torchvision does


def test_exif_orientation_is_opt_in(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    rgb.save(path, exif=exif)
    turned = rgb.transpose(Image.Transpose.ROTATE_270)
    for profile in ("hf", "openai"):
        processor = CLIPImageProcessor(size=24, crop_size=20, profile=profile)
        as_stored, upright = (processor(image)["pixel_values"][0] for image in (rgb, turned))
        np.testing.assert_array_equal(processor(Image.open(path))["pixel_values"][0], as_stored)
        np.testing.assert_array_equal(
            processor(Image.open(path), apply_exif_orientation=True)["pixel_values"][0], upright
        )
        opted_in = CLIPImageProcessor(size=24, crop_size=20, profile=profile, apply_exif_orientation=True)
        np.testing.assert_array_equal(opted_in(Image.open(path))["pixel_values"][0], upright)


# ---- the steps as methods


def test_methods_equal_the_whole():
    processor = CLIPImageProcessor(size=24, crop_size=20)
    array = make_images.array("uint8", 30, 44)
    image = processor.resize(array, {"shortest_edge": 24})
    assert image.shape == (24, 35, 3)
    image = processor.center_crop(image, {"height": 20, "width": 20})
    image = processor.rescale(image, 1 / 255)
    image = processor.normalize(image, processor.image_mean, processor.image_std, data_format="channels_first")
    np.testing.assert_array_equal(image, processor(array)["pixel_values"][0])


def test_methods_take_and_give_channel_orders():
    processor = CLIPImageProcessor()
    first = make_images.array("uint8", 3, 5, first=True)  # [3, 3, 5]
    assert processor.resize(first, 6, data_format="channels_last").shape == (6, 10, 3)
    assert processor.center_crop(first, 2, data_format="channels_last").shape == (2, 2, 3)
    assert processor.rescale(first, 0.5, data_format="channels_last").shape == (3, 5, 3)
    with pytest.raises(ImageError):
        processor.normalize(np.zeros((4, 4), np.uint8), 0, 1)


def test_sizes_of_long_edges_round_down():
    assert ops.resized_size(41, 60, {"shortest_edge": 24}) == (24, 35)  # 35.12
    assert ops.resized_size(500, 333, {"shortest_edge": 224}) == (336, 224)  # 336.3
    assert ops.resized_size(1, 1000, {"shortest_edge": 224}) == (224, 224000)


def test_feature_extractor_is_the_old_name():
    with pytest.warns(FutureWarning, match="CLIPImageProcessor"):
        old = CLIPFeatureExtractor(size=24, crop_size=20)
    assert isinstance(old, CLIPImageProcessor)
    np.testing.assert_array_equal(
        old(rgb)["pixel_values"][0], CLIPImageProcessor(size=24, crop_size=20)(rgb)["pixel_values"][0]
    )
    assert old.to_dict()["image_processor_type"] == "CLIPImageProcessor"
