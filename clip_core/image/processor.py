"""CLIPImageProcessor: pictures to pixel values, as transformers 4.37.2 makes them with Pillow, to the bit.

The steps are in `profiles.py`, their arithmetic in `ops.py`, and the reading of pictures in `input.py`.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from ..absent import absent_attribute
from ..batch import BatchFeature
from ..errors import ConfigError, ImageError, InputError
from ..files import write_text
from ..hub import ACCEPTED_ARGUMENTS, HUB_ARGUMENTS, PushToHub, resolve_folder, upload_arguments, upload_message
from ..hub import push_to_hub as _upload
from . import ops
from .input import fetch_image, flatten_images, is_image, load_image, to_array
from .ops import BICUBIC, FIRST
from .profiles import PROFILES, Steps, pixel_batch, pixel_values

__all__ = ["OPENAI_CLIP_MEAN", "OPENAI_CLIP_STD", "CLIPFeatureExtractor", "CLIPImageProcessor", "load_image"]

OPENAI_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
OPENAI_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

CONFIG_NAME = "preprocessor_config.json"
# Keywords of models' and tokenizers' `save_pretrained` that programs pass to image processors too; without effect.
SAVE_ARGUMENTS = ("safe_serialization", "max_shard_size", "is_main_process", "legacy_format", "filename_prefix")
NESTED_CONFIG_NAME = "processor_config.json"  # transformers 5: under the key "image_processor"


class CLIPImageProcessor(PushToHub):
    """Resize, crop, rescale and normalise pictures for CLIP.

    Args:
        do_resize: resize to `size`.
        size: {"shortest_edge": n} (default 224; the other edge keeps the ratio, rounded down) or
            {"height": h, "width": w}, in pixels; an int means the shortest edge.
        resample: the Pillow filter; default bicubic (3).
        do_center_crop: crop the middle to `crop_size`; smaller pictures are padded with zeros.
        crop_size: {"height": h, "width": w} or an int; default 224 x 224.
        do_rescale, rescale_factor: multiply by the factor; default 1/255.
        do_normalize, image_mean, image_std: (x - mean) / std per channel; a number or one for each channel; default
            OpenAI's.
        do_convert_rgb: convert Pillow images to RGB first. Arrays are never converted.
        profile: "hf" (default), "openai" or "open_clip": the library to reproduce, see `profiles.py`.
        apply_exif_orientation: turn Pillow images as their EXIF tag says; default False, as transformers and OpenAI.
        reduced_decoding: True decodes JPEG files that Pillow opened but did not decode yet at 1/2, 1/4 or 1/8 of their
            size if that is no smaller than the resized picture: several times faster for large photographs, but not
            exact: values differ by 0.02 to 0.05 on average, at edges by up to 1 (docs/benchmarks.md measures it).
            Default False. Only in the "hf" profile.
        **kwargs: kept as attributes and saved, as transformers does with keys of other versions.

    Source: transformers 4.37.2, `image_processing_clip.py`. Raises InputError (a ValueError) for impossible settings.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        do_resize: bool = True,
        size: Any = None,
        resample: Any = BICUBIC,
        do_center_crop: bool = True,
        crop_size: Any = None,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | list[float] | None = None,
        image_std: float | list[float] | None = None,
        do_convert_rgb: bool = True,
        *,
        profile: str = "hf",
        apply_exif_orientation: bool = False,
        reduced_decoding: bool = False,
        **kwargs: Any,
    ) -> None:
        self._extra = {key: value for key, value in kwargs.items() if key != "feature_extractor_type"}
        self._processor_class = self._extra.pop("processor_class", None)
        self._extra.pop("image_processor_type", None)
        self.do_resize = do_resize
        self.size = ops.size_dict({"shortest_edge": 224} if size is None else size, "size", square=False)
        if "use_square_size" in kwargs and "shortest_edge" in self.size:
            # KOSMOS-2's files: their shortest edge means both edges, as in transformers.
            self.size = ops.size_dict(self.size["shortest_edge"])
        self.resample = resample
        self.do_center_crop = do_center_crop
        self.crop_size = ops.size_dict(224 if crop_size is None else crop_size, "crop_size")
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = list(OPENAI_CLIP_MEAN) if image_mean is None else image_mean
        self.image_std = list(OPENAI_CLIP_STD) if image_std is None else image_std
        self.do_convert_rgb = do_convert_rgb
        self.profile = profile
        self.apply_exif_orientation = apply_exif_orientation
        self.reduced_decoding = reduced_decoding
        if not isinstance(profile, str) or profile not in PROFILES:
            raise InputError(f"profile: wanted one of {', '.join(PROFILES)}, found {ops.short(profile)}")

    def __getattr__(self, name: str) -> Any:
        # `_extra` itself is absent while unpickling or copying; asking for it must not recurse.
        if name != "_extra" and name in self._extra:
            return self._extra[name]
        raise absent_attribute(self, name, "image_processor")

    # ---- pictures -> pixel values

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(
        self,
        images: Any,
        do_resize: bool | None = None,
        size: Any = None,
        resample: Any = None,
        do_center_crop: bool | None = None,
        crop_size: Any = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | list[float] | None = None,
        image_std: float | list[float] | None = None,
        do_convert_rgb: bool | None = None,
        return_tensors: Any = None,
        data_format: Any = FIRST,
        input_data_format: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Pictures as `pixel_values`.

        Args:
            images: a Pillow image, an array or tensor [H, W, C] or [C, H, W], a batch with N before that, or (nested)
                lists of these. Numbers are 0 to 255; for pictures in [0, 1] pass `do_rescale=False`.
            return_tensors: "np", "pt", "tf" or "jax" for one tensor; None for a list of NumPy arrays.
            data_format: "channels_first" (default) or "channels_last" for the result; None keeps the picture's order.
            input_data_format: the pictures' order; None infers it from the first one (see `infer_channel_format`).
            The others override the constructor's for this call; `apply_exif_orientation` may be given too. Further
            keywords are ignored, as in transformers.
        Returns:
            A mapping with `pixel_values`: float32 [N, C, height, width] with the default steps.
        Raises:
            InputError: invalid settings or types, an empty list. ImageError: an unusable picture.
        """
        steps = self.steps(
            do_resize=do_resize,
            size=size,
            resample=resample,
            do_center_crop=do_center_crop,
            crop_size=crop_size,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            do_normalize=do_normalize,
            image_mean=image_mean,
            image_std=image_std,
            do_convert_rgb=do_convert_rgb,
            data_format=data_format,
            input_data_format=input_data_format,
            apply_exif_orientation=kwargs.get("apply_exif_orientation"),
        )
        pictures = flatten_images(images)
        if return_tensors is None:
            return BatchFeature({"pixel_values": pixel_values(pictures, steps)})
        return BatchFeature({"pixel_values": pixel_batch(pictures, steps)}, tensor_type=return_tensors)

    def steps(self, *, data_format: Any = FIRST, input_data_format: Any = None, **given: Any) -> Steps:
        """One call's settings, checked: arguments of `preprocess` that aren't None override the constructor's."""

        def chosen(name: str) -> Any:
            return getattr(self, name) if given.get(name) is None else given[name]

        def wanted(name: str) -> bool:
            return _flag(chosen(name), name)

        crop = None
        if wanted("do_center_crop"):
            crop = ops.size_dict(chosen("crop_size"), "crop_size")
            if "height" not in crop:
                raise InputError(f"crop_size: wanted the keys 'height' and 'width', found {crop!r}")
        normalise = wanted("do_normalize")
        return Steps(
            size=ops.size_dict(chosen("size"), "size", square=False) if wanted("do_resize") else None,
            resample=_resampling(chosen("resample")),
            crop=crop,
            scale=ops.finite_number(chosen("rescale_factor"), "rescale_factor") if wanted("do_rescale") else None,
            mean=_per_channel(chosen("image_mean"), "image_mean") if normalise else None,
            std=_per_channel(chosen("image_std"), "image_std") if normalise else None,
            convert_rgb=wanted("do_convert_rgb"),
            exif=wanted("apply_exif_orientation"),
            profile=PROFILES[self.profile],
            data_format=ops.channel_format(data_format, "data_format"),
            input_data_format=ops.channel_format(input_data_format, "input_data_format"),
            reduced=wanted("reduced_decoding") and self.profile == "hf",
        )

    def fetch_images(self, image_url_or_urls: str | list[Any]) -> Any:
        """The picture at a URL (http, https), opened; for a (nested) list of URLs a list of pictures.

        Pictures and arrays stay as they are: transformers' processors pass everything through here.

        Raises InputError for anything else, ImageError (an OSError) for what can't be fetched, is no picture or is
        larger than 100 MB.
        """
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(url) for url in image_url_or_urls]
        return image_url_or_urls if is_image(image_url_or_urls) else fetch_image(image_url_or_urls)

    # ---- the steps one at a time, on one array

    def resize(
        self,
        image: np.ndarray,
        size: Any,
        resample: Any = BICUBIC,
        data_format: Any = None,
        input_data_format: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """One array [H, W, C] or [C, H, W] resized to `size` (see the class) by Pillow in 8 bits.

        uint8; a float picture in [0, 1] stays in [0, 1], float32. `data_format` None keeps the order.
        """
        image, source = _array_and_format(image, input_data_format)
        height, width = ops.resized_size(*ops.image_size(image, source), ops.size_dict(size, "size", square=False))
        return _in_format(ops.resize(image, height, width, _resampling(resample), source), data_format, source)

    def center_crop(
        self, image: np.ndarray, size: Any, data_format: Any = None, input_data_format: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """The middle {height, width} pixels of one array, padded with zeros if it is smaller.

        If the number of missing rows or columns is odd, the result has one less than asked for, as in transformers
        4.37.2.
        """
        crop = ops.size_dict(size, "size")
        if "height" not in crop:
            raise InputError(f"size: wanted the keys 'height' and 'width', found {crop!r}")
        image, source = _array_and_format(image, input_data_format)
        return _in_format(ops.center_crop(image, crop["height"], crop["width"], source), data_format, source)

    def rescale(
        self, image: np.ndarray, scale: float, data_format: Any = None, input_data_format: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """image * scale, as float32 (or as `dtype`)."""
        image = to_array(image)
        rescaled = ops.rescale(image, ops.finite_number(scale, "scale"), kwargs.get("dtype", np.float32))
        if data_format is None:
            return rescaled
        _, source = _array_and_format(image, input_data_format)
        return _in_format(rescaled, data_format, source)

    def normalize(
        self,
        image: np.ndarray,
        mean: float | list[float],
        std: float | list[float],
        data_format: Any = None,
        input_data_format: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """(image - mean) / std for each channel of one array, in its own float precision (integers: float32)."""
        image, source = _array_and_format(image, input_data_format)
        return _in_format(ops.normalize(image, mean, std, source), data_format, source)

    # ---- files

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        cache_dir: Any = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: Any = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Self:
        """An image processor from a folder, a hub name or a JSON file.

        Reads transformers 5's `processor_config.json` (key `image_processor`) if there is one, else
        `preprocessor_config.json`, in all their variants.

        Args:
            pretrained_model_name_or_path: a folder, a name on the hub, or the JSON file itself.
            cache_dir, local_files_only, token, revision, subfolder: where to look.
            force_download: accepted without effect; newer files on the hub are always downloaded.
            return_unused_kwargs: also return the keywords that are not settings.
            **kwargs: settings to use instead of the file's.
        Raises:
            FileNotFoundError: no such file. ConfigError: not JSON, or impossible values.
        """
        where = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token, "revision": revision}
        given = {name: value for name, value in where.items() if value not in (None, False)}
        found, unused = cls.get_image_processor_dict(pretrained_model_name_or_path, **given, **kwargs)
        return cls.from_dict(found, **unused)

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """The settings in the file that `from_pretrained` would read, and the keywords left over."""
        where = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
        ignored = (*HUB_ARGUMENTS, *ACCEPTED_ARGUMENTS, "use_fast")
        unused = {key: value for key, value in kwargs.items() if key not in ignored}
        path = Path(pretrained_model_name_or_path)
        if path.is_file():
            return _settings(path), unused
        folder = resolve_folder(pretrained_model_name_or_path, files=(CONFIG_NAME, NESTED_CONFIG_NAME), **where)
        nested = folder / NESTED_CONFIG_NAME
        if nested.is_file() and "image_processor" in _read_json(nested):
            return _settings(nested), unused
        if not (folder / CONFIG_NAME).is_file():
            raise FileNotFoundError(f"{folder}: wanted {CONFIG_NAME}, or {NESTED_CONFIG_NAME} with an image_processor")
        return _settings(folder / CONFIG_NAME), unused

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """An image processor from settings; known keywords override them, `return_unused_kwargs` returns the others."""
        return_unused = kwargs.pop("return_unused_kwargs", False)
        known = vars(CLIPImageProcessor()).keys() | image_processor_dict.keys()
        overrides = {key: value for key, value in kwargs.items() if key in known}
        processor = cls(**{**image_processor_dict, **overrides})
        unused = {key: value for key, value in kwargs.items() if key not in known}
        return (processor, unused) if return_unused else processor

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Any:
        """An image processor from one JSON file."""
        return cls.from_dict(_settings(Path(json_file)))

    def to_dict(self) -> dict[str, Any]:
        """The settings, unknown ones included, as a new dict; triclip's own only if not the default."""
        settings = copy.deepcopy(self._extra)
        settings |= {key: copy.deepcopy(value) for key, value in vars(self).items() if not key.startswith("_")}
        if "height" in self.size:
            # Used up by the constructor; transformers 4 would fail on it for a size without shortest_edge.
            settings.pop("use_square_size", None)
        # Unknown to transformers; without the defaults, files equal those of transformers.
        if settings["profile"] == "hf":
            del settings["profile"]
        for name in ("apply_exif_orientation", "reduced_decoding"):
            if not settings[name]:
                del settings[name]
        return settings | {"image_processor_type": "CLIPImageProcessor"}

    def to_json_string(self) -> str:
        """The settings as JSON, keys sorted."""
        settings = self.to_dict()
        if self._processor_class is not None:
            settings["processor_class"] = self._processor_class
        return json.dumps(settings, indent=2, sort_keys=True, default=_jsonable) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Write the settings to a JSON file; a crash leaves the old file or the new one, whole."""
        write_text(Path(json_file_path), self.to_json_string())

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write `preprocessor_config.json`, which transformers 4 and 5 read; returns the paths of the written files.

        Settings nested in an existing `processor_config.json` of transformers 5 would override it, so they are
        replaced as well.

        Args:
            save_directory: made if missing.
            push_to_hub: also upload the written files, by `repo_id` (default: the folder's name), `commit_message`,
                `private`, `token`, `revision`, `create_pr` and the like.
        Raises:
            NotADirectoryError: `save_directory` is a file. TypeError: an unknown keyword.
        """
        upload = upload_arguments(kwargs, save_directory, SAVE_ARGUMENTS)
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder}: wanted a folder, found a file")
        folder.mkdir(parents=True, exist_ok=True)
        written = [CONFIG_NAME]
        nested = folder / NESTED_CONFIG_NAME
        if nested.is_file() and "image_processor" in (others := _read_json(nested)):
            written.append(NESTED_CONFIG_NAME)
            others["image_processor"] = json.loads(self.to_json_string())
            write_text(nested, json.dumps(others, indent=2, sort_keys=True) + "\n")
        self.to_json_file(folder / CONFIG_NAME)
        if push_to_hub:
            upload.setdefault("commit_message", upload_message(self))
            _upload(folder, files=written, **upload)
        return [str(folder / name) for name in written]

    def _set_processor_class(self, name: str) -> None:
        # Saved as "processor_class", by which transformers' AutoProcessor finds the class.
        self._processor_class = name

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


class CLIPFeatureExtractor(CLIPImageProcessor):
    """The old name of CLIPImageProcessor. Warns (FutureWarning), as in transformers 4.37."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("CLIPFeatureExtractor is deprecated: use CLIPImageProcessor", FutureWarning, stacklevel=2)
        super().__init__(*args, **kwargs)


# ---- helpers


def _flag(value: Any, name: str) -> bool:
    """A boolean setting; None and 0 are False, as in transformers."""
    if value is None or isinstance(value, (bool, np.bool_)) or (isinstance(value, Real) and value in (0, 1)):
        return bool(value)
    raise InputError(f"{name}: wanted True or False, found {ops.short(value)}")


def _resampling(resample: Any) -> Image.Resampling:
    if resample is None:
        return ops.BILINEAR
    try:
        if not isinstance(resample, (bool, np.bool_)):
            return Image.Resampling(resample)
    except ValueError:
        pass
    names = ", ".join(f"{item.value} ({item.name.lower()})" for item in Image.Resampling)
    raise InputError(f"resample: wanted one of {names}, found {ops.short(resample)}")


def _per_channel(value: Any, name: str) -> Any:
    """One number, or a list of numbers, checked."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    ops.channel_values(value, len(value) if hasattr(value, "__len__") else 1, name)
    return value


def _array_and_format(image: Any, input_data_format: Any) -> tuple[np.ndarray, str]:
    image = to_array(image)
    if image.ndim != 3:
        raise ImageError(f"image: wanted 3 dimensions, found shape {image.shape}")
    source = ops.channel_format(input_data_format, "input_data_format")
    return image, source or ops.infer_channel_format(image)


def _in_format(image: np.ndarray, data_format: Any, source: str) -> np.ndarray:
    return ops.to_channel_format(image, ops.channel_format(data_format, "data_format") or source, source)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise ConfigError(f"{path}: wanted JSON, found something else ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: wanted a JSON object, found {type(found).__name__}")
    return found


def _settings(path: Path) -> dict[str, Any]:
    """The image processor's settings in a file, checked."""
    found = _read_json(path)
    found = found.get("image_processor", found)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: wanted an object under image_processor, found {type(found).__name__}")
    try:
        CLIPImageProcessor(**found).steps()
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return found


def _jsonable(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"a setting of type {type(value).__name__} can't be saved as JSON: {value!r}")
