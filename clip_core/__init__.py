"""The framework-neutral core of triclip: configs, outputs, weights, tokenizers, image processing, checkpoints.

Names are imported on first use, so `import clip_core` stays fast and no framework is ever imported by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

__version__ = "0.1.0"

# public name -> the module that defines it
_HOME = {
    "AddedToken": "text.tokenizer",
    "BatchEncoding": "batch",
    "BatchFeature": "batch",
    "BaseModelOutput": "outputs",
    "BaseModelOutputWithPooling": "outputs",
    "CLIPConfig": "config",
    "CLIPFeatureExtractor": "image.processor",
    "CLIPImageProcessor": "image.processor",
    "CLIPOutput": "outputs",
    "CLIPProcessor": "processor",
    "CLIPResNetVisionConfig": "config",
    "CLIPTextConfig": "config",
    "CLIPTextModelOutput": "outputs",
    "CLIPTokenizer": "text.tokenizer",
    "CLIPTokenizerFast": "text.tokenizer",
    "CLIPVisionConfig": "config",
    "CLIPVisionModelOutput": "outputs",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "FlaxCLIPOutput": "outputs",
    "ImageClassifierOutput": "outputs",
    "ImageError": "errors",
    "InputError": "errors",
    "MissingDependencyError": "errors",
    "ModelOutput": "outputs",
    "PretrainedConfig": "config",
    "openai_tokenize": "text.tokenizer",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .batch import BatchEncoding, BatchFeature
    from .config import CLIPConfig, CLIPResNetVisionConfig, CLIPTextConfig, CLIPVisionConfig, PretrainedConfig
    from .errors import CheckpointError, ConfigError, ImageError, InputError, MissingDependencyError
    from .image.processor import CLIPFeatureExtractor, CLIPImageProcessor
    from .outputs import (
        BaseModelOutput,
        BaseModelOutputWithPooling,
        CLIPOutput,
        CLIPTextModelOutput,
        CLIPVisionModelOutput,
        FlaxCLIPOutput,
        ImageClassifierOutput,
        ModelOutput,
    )
    from .processor import CLIPProcessor
    from .text.tokenizer import AddedToken, CLIPTokenizer, CLIPTokenizerFast, openai_tokenize

__getattr__, __dir__ = lazy_names(__name__, _HOME)
