"""Golden pixel values: what the real libraries make of pictures that this file generates.

    python tests/golden/make_images.py hf           transformers 4.37.2, NumPy 1.26, Pillow 13
    python tests/golden/make_images.py torchvision  torchvision 0.29, open_clip 3.3, Pillow 13

Each writes tests/golden/images/<name>.json: the shape, dtype and SHA-256 of every result, or "error".  The pictures are
arithmetic on their coordinates, so no file has to be kept and no decoder can matter.  Sizes are chosen so that Pillow
12 and 13, which take the two resizing passes of tall pictures in different orders, agree.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "images"
SEED = 40503
MODES = ("1", "L", "LA", "P", "P+transparency", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "PA")
DEEP = ("I;16", "I;16B", "I", "F")
SIZES = ((60, 41), (40, 50), (97, 24), (13, 17), (1, 1), (1, 30), (90, 2), (2, 64), (3, 3), (24, 24), (320, 7), (50, 3))
DTYPES = ("uint8", "int32", "int64", "uint16", "bool", "float16", "float32", "float64", "unit16", "unit32", "unit64")
SMALL = {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}


def numbers(*shape):
    """Bytes without a pattern, the same everywhere (an integer hash of the position)."""
    x = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(SEED)
    x = (x ^ (x >> np.uint64(7))) * np.uint64(2654435761)
    x = (x ^ (x >> np.uint64(13))) * np.uint64(1597334677)
    return ((x >> np.uint64(24)) & np.uint64(255)).astype(np.uint8).reshape(shape)


def picture(mode, width, height):
    """A Pillow picture of one mode."""
    if mode == "1":
        return Image.fromarray(numbers(height, width)).point(lambda byte: 255 * (byte > 127)).convert("1", dither=0)
    if mode in ("P", "P+transparency", "PA"):
        image = Image.frombytes("P", (width, height), numbers(height, width).tobytes())
        image.putpalette(numbers(768).tobytes())
        if mode == "P+transparency":
            image.info["transparency"] = 7
        return image.convert("PA") if mode == "PA" else image
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (width, height), numbers(height, width, bands).tobytes())


def deep(mode, width, height):
    """A picture of more than 8 bits, with values within a byte and beyond; negative ones and fractions where it may."""
    values = numbers(height, width).astype(np.int64) * (5 if mode.startswith("I;16") else 3) // 2
    if mode == "I;16B":
        return Image.frombytes(mode, (width, height), values.astype(">u2").tobytes())
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16))
    return Image.fromarray((values - 50).astype(np.int32) if mode == "I" else (values / 2 - 20.25).astype(np.float32))


def array(dtype, height, width, channels=3, first=False):
    """An array [H, W, C] or [C, H, W]; "unit32" is float32 in [0, 1]."""
    pixels = numbers(height, width, channels)
    if dtype.startswith("unit"):
        pixels = (pixels / 255).astype("float" + dtype[4:])
    else:
        pixels = pixels > 127 if dtype == "bool" else pixels.astype(dtype)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if first else pixels


def hf_cases():
    """name -> (images, constructor's keywords, call's keywords)."""
    cases = {}
    for mode in MODES:
        for width, height in ((60, 41), (40, 50)):
            cases[f"mode {mode} {width}x{height}"] = picture(mode, width, height), SMALL, {}
    for mode in DEEP:
        cases[f"deep {mode}"] = deep(mode, 60, 41), SMALL, {}
        cases[f"deep {mode} as it is"] = deep(mode, 30, 36), SMALL, {"do_resize": False}
    for width, height in SIZES:
        cases[f"size {width}x{height}"] = picture("RGB", width, height), SMALL, {}
        cases[f"size {width}x{height} as it is"] = picture("RGB", width, height), SMALL, {"do_resize": False}
    for dtype in DTYPES:
        for first in (False, True):
            for channels in (3, 1):
                mean = {} if channels == 3 else {"image_mean": 0.4, "image_std": [0.3]}
                image = array(dtype, 30, 36, channels, first)
                name = f"array {dtype} {image.shape}"
                cases[name] = image, SMALL, mean
                cases[name + " as it is"] = image, SMALL, {"do_resize": False, **mean}
                cases[name + " raw"] = image, SMALL, {"do_resize": False, "do_rescale": False, **mean}
    rgb, wide = picture("RGB", 60, 41), array("uint8", 30, 44)
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"):
        cases[f"call {step} False"] = rgb, SMALL, {step: False}
        cases[f"init {step} False"] = rgb, {**SMALL, step: False}, {}
        cases[f"call {step} True"] = rgb, {**SMALL, step: False}, {step: True}
    for resample in range(6):
        cases[f"resample {resample}"] = rgb, SMALL, {"resample": resample}
        cases[f"resample {resample} enlarging"] = picture("RGB", 9, 11), SMALL, {"resample": resample}
    sizes = (
        31,
        (31, 22),
        {"height": 22, "width": 31},
        {"shortest_edge": 31},
        {"shortest_edge": 31, "longest_edge": 33},
    )
    for size in (*sizes, {"longest_edge": 31}, {"shortest_edge": 31, "height": 3}, -1):
        cases[f"size= {size}"] = rgb, SMALL, {"size": size}
    for crop in (7, (9, 14), {"height": 30, "width": 16}, 48, 49, (26, 60), (10, 61), {"shortest_edge": 9}):
        cases[f"crop_size= {crop}"] = rgb, SMALL, {"crop_size": crop}
        cases[f"crop_size= {crop} channels first"] = array("float32", 27, 31, 3, True), SMALL, {"crop_size": crop}
    for order in ("channels_first", "channels_last"):
        cases[f"data_format {order}"] = rgb, SMALL, {"data_format": order}
        cases[f"data_format {order} of channels first"] = array("uint8", 30, 44, 3, True), SMALL, {"data_format": order}
        cases[f"input_data_format {order}"] = array("uint8", 3, 3), SMALL, {"input_data_format": order}
        cases[f"input_data_format {order}, 4 channels"] = (
            array("uint8", 30, 36, 4, order == "channels_first"),
            SMALL,
            {"input_data_format": order, "image_mean": [0.1, 0.2, 0.3, 0.4], "image_std": 2},
        )
    for factor in (1 / 127.5, 2, 1, 0.5):
        cases[f"rescale_factor {factor}"] = rgb, SMALL, {"rescale_factor": factor}
        cases[f"rescale_factor {factor} of float64"] = array("float64", 30, 36), SMALL, {"rescale_factor": factor}
    cases["batch of an array"] = np.stack([wide, wide[::-1]]), SMALL, {}
    cases["list of both"] = [rgb, wide, picture("P", 30, 60), wide[:, ::-1]], SMALL, {}
    cases["three rows after more"] = [wide, array("uint8", 3, 40)], SMALL, {}
    cases["defaults"] = picture("RGB", 300, 260), {}, {}
    cases["use_square_size"] = rgb, {**SMALL, "use_square_size": True}, {}
    cases["too few means"] = rgb, SMALL, {"image_mean": [0.5, 0.5]}
    cases["floats beyond"] = array("float32", 30, 36) + np.float32(0.25), SMALL, {}
    cases["negative"] = array("int64", 30, 36) - 9, SMALL, {}
    cases["two dimensions"] = numbers(30, 36), SMALL, {}
    cases["five channels"] = array("uint8", 30, 36, 5), SMALL, {}
    cases["text"] = "a picture", SMALL, {}
    return cases


def torchvision_cases():
    """name -> (picture, profile, our constructor's keywords, (n, open_clip's keywords))."""
    cases = {}
    for mode in MODES:
        for width, height in ((60, 41), (23, 24), (35, 40)):
            image = picture(mode, width, height)
            for profile in ("openai", "open_clip"):
                cases[f"{profile} {mode} {width}x{height}"] = image, profile, {"size": 23, "crop_size": 23}, (23, {})
    for width, height in SIZES:
        for n in (16, 23):
            settings = {"size": n, "crop_size": n}
            cases[f"openai {n} of {width}x{height}"] = picture("RGB", width, height), "openai", settings, (n, {})
    rgb = picture("RGB", 60, 41)
    for mode in ("RGB", "P", "RGBA", "LA"):
        image = picture(mode, 60, 41)
        fit = {"size": {"longest_edge": 32}, "crop_size": 32}
        cases[f"open_clip longest {mode}"] = image, "open_clip", fit, (32, {"resize_mode": "longest"})
        squash = {"size": (32, 32), "crop_size": 32, "resample": 2}
        cases[f"open_clip squash {mode}"] = (
            image,
            "open_clip",
            squash,
            (32, {"resize_mode": "squash", "interpolation": "bilinear"}),
        )
        cover = {"size": 20, "crop_size": (20, 33)}
        cases[f"open_clip cover {mode}"] = image, "open_clip", cover, ((20, 33), {})
    means = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    theirs = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
    cases["open_clip means"] = rgb, "open_clip", {"size": 23, "crop_size": 23, **means}, (23, theirs)
    cases["openai 224"] = picture("RGB", 300, 260), "openai", {}, (224, {})
    cases["open_clip 224"] = picture("RGB", 300, 260), "open_clip", {}, (224, {})
    return cases


def fingerprint(values):
    """What is kept of a result: of a list, of each."""
    if isinstance(values, list):
        return [fingerprint(value) for value in values]
    values = np.ascontiguousarray(values)
    return {
        "shape": list(values.shape),
        "dtype": str(values.dtype),
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }


def make_hf():
    from transformers import CLIPImageProcessor

    golden = {}
    for name, (images, init, call) in hf_cases().items():
        try:
            golden[name] = fingerprint(CLIPImageProcessor(**init)(images, **call)["pixel_values"])
        except (ValueError, TypeError, KeyError) as error:
            golden[name] = "error"
            print(name, "->", type(error).__name__, error)
    return golden


def make_torchvision():
    from open_clip.transform import image_transform
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    golden = {}
    for name, (image, profile, _, (n, keywords)) in torchvision_cases().items():
        if profile == "openai":  # the list in OpenAI's clip.py, _transform
            steps = [Resize(n, interpolation=InterpolationMode.BICUBIC), CenterCrop(n), lambda x: x.convert("RGB")]
            transform = Compose([*steps, ToTensor(), Normalize(mean, std)])
        else:
            transform = image_transform(n, is_train=False, **keywords)
        golden[name] = fingerprint(transform(image).numpy())
    return golden


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    made = {"hf": make_hf, "torchvision": make_torchvision}[sys.argv[1]]()
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in made.items())
    (FOLDER / f"{sys.argv[1]}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
