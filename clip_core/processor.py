"""CLIPProcessor: a tokenizer and an image processor as one, as transformers documented it in v4.37."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from pathlib import Path
from typing import Any

from .batch import BatchEncoding
from .errors import InputError
from .image.processor import CLIPImageProcessor

# Keywords of one call that concern pictures alone; a tokenizer would refuse them.
IMAGE_ARGUMENTS = {"apply_exif_orientation", *inspect.signature(CLIPImageProcessor.preprocess).parameters} - {
    "self",
    "images",
    "return_tensors",
    "kwargs",
}


class CLIPProcessor:
    """Text to `input_ids` and `attention_mask`, pictures to `pixel_values`.

    Args:
        image_processor: a CLIPImageProcessor.
        tokenizer: a CLIPTokenizer or CLIPTokenizerFast.
        feature_extractor: the old name of `image_processor`; warns.
    Raises InputError (a ValueError) when either is missing or can't do its part.

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
            **kwargs: to the tokenizer (`padding`, `truncation`, …) and the image processor (`do_rescale`, …), each
                getting its own.
        Returns:
            `input_ids` and `attention_mask` when there is text, `pixel_values` when there are pictures.
        Raises InputError when neither is given.
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
        """The names of what a call returns: the tokenizer's, then the image processor's."""
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
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Both parts from a folder or a hub name.

        Args:
            pretrained_model_name_or_path: the folder or name.
            use_fast: CLIPTokenizerFast (default) or, when false, CLIPTokenizer.
            subfolder, revision, cache_dir, local_files_only, token: where to look.
            **kwargs: to both parts' `from_pretrained`.
        Raises FileNotFoundError when a part has no files there.
        """
        from .tokenizer import CLIPTokenizer, CLIPTokenizerFast

        tokenizer_class = CLIPTokenizerFast if kwargs.pop("use_fast", True) else CLIPTokenizer
        return_unused = kwargs.pop("return_unused_kwargs", False)
        image_processor, unused = CLIPImageProcessor.from_pretrained(
            pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs
        )
        processor = cls(image_processor, tokenizer_class.from_pretrained(pretrained_model_name_or_path, **kwargs))
        return (processor, unused) if return_unused else processor

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> list[str]:
        """Write both parts' files, which transformers 4 and 5 read; returns their paths."""
        for part in (self.image_processor, self.tokenizer):
            if hasattr(part, "_set_processor_class"):
                part._set_processor_class(type(self).__name__)
        written = [*self.image_processor.save_pretrained(save_directory)]
        written += self.tokenizer.save_pretrained(save_directory) or ()
        return [str(Path(path)) for path in written]

    def to_dict(self) -> dict[str, Any]:
        """What a `processor_config.json` would hold besides the two parts."""
        return {"processor_class": type(self).__name__}

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        return f"{type(self).__name__}:\n- image_processor: {self.image_processor!r}\n- tokenizer: {self.tokenizer!r}\n"
