"""Settings files in all their variants, and pictures from the disk."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from clip_core.errors import ConfigError, ImageError, InputError
from clip_core.image.processor import CLIPImageProcessor, load_image

picture = Image.fromarray(np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8))

# As found in OpenAI's repositories: the type of before 4.26, ints, no rescale fields.
OLD = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
# What transformers 5.23's CLIPProcessor.save_pretrained writes.
NESTED = {
    "image_processor": {
        "crop_size": {"height": 20, "width": 20},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 24},
    },
    "processor_class": "CLIPProcessor",
}


def write(folder, settings, name="preprocessor_config.json"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(settings))
    return folder


def read(folder, settings):
    return CLIPImageProcessor.from_pretrained(write(folder, settings))


def test_old_file_means_the_defaults(tmp_path):
    assert read(tmp_path, OLD).to_dict() == CLIPImageProcessor().to_dict()


def test_missing_fields_take_their_defaults(tmp_path):
    assert read(tmp_path, {}).to_dict() == CLIPImageProcessor().to_dict()


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({"size": 99}, {"size": {"shortest_edge": 99}}),
        ({"size": {"shortest_edge": 99}}, {"size": {"shortest_edge": 99}}),
        ({"size": {"shortest_edge": 99, "longest_edge": None}}, {"size": {"shortest_edge": 99}}),
        ({"size": {"height": 99, "width": 98}}, {"size": {"height": 99, "width": 98}}),
        ({"size": [99, 98]}, {"size": {"height": 99, "width": 98}}),
        ({"crop_size": 99}, {"crop_size": {"height": 99, "width": 99}}),
        ({"crop_size": {"height": 99, "width": 98}}, {"crop_size": {"height": 99, "width": 98}}),
        ({"image_mean": 0.5, "image_std": 0.5}, {"image_mean": 0.5, "image_std": 0.5}),
        ({"image_mean": None}, {"image_mean": [0.48145466, 0.4578275, 0.40821073]}),
        ({"resample": 2, "do_rescale": False}, {"resample": 2, "do_rescale": False}),
        ({"rescale_factor": 0.5, "do_convert_rgb": False}, {"rescale_factor": 0.5, "do_convert_rgb": False}),
        ({"image_processor_type": "CLIPImageProcessorFast"}, {"image_processor_type": "CLIPImageProcessor"}),
        ({"size": 99, "use_square_size": False}, {"size": {"height": 99, "width": 99}}),
        ({"size": {"height": 9, "width": 8}, "use_square_size": True}, {"size": {"height": 9, "width": 8}}),
        ({"unknown": {"a": [1]}, "resize": 3}, {"unknown": {"a": [1]}, "resize": 3}),
    ],
)
def test_variants_of_fields(tmp_path, change, want):
    processor = read(tmp_path, OLD | change)
    assert {key: processor.to_dict()[key] for key in want} == want
    again = CLIPImageProcessor.from_pretrained(processor.save_pretrained(tmp_path / "again")[0])
    assert again.to_dict() == processor.to_dict()
    # A key of the file never hides a method.
    assert processor.resize(np.zeros((4, 4, 3), np.uint8), 8).shape == (8, 8, 3)


def test_use_square_size_is_not_saved_beside_the_size_that_it_made(tmp_path):
    processor = read(tmp_path, {"size": 99, "use_square_size": True})  # transformers 4 fails on its own such file
    assert processor.use_square_size is True
    assert "use_square_size" not in processor.to_dict()


def test_unknown_keys_are_attributes():
    processor = CLIPImageProcessor(unknown=3)
    assert processor.unknown == 3
    with pytest.raises(AttributeError, match="nothing"):
        processor.nothing  # noqa: B018


def test_nested_file_of_transformers_5(tmp_path):
    write(tmp_path, NESTED, "processor_config.json")
    processor = CLIPImageProcessor.from_pretrained(tmp_path)
    assert processor.size == {"shortest_edge": 24}
    assert processor.to_dict() == NESTED["image_processor"]
    # It was written last, by a version that leaves an old file beside it alone.
    write(tmp_path, OLD)
    assert CLIPImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 24}


def test_processor_config_without_an_image_processor_is_passed_over(tmp_path):
    write(tmp_path, {"processor_class": "CLIPProcessor"}, "processor_config.json")
    assert read(tmp_path, OLD | {"size": 33}).size == {"shortest_edge": 33}


def test_saving_over_a_nested_file_replaces_it(tmp_path):
    write(tmp_path, NESTED | {"other": 1}, "processor_config.json")
    CLIPImageProcessor(size=48).save_pretrained(tmp_path)
    assert CLIPImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 48}
    assert json.loads((tmp_path / "processor_config.json").read_text())["other"] == 1
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"shortest_edge": 48}


def test_round_trips(tmp_path):
    processor = CLIPImageProcessor(
        size=(30, 40), crop_size=20, image_std=[1, 2, 3], profile="open_clip", apply_exif_orientation=True, foo="bar"
    )
    assert processor.save_pretrained(tmp_path / "new" / "folder") == [
        str(tmp_path / "new" / "folder" / "preprocessor_config.json")
    ]
    for again in (
        CLIPImageProcessor.from_pretrained(tmp_path / "new" / "folder"),
        CLIPImageProcessor.from_pretrained(str(tmp_path / "new"), subfolder="folder"),
        CLIPImageProcessor.from_json_file(tmp_path / "new" / "folder" / "preprocessor_config.json"),
        CLIPImageProcessor.from_dict(processor.to_dict()),
        CLIPImageProcessor.from_dict(json.loads(processor.to_json_string())),
        pickle.loads(pickle.dumps(processor)),
        copy.deepcopy(processor),
    ):
        assert again.to_dict() == processor.to_dict()
        assert (again.profile, again.apply_exif_orientation, again.foo) == ("open_clip", True, "bar")
    assert "CLIPImageProcessor" in repr(processor)
    assert list(tmp_path.rglob("*.tmp")) == []


def test_default_file_is_what_transformers_4_wrote():
    assert json.loads(CLIPImageProcessor().to_json_string()) == {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 224},
    }


def test_overrides_and_unused_keywords(tmp_path):
    write(tmp_path, OLD)
    processor, unused = CLIPImageProcessor.from_pretrained(
        tmp_path,
        size=33,
        do_normalize=False,
        foo=1,
        revision="main",
        use_fast=False,
        force_download=False,
        return_unused_kwargs=True,
    )
    assert processor.size == {"shortest_edge": 33}
    assert processor.do_normalize is False
    assert unused == {"foo": 1}
    assert CLIPImageProcessor.from_pretrained(tmp_path, profile="openai", foo=1).profile == "openai"


def test_settings_of_one_object_are_its_own():
    one, other = CLIPImageProcessor(), CLIPImageProcessor()
    one.image_mean[0] = 9
    one.size["shortest_edge"] = 9
    one.to_dict()["crop_size"]["height"] = 9
    assert other.to_dict() == CLIPImageProcessor().to_dict()
    assert one.crop_size == {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "wanted JSON"),
        ("", "wanted JSON"),
        ("[1]", "wanted a JSON object"),
        ('{"size": "big"}', "size"),
        ('{"rescale_factor": NaN}', "rescale_factor"),
        ('{"image_mean": [0.1, NaN, 0.3]}', "image_mean"),
        ('{"crop_size": {"height": -1, "width": 3}}', "crop_size"),
        ('{"image_processor": 3}', "image_processor"),
        ('{"profile": "timm"}', "profile"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(text)
    for where in (tmp_path, path):
        with pytest.raises(ConfigError, match=message) as caught:
            CLIPImageProcessor.from_pretrained(where)
        assert str(path) in str(caught.value)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json"):
        CLIPImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        CLIPImageProcessor.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        CLIPImageProcessor().save_pretrained(tmp_path / "file")


# ---- load_image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_load_image_gives_the_pixels_in_the_files_mode(tmp_path, mode):
    path = tmp_path / "a.tiff"
    picture.convert(mode).save(path)
    for where in (path, str(path)):
        loaded = load_image(where)
        assert loaded.mode == mode
        path.touch()
        np.testing.assert_array_equal(np.array(loaded), np.array(picture.convert(mode)))


def test_load_image_passes_pictures_and_arrays_through():
    array = np.zeros((3, 4, 3), np.uint8)
    assert load_image(picture) is picture
    assert load_image(array) is array


def test_loaded_pictures_can_be_turned_after_the_file_is_closed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.tiff", "a.webp"):
        picture.save(tmp_path / name, exif=exif)
        loaded = load_image(tmp_path / name)
        values = CLIPImageProcessor(do_resize=False, do_center_crop=False, apply_exif_orientation=True)(loaded)
        assert values["pixel_values"][0].shape == (3, 40, 30), name


def test_text_called_jpg(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    with pytest.raises(ImageError, match="notes.jpg: wanted a picture"):
        load_image(path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(ImageError, match="empty.png: .*empty file"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "webp"])
def test_every_truncation_is_an_error_or_a_picture(tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    picture.save(path)
    data = path.read_bytes()
    kinds = set()
    for length in range(1, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        try:
            load_image(path)
            kinds.add("picture")  # some formats end in bytes that don't matter
        except ImageError as error:
            assert f"half.{suffix}" in str(error)
            kinds.add("error")
    assert "error" in kinds


def test_damaged_bytes_are_an_error_or_a_picture(tmp_path):
    random = np.random.default_rng(0)
    for suffix in ("jpg", "png", "gif", "tiff", "webp"):
        path = tmp_path / f"damaged.{suffix}"
        picture.save(path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[random.integers(0, len(data), 5)] = random.integers(0, 256, 5)
            path.write_bytes(damaged.tobytes())
            try:
                load_image(path)
            except ImageError as error:
                assert f"damaged.{suffix}" in str(error)


def test_truncated_lazy_picture_is_an_error_of_the_processor(tmp_path):
    path = tmp_path / "half.png"
    picture.save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageError, match="half.png"):
        CLIPImageProcessor()(Image.open(path))


def test_folder_and_missing_file(tmp_path):
    with pytest.raises(ImageError, match="found a folder"):
        load_image(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        load_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a.png"]])
def test_other_types(value):
    with pytest.raises(InputError, match="images"):
        load_image(value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    picture.save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30 * 40 // 3)
    with pytest.raises(ImageError, match="bomb.png"):
        load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).size == (40, 30)


def test_no_pixels():
    with pytest.raises(ImageError, match="0 x 5"):
        load_image(Image.new("RGB", (0, 5)))
    for profile in ("hf", "openai"):
        with pytest.raises(ImageError):
            CLIPImageProcessor(profile=profile)(Image.new("RGB", (0, 5)))


def test_no_framework_is_imported():
    code = (
        "import sys, numpy as np; from clip_core.image.processor import CLIPImageProcessor;"
        "CLIPImageProcessor()(np.zeros((9, 9, 3), np.uint8), return_tensors='np');"
        "print({'torch', 'tensorflow', 'jax', 'keras', 'flax', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
