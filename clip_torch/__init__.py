"""CLIP for PyTorch, with the API that transformers documented in v4.37. The core's public names are re-exported."""

from typing import TYPE_CHECKING, Any

import clip_core

from . import _backend  # first: names the extra where PyTorch is missing
from .adapter import as_transformers
from .classification import CLIPForImageClassification
from .modeling import (
    CLIPModel,
    CLIPPreTrainedModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextTransformer,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    CLIPVisionTransformer,
)

if TYPE_CHECKING:
    from clip_core import *  # noqa: F403

__all__ = [
    *clip_core.__all__,
    "CLIPForImageClassification",
    "CLIPModel",
    "CLIPPreTrainedModel",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTextTransformer",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "CLIPVisionTransformer",
    "as_transformers",
]


def __getattr__(name: str) -> Any:
    # Re-exported on first use, so that importing a backend does not import the tokenizers.
    if name in clip_core.__all__:
        return getattr(clip_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
