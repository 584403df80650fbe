"""CLIPProcessor: a tokenizer and an image processor in one, as transformers v4.37 documents it."""

from __future__ import annotations

import copy
import inspect
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from . import hub
from .absent import absent_attribute
from .batch import BatchEncoding
from .errors import InputError
from .files import write_text
from .image.processor import CLIPImageProcessor
from .text.files import check_regular, read_json_object
from .text.tokenizer import CLIPTokenizer, CLIPTokenizerFast

PROCESSOR_CONFIG_NAME = "processor_config.json"

# Keywords of a call that are only for pictures; a tokenizer would refuse them.
IMAGE_ARGUMENTS = {"apply_exif_orientation", *inspect.signature(CLIPImageProcessor.preprocess).parameters} - {
    "self",
    "images",
    "return_tensors",
    "kwargs",
}


class CLIPProcessor(hub.PushToHub):
    """Text to `input_ids` and `attention_mask`, pictures to `pixel_values`.

    Args:
        image_processor: a CLIPImageProcessor.
        tokenizer: a CLIPTokenizer or CLIPTokenizerFast.
        feature_extractor: the old name of `image_processor`; warns.
    Raises InputError (a ValueError) if either is missing or of another kind.

    Source: transformers 4.37.2, `processing_clip.py`.
    """

    attributes = ["image_processor", "tokenizer"]
    image_processor_class = "CLIPImageProcessor"
    tokenizer_class = ("CLIPTokenizer", "CLIPTokenizerFast")

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        if "feature_extractor" in kwargs:
            warnings.warn("feature_extractor is deprecated: use image_processor", FutureWarning, stacklevel=2)
            old = kwargs.pop("feature_extractor")
            image_processor = old if image_processor is None else image_processor
        if kwargs:
            raise TypeError(f"CLIPProcessor takes image_processor and tokenizer, found {', '.join(sorted(kwargs))}")
        if not hasattr(image_processor, "preprocess"):
            raise InputError(f"image_processor: wanted a CLIPImageProcessor, found {type(image_processor).__name__}")
        if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
            raise InputError(f"tokenizer: wanted a CLIPTokenizer, found {type(tokenizer).__name__}")
        self.image_processor = image_processor
        self.tokenizer = tokenizer

    def __call__(
        self, text: Any = None, images: Any = None, return_tensors: Any = None, **kwargs: Any
    ) -> BatchEncoding:
        """Encode text, pictures, or both.

        Args:
            text: a string, a list of strings, or pre-tokenised words with `is_split_into_words=True`.
            images: a picture or a list of them, see `CLIPImageProcessor.preprocess`.
            return_tensors: "np", "pt", "tf", "jax" or None.
            **kwargs: for the tokenizer (`padding`, `truncation`, …) and the image processor (`do_rescale`, …).
        Returns:
            `input_ids` and `attention_mask` with text, `pixel_values` with pictures.
        Raises InputError if neither is given.
        """
        if text is None and images is None:
            raise InputError("text, images: wanted at least one of the two, found neither")
        encoding = BatchEncoding()
        if text is not None:
            for_text = {key: value for key, value in kwargs.items() if key not in IMAGE_ARGUMENTS}
            encoding = self.tokenizer(text, return_tensors=return_tensors, **for_text)
        if images is not None:
            pixels = self.image_processor(images, return_tensors=return_tensors, **kwargs)["pixel_values"]
            encoding["pixel_values"] = pixels
        return encoding

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The tokenizer's `decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """The names in a call's result: the tokenizer's, then the image processor's."""
        return list(dict.fromkeys([*self.tokenizer.model_input_names, *self.image_processor.model_input_names]))

    @property
    def feature_extractor(self) -> Any:
        """The old name of `image_processor`; warns."""
        warnings.warn("feature_extractor is deprecated: use image_processor", FutureWarning, stacklevel=2)
        return self.image_processor

    @property
    def feature_extractor_class(self) -> str:
        """The old name of `image_processor_class`; warns."""
        warnings.warn("feature_extractor_class is deprecated: use image_processor_class", FutureWarning, stacklevel=2)
        return self.image_processor_class

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Both parts from a folder or a hub name.

        Args:
            pretrained_model_name_or_path: the folder or name.
            use_fast: CLIPTokenizerFast (default) or, when false, CLIPTokenizer.
            subfolder, revision, cache_dir, local_files_only, token: where to look; `force_download` changes nothing.
            return_unused_kwargs: also return keywords unknown to both parts.
            **kwargs: to both parts' `from_pretrained`.
        Raises FileNotFoundError if a part's files are missing.
        """
        given = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token, "revision": revision}
        kwargs |= {name: value for name, value in given.items() if value}
        return_unused = kwargs.pop("return_unused_kwargs", False)
        tokenizer_class = CLIPTokenizerFast if kwargs.pop("use_fast", True) else CLIPTokenizer
        both: Any = CLIPImageProcessor.from_pretrained(
            pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs
        )
        image_processor, unused = both
        tokenizer = tokenizer_class.from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor_dict, _ = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        processor = cls.from_args_and_dict([image_processor, tokenizer], processor_dict)
        return (processor, unused) if return_unused else processor  # type: ignore[return-value]  # when asked for

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(the contents of processor_config.json or {}, the keywords that do not locate it)."""
        where = {name: kwargs.pop(name) for name in hub.HUB_ARGUMENTS if name in kwargs}
        kwargs = {name: value for name, value in kwargs.items() if name not in hub.ACCEPTED_ARGUMENTS}
        folder = hub.resolve_folder(
            pretrained_model_name_or_path, **{**where, "subfolder": where.get("subfolder") or None}
        )
        path = folder if folder.is_file() else folder / PROCESSOR_CONFIG_NAME
        return (read_json_object(path) if check_regular(path) else {}), kwargs

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """A processor from its parts and the further contents of processor_config.json.

        Args:
            args: the parts, in the order of `attributes`.
            processor_dict: the constructor's further arguments; unknown names are left out.
            return_unused_kwargs: also return unused keywords.
            **kwargs: attributes to set on the processor.
        """
        return_unused = kwargs.pop("return_unused_kwargs", False)
        processor = cls(*args, **{k: v for k, v in processor_dict.items() if k in cls._own_arguments()})
        for name in [name for name in kwargs if hasattr(processor, name)]:
            setattr(processor, name, kwargs.pop(name))
        return (processor, kwargs) if return_unused else processor

    @classmethod
    def _own_arguments(cls) -> list[str]:
        """A subclass's constructor arguments, without the parts."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return [name for name in named if name not in ("self", *cls.attributes)]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write both parts' files, which transformers 4 and 5 read; returns their paths.

        Args:
            push_to_hub: upload these files afterwards, through huggingface_hub.
            **kwargs: `repo_id` (default: the folder's name), `commit_message`, `private`, `token`, …: see
                `clip_core.hub.push_to_hub`.
        """
        upload = hub.upload_arguments(kwargs, save_directory)
        for part in (self.image_processor, self.tokenizer):
            if hasattr(part, "_set_processor_class"):
                part._set_processor_class(type(self).__name__)
        written = [str(path) for path in self.image_processor.save_pretrained(save_directory)]
        written += [str(path) for path in self.tokenizer.save_pretrained(save_directory) or ()]
        if set(self.to_dict()) != {"processor_class"}:
            written.append(str(Path(save_directory) / PROCESSOR_CONFIG_NAME))
            self.to_json_file(written[-1])
        if push_to_hub:
            upload = {"commit_message": hub.upload_message(self), **upload}
            hub.push_to_hub(save_directory, files=[Path(path).name for path in written], **upload)
        return written

    def to_dict(self) -> dict[str, Any]:
        """The contents of `processor_config.json` without the two parts: a subclass's further arguments."""
        own = {name: getattr(self, name) for name in self._own_arguments() if hasattr(self, name)}
        return {**copy.deepcopy(own), "processor_class": type(self).__name__}

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Write `to_dict` as JSON."""
        write_text(json_file_path, self.to_json_string())

    def __getattr__(self, name: str) -> Any:
        raise absent_attribute(self, name, "processor")

    def __repr__(self) -> str:
        return f"{type(self).__name__}:\n- image_processor: {self.image_processor!r}\n- tokenizer: {self.tokenizer!r}\n"
