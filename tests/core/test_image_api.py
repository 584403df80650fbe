"""CLIPImageProcessor's names, positions and checks, as transformers 4.37.2's class has them."""

from __future__ import annotations

import http.server
import inspect
import io
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from clip_core import CLIPFeatureExtractor, CLIPImageProcessor, ConfigError, ImageError, InputError, machine
from tests.core.test_hub_upload import commits, hub  # noqa: F401

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))

# What `inspect.signature` says of transformers 4.37.2's methods, without self, annotations and **kwargs.
STEPS = ["do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize"]
STEPS += ["image_mean", "image_std", "do_convert_rgb"]
FORMATS = ["data_format", "input_data_format"]
POSITIONS = {
    "__init__": STEPS,
    "__call__": ["images"],
    "preprocess": ["images", *STEPS, "return_tensors", *FORMATS],
    "resize": ["image", "size", "resample", *FORMATS],
    "center_crop": ["image", "size", *FORMATS],
    "rescale": ["image", "scale", *FORMATS],
    "normalize": ["image", "mean", "std", *FORMATS],
    "fetch_images": ["image_url_or_urls"],
    "from_pretrained": [
        "pretrained_model_name_or_path", "cache_dir", "force_download", "local_files_only", "token", "revision",
    ],
    "get_image_processor_dict": ["pretrained_model_name_or_path"],
    "from_dict": ["image_processor_dict"],
    "from_json_file": ["json_file"],
    "to_dict": [],
    "to_json_string": [],
    "to_json_file": ["json_file_path"],
    "save_pretrained": ["save_directory", "push_to_hub"],
    "push_to_hub": [
        "repo_id", "use_temp_dir", "commit_message", "private", "token", "max_shard_size", "create_pr",
        "safe_serialization", "revision", "commit_description", "tags",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("cls", [CLIPImageProcessor, CLIPFeatureExtractor])
def test_positions_are_those_of_transformers(name, cls):
    if cls is CLIPFeatureExtractor and name == "__init__":
        return  # it passes on what it is given
    kinds = inspect.Parameter
    found = [
        parameter.name
        for parameter in inspect.signature(getattr(cls, name)).parameters.values()
        if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY) and parameter.name != "self"
    ]
    assert found == POSITIONS[name]


def test_positional_arguments_are_taken(tmp_path):
    processor = CLIPImageProcessor(True, {"shortest_edge": 30}, 2, True, {"height": 24, "width": 20})
    named = CLIPImageProcessor(size=30, resample=2, crop_size=(24, 20))
    np.testing.assert_array_equal(processor(PICTURE)["pixel_values"], named(PICTURE)["pixel_values"])
    given = processor.preprocess(PICTURE, False, None, None, False, None, True, 1 / 127.5, False)
    want = np.asarray(PICTURE).transpose(2, 0, 1) * (1 / 127.5)
    np.testing.assert_array_equal(given["pixel_values"][0], want.astype(np.float32))
    processor.save_pretrained(tmp_path, False)
    assert CLIPImageProcessor.from_pretrained(tmp_path, None, False, True, None, "main").size == {"shortest_edge": 30}


def test_names_without_a_meaning_say_what_to_use():
    for processor in (CLIPImageProcessor(), CLIPImageProcessor(unknown=3)):
        assert not hasattr(processor, "register_for_auto_class")
        with pytest.raises(AttributeError, match="register_for_auto_class.*auto class"):
            processor.register_for_auto_class("AutoImageProcessor")
        with pytest.raises(AttributeError, match="nothing"):
            processor.nothing  # noqa: B018


def test_saving_takes_what_programs_pass(tmp_path):
    processor = CLIPImageProcessor()
    for given in ({"safe_serialization": False}, {"token": None, "private": True, "repo_id": "a/b"}):
        assert processor.save_pretrained(tmp_path, **given) == [str(tmp_path / "preprocessor_config.json")]
    with pytest.raises(TypeError, match="colour"):
        processor.save_pretrained(tmp_path, colour=3)


@pytest.mark.parametrize("nested", [False, True])
def test_uploading(hub, tmp_path, nested):  # noqa: F811
    pytest.importorskip("huggingface_hub")
    if nested:
        (tmp_path / "clip").mkdir()
        (tmp_path / "clip" / "processor_config.json").write_text('{"image_processor": {}}')
    (tmp_path / "clip").mkdir(exist_ok=True)
    (tmp_path / "clip" / "others.txt").write_text("stays here")
    hub(
        """
        from clip_core import CLIPImageProcessor
        processor = CLIPImageProcessor(size=99)
        processor.save_pretrained("clip", True, token="secret")
        processor.push_to_hub("me/other", commit_message="Hello", token="secret")
        """
    )
    first, second = commits()
    assert first[1] == "someone/clip" and first[3] == "Upload processor"
    assert set(first[5]) == {"preprocessor_config.json"} | ({"processor_config.json"} if nested else set())
    assert json.loads(first[5]["preprocessor_config.json"])["size"] == {"shortest_edge": 99}
    assert second[1] == "me/other" and second[3] == "Hello" and set(second[5]) == {"preprocessor_config.json"}


# ---- numbers

HUGE = 10**400
WRONG = [
    ("size", 100_000),
    ("size", {"height": 10**6, "width": 10**6}),
    ("size", {"shortest_edge": 5, "longest_edge": HUGE}),
    ("size", HUGE),
    ("size", 0),
    ("size", [224]),
    ("size", {"height": 3}),
    ("crop_size", {"height": 10**9, "width": 10**9}),
    ("crop_size", -1),
    ("crop_size", 2.5),
    ("crop_size", {"shortest_edge": 224}),
    ("resample", True),
    ("resample", 3.5),
    ("resample", "cubic"),
    ("rescale_factor", HUGE),
    ("rescale_factor", 1e300),
    ("rescale_factor", float("inf")),
    ("rescale_factor", None),
    ("rescale_factor", [0.1]),
    ("image_mean", [0.1, HUGE, 0.3]),
    ("image_mean", "0.5"),
    ("image_mean", [[0.1], [0.2], [0.3]]),
    ("image_std", [0.1, 0.0, 0.3]),
    ("image_std", 1e-300),
    ("image_std", float("nan")),
    ("do_resize", "false"),
    ("do_center_crop", [1]),
    ("do_rescale", 7),
    ("do_normalize", "yes"),
    ("do_convert_rgb", {}),
    ("apply_exif_orientation", "no"),
    ("reduced_decoding", "no"),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda part: str(part)[:30])
def test_a_number_that_can_t_be_names_file_and_key(key, value, tmp_path):
    path = tmp_path / "preprocessor_config.json"
    if value is not None:  # in a file, null means the default of some
        path.write_text(json.dumps({key: value}))
        with pytest.raises(ConfigError, match=f"preprocessor_config.json: {key}"):
            CLIPImageProcessor.from_pretrained(tmp_path)
        path.write_text(json.dumps({"image_processor": {key: value}}))
        with pytest.raises(ConfigError, match=f"preprocessor_config.json: {key}"):
            CLIPImageProcessor.from_pretrained(path)
    with pytest.raises(InputError, match=f"^{key}"):
        CLIPImageProcessor(**{key: value})(PICTURE)
    if value is not None and key not in ("reduced_decoding",):
        with pytest.raises(InputError, match=f"^{key}"):
            CLIPImageProcessor()(PICTURE, **{key: value})


def test_numbers_of_thousands_of_digits(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"size": ' + "9" * 5000 + "}")
    with pytest.raises(ConfigError, match="preprocessor_config.json"):
        CLIPImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="^size"):
        CLIPImageProcessor(size=10**5000)


def test_a_size_that_only_some_pictures_make_too_large(short_cuts):
    processor = CLIPImageProcessor(do_center_crop=False)
    with pytest.raises(ImageError, match="pixels after resizing, found 224 x 14560000 of a picture of 1 x 65000"):
        processor(Image.new("RGB", (1, 65000)))
    with pytest.raises(ImageError, match="pixels after resizing"):
        processor(np.zeros((65000, 1, 3), np.float32))
    assert processor(Image.new("RGB", (1, 650)))["pixel_values"][0].shape == (3, 145600, 224)


def test_methods_check_their_numbers_too():
    processor, array = CLIPImageProcessor(), np.zeros((4, 4, 3), np.uint8)
    for call in (
        lambda: processor.resize(array, HUGE),
        lambda: processor.resize(array, 9, resample=99),
        lambda: processor.center_crop(array, 10**6),
        lambda: processor.rescale(array, float("nan")),
        lambda: processor.rescale(array, HUGE),
        lambda: processor.normalize(array, [0, 0, 0], [1, 1, 0]),
        lambda: processor.normalize(array, HUGE, 1),
    ):
        with pytest.raises(InputError):
            call()


@pytest.mark.parametrize("value", [True, False, 0, 1, None, np.bool_(True)])
def test_switches_take_what_is_true_or_false(value):
    values = CLIPImageProcessor(size=24, crop_size=24, do_normalize=value)(PICTURE)["pixel_values"][0]
    assert bool(values.min() < 0) == bool(value)


# ---- fetching


@pytest.fixture
def web(tmp_path):
    """A web server on loopback with a picture and a text; its address."""
    PICTURE.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("no picture")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=str(tmp_path))

        def log_message(self, *given):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_fetching_pictures(web, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    processor = CLIPImageProcessor()
    assert processor.fetch_images(f"{web}/a.png").tobytes() == PICTURE.tobytes()
    nested = processor.fetch_images([f"{web}/a.png", [f"{web}/a.png"]])
    assert nested[1][0].size == (80, 60)
    array = np.zeros((2, 2, 3), np.uint8)
    kept = processor.fetch_images([PICTURE, [array]])  # as transformers' processors ask of every picture
    assert kept[0] is PICTURE and kept[1][0] is array
    for wrong in (f"{web}/a.txt", f"{web}/none.png", "http://127.0.0.1:1/a.png"):
        with pytest.raises(OSError, match=wrong.replace("http://", "")):
            processor.fetch_images(wrong)
    for wrong in ("file:///etc/hosts", "a.png", None, 3, {"url": web}):
        with pytest.raises(InputError, match="url"):
            processor.fetch_images(wrong)
    monkeypatch.setattr("clip_core.image.input.MOST_FETCHED", 100)
    with pytest.raises(ImageError, match="100 bytes"):
        processor.fetch_images(f"{web}/a.png")


# ---- processors

CODE = """
import io, sys, warnings
import numpy as np
from PIL import Image
from clip_core import CLIPImageProcessor, machine
numbers = np.random.default_rng(0)
for size in ((640, 480), (481, 641), (300, 1200), (700, 300)):
    for smooth in (False, True):
        picture = Image.fromarray(numbers.integers(0, 256, (*size[::-1], 3), np.uint8))
        picture = picture.resize((9, 7)).resize(size) if smooth else picture
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95)
        found = CLIPImageProcessor()(Image.open(file))["pixel_values"][0]
        short = 224 / min(size)
        wide = int(224 * size[0] / size[1]) if size[0] > size[1] else 224
        high = int(224 * size[1] / size[0]) if size[1] > size[0] else 224
        pixels = np.asarray(Image.open(file).resize((wide, high), Image.Resampling.BICUBIC))
        top, left = (high - 224) // 2, (wide - 224) // 2
        values = (pixels[top : top + 224, left : left + 224].astype(np.float64) * (1 / 255)).astype(np.float32)
        processor = CLIPImageProcessor()
        want = (values - np.float32(processor.image_mean)) / np.float32(processor.image_std)
        assert np.array_equal(found, want.transpose(2, 0, 1)), (size, smooth)
print(machine.choice("pixels"))
"""


def hidden() -> dict[str, str]:
    """The environment in which NumPy and its BLAS do without the newer instructions of this processor."""
    features = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    older = {"SSE3", "SSSE3", "SSE41", "POPCNT", "SSE42", "X86_V2", "AVX", "F16C", "FMA3", "AVX2", "X86_V3"}
    newer = [name for name in features if name not in older and not name.startswith(("NEON", "ASIMD", "VX", "VSX"))]
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(newer), "OPENBLAS_CORETYPE": "Haswell"}


@pytest.mark.parametrize("instructions", ["all", "hidden"])
@pytest.mark.parametrize("way", ["all", "none", ""])
def test_pixels_are_equal_with_and_without_newer_instructions(instructions, way):
    environment = os.environ | {machine.VARIABLE: way} | (hidden() if instructions == "hidden" else {})
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if way:
        assert done.stdout.strip() == str(way == "all")


def test_each_step_is_measured_at_its_first_use_only(monkeypatch):
    monkeypatch.delenv(machine.VARIABLE, raising=False)
    monkeypatch.setattr(machine, "_found", {})
    asked = []
    monkeypatch.setattr(machine, "quicker", lambda *given, **options: asked.append(given) or 2.0)
    file = io.BytesIO()
    PICTURE.resize((640, 480)).save(file, "JPEG")
    for _ in range(3):
        CLIPImageProcessor()([PICTURE, Image.open(file)])
    assert 1 <= len(asked) <= 2 and machine.choice("pixels")
