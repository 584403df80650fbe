"""Models with OpenAI's and open_clip's interface: `encode_image`, `encode_text`, a transform, a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.image.processor import CLIPImageProcessor
from clip_core.text.tokenizer import CLIPTokenizerFast
from clip_torch.modeling import CLIPModel


class Encoders(NamedTuple):
    """The result of a loading function for evaluation programs such as CLIP_benchmark, in their order."""

    model: EncoderModel
    transform: Transform
    tokenizer: Tokenizer


def load_encoders(name_or_path: Any, **kwargs: Any) -> Encoders:
    """Load a model, its picture transform and its tokenizer, shaped as `open_clip` gives them.

    Args:
        name_or_path: as for `CLIPModel.from_pretrained`, which also gets `kwargs`; of these `subfolder`, `revision`,
            `cache_dir`, `local_files_only` and `token` also locate the processor's files.

    Returns `(model, transform, tokenizer)`:
        model: `encode_image(pixels [B, C, H, W])` and `encode_text(ids [B, S])` give [B, P], normalised only with
            `normalize=True`; `model(pixels, ids)` gives both sides' logits.
        transform: a picture -> float32 [C, H, W], by the model's own preprocessing.
        tokenizer: a text or several -> int64 [B, context length], truncated and padded by the model's tokenizer.
    """
    model = CLIPModel.from_pretrained(name_or_path, **kwargs)
    where = {k: kwargs[k] for k in ("subfolder", "revision", "cache_dir", "local_files_only", "token") if k in kwargs}
    tokenizer = CLIPTokenizerFast.from_pretrained(name_or_path, **where)
    length = model.config.text_config.max_position_embeddings
    transform = Transform(CLIPImageProcessor.from_pretrained(name_or_path, **where))
    return Encoders(EncoderModel(model).eval(), transform, Tokenizer(tokenizer, length))


class EncoderModel(nn.Module):
    """A CLIPModel with the methods of OpenAI's class."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    @property
    def logit_scale(self) -> nn.Parameter:
        """The stored logarithm."""
        return self.clip.logit_scale

    @property
    def context_length(self) -> int:
        return self.clip.config.text_config.max_position_embeddings

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Pixels [B, C, H, W] -> embeddings [B, P]."""
        features = self.clip.get_image_features(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids [B, S] -> embeddings [B, P]. Padding after the end token has no effect."""
        features = self.clip.get_text_features(text)
        return F.normalize(features, dim=-1) if normalize else features

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(logits_per_image [B_i, B_t], logits_per_text [B_t, B_i]), as OpenAI's model returns them."""
        per_text = self.encode_text(text, True) @ self.encode_image(image, True).T * self.logit_scale.exp()
        return per_text.T, per_text


class Transform:
    """A picture -> float32 [C, H, W]. Can be pickled to the workers of a DataLoader."""

    def __init__(self, processor: CLIPImageProcessor) -> None:
        self.processor = processor

    def __call__(self, image: Any) -> Tensor:
        return self.processor(image, return_tensors="pt").pixel_values[0]


class Tokenizer:
    """A text or several -> int64 [B, context_length]."""

    def __init__(self, tokenizer: CLIPTokenizerFast, context_length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        texts = [texts] if isinstance(texts, str) else list(texts)
        length = context_length or self.context_length
        return self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
