"""CLIP for PyTorch, with the API that transformers documented in v4.37. The core's public names are re-exported."""

from typing import TYPE_CHECKING, Any

import clip_core

from .adapter import as_transformers
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

    from .encoders import load_encoders

__all__ = [
    *clip_core.__all__,
    "CLIPModel",
    "CLIPPreTrainedModel",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTextTransformer",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "CLIPVisionTransformer",
    "as_transformers",
    "load_encoders",
]


def __getattr__(name: str) -> Any:
    if name == "load_encoders":  # needs the tokenizer and the image processor
        from .encoders import load_encoders

        return load_encoders
    # Re-exported on first use: importing a backend must not cost the tokenizer's and the pipeline's imports.
    if name in clip_core.__all__:
        return getattr(clip_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
