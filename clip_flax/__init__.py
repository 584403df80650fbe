"""CLIP for JAX and Flax Linen, with the API that transformers documented in v4.37, and its core's public names."""

from typing import TYPE_CHECKING, Any

import clip_core

from . import _backend  # first: names the extra where JAX or Flax is missing
from .bridge import FlaxPreTrainedModel
from .classification import FlaxCLIPForImageClassification, FlaxCLIPForImageClassificationModule
from .modeling import (
    FlaxCLIPAttention,
    FlaxCLIPEncoder,
    FlaxCLIPEncoderLayer,
    FlaxCLIPLayerCollection,
    FlaxCLIPMLP,
    FlaxCLIPModel,
    FlaxCLIPModule,
    FlaxCLIPPreTrainedModel,
    FlaxCLIPTextEmbeddings,
    FlaxCLIPTextModel,
    FlaxCLIPTextModelWithProjection,
    FlaxCLIPTextModelWithProjectionModule,
    FlaxCLIPTextModule,
    FlaxCLIPTextPreTrainedModel,
    FlaxCLIPTextTransformer,
    FlaxCLIPVisionEmbeddings,
    FlaxCLIPVisionModel,
    FlaxCLIPVisionModelWithProjection,
    FlaxCLIPVisionModelWithProjectionModule,
    FlaxCLIPVisionModule,
    FlaxCLIPVisionPreTrainedModel,
    FlaxCLIPVisionTransformer,
)

if TYPE_CHECKING:
    from clip_core import *  # noqa: F403

__all__ = [
    *clip_core.__all__,
    "FlaxCLIPAttention",
    "FlaxCLIPEncoder",
    "FlaxCLIPEncoderLayer",
    "FlaxCLIPForImageClassification",
    "FlaxCLIPForImageClassificationModule",
    "FlaxCLIPLayerCollection",
    "FlaxCLIPMLP",
    "FlaxCLIPModel",
    "FlaxCLIPModule",
    "FlaxCLIPPreTrainedModel",
    "FlaxCLIPTextEmbeddings",
    "FlaxCLIPTextModel",
    "FlaxCLIPTextModelWithProjection",
    "FlaxCLIPTextModelWithProjectionModule",
    "FlaxCLIPTextModule",
    "FlaxCLIPTextPreTrainedModel",
    "FlaxCLIPTextTransformer",
    "FlaxCLIPVisionEmbeddings",
    "FlaxCLIPVisionModel",
    "FlaxCLIPVisionModelWithProjection",
    "FlaxCLIPVisionModelWithProjectionModule",
    "FlaxCLIPVisionModule",
    "FlaxCLIPVisionPreTrainedModel",
    "FlaxCLIPVisionTransformer",
    "FlaxPreTrainedModel",
]


def __getattr__(name: str) -> Any:
    # Re-exported on first use, so that importing a backend does not import the tokenizers.
    if name in clip_core.__all__:
        return getattr(clip_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
