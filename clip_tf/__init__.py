"""CLIP for Keras 3 on TensorFlow, with the API that transformers documented in v4.37. The core's names are re-exported.

Keras must use TensorFlow (KERAS_BACKEND=tensorflow, which is its default).
"""

from typing import TYPE_CHECKING, Any

import clip_core

from . import _backend  # first: explains errors that Keras would not
from .classification import TFCLIPForImageClassification
from .modeling import (
    TFCLIPModel,
    TFCLIPPreTrainedModel,
    TFCLIPTextModel,
    TFCLIPTextModelWithProjection,
    TFCLIPTextTransformer,
    TFCLIPVisionModel,
    TFCLIPVisionModelWithProjection,
    TFCLIPVisionTransformer,
)

if TYPE_CHECKING:
    from clip_core import *  # noqa: F403

# v4.37's names of the outputs
_OUTPUTS = {
    "TFBaseModelOutput": "BaseModelOutput",
    "TFBaseModelOutputWithPooling": "BaseModelOutputWithPooling",
    "TFCLIPOutput": "CLIPOutput",
    "TFCLIPTextModelOutput": "CLIPTextModelOutput",
    "TFCLIPVisionModelOutput": "CLIPVisionModelOutput",
}

__all__ = [
    *clip_core.__all__,
    *_OUTPUTS,
    "TFCLIPForImageClassification",
    "TFCLIPModel",
    "TFCLIPPreTrainedModel",
    "TFCLIPTextModel",
    "TFCLIPTextModelWithProjection",
    "TFCLIPTextTransformer",
    "TFCLIPVisionModel",
    "TFCLIPVisionModelWithProjection",
    "TFCLIPVisionTransformer",
]


def __getattr__(name: str) -> Any:
    # Re-exported on first use, so that importing a backend does not import the tokenizers.
    if name in clip_core.__all__ or name in _OUTPUTS:
        return getattr(clip_core, _OUTPUTS.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
