"""torchmetrics' CLIPScore with our model and processor instead of transformers'."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.multimodal import CLIPScore

import clip_torch

from .models import emoji, pictures
from .record import Found, at_most, difference, refused, works

TITLE, PACKAGES = "torchmetrics", ("torchmetrics", "transformers", "torch")
LIMIT = 2e-3  # of a score between 0 and 100


def ours() -> tuple[Any, Any]:
    return clip_torch.CLIPModel.from_pretrained("emoji").eval(), clip_torch.CLIPProcessor.from_pretrained("emoji")


class Unwrapped(torch.nn.Module):
    """transformers 5's model as torchmetrics 1.9 expects it: features as tensors, not in an output object."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *args: Any) -> Any:
        return self.model.get_image_features(*args).pooler_output

    def get_text_features(self, *args: Any) -> Any:
        return self.model.get_text_features(*args).pooler_output


def theirs() -> tuple[Any, Any]:
    """transformers' model, and our processor: theirs resizes with torchvision, by another filter."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        model = transformers.CLIPModel.from_pretrained(emoji(Path(folder)), dtype=torch.float32).eval()
    return Unwrapped(model), clip_torch.CLIPProcessor.from_pretrained("emoji")


def tensors() -> tuple[list[torch.Tensor], list[str]]:
    found = pictures()
    return [torch.from_numpy(np.array(picture).transpose(2, 0, 1)) for picture, _, _ in found], [n for _, n, _ in found]


def metric() -> Found:
    images, names = tensors()
    ours_metric, theirs_metric = CLIPScore(ours), CLIPScore(theirs)
    for start in range(0, 16, 4):
        for each in (ours_metric, theirs_metric):
            each.update(images[start : start + 4], names[start : start + 4])
    wrong = CLIPScore(ours)
    wrong.update(images, names[1:] + names[:1])
    score = float(ours_metric.compute())
    if not score > float(wrong.compute()) + 5:
        raise AssertionError("the right names should score higher than others")
    apart = at_most(LIMIT, difference=abs(score - float(theirs_metric.compute())))
    return works(
        "`CLIPScore(lambda: (CLIPModel, CLIPProcessor))`, `update` in batches, `compute`",
        "uint8 CHW tensors and names of 16 pictures; the same pictures with others' names score less.",
        score=score,
        score_of_wrong_names=float(wrong.compute()),
        **apart,
    )


def other_pairs() -> Found:
    images, names = tensors()
    found = {}
    for label, source, target in (("images", images[:3], images[3:6]), ("texts", names[:3], names[3:6])):
        found[f"difference_{label}"] = abs(
            float(clip_score(source, target, ours)) - float(clip_score(source, target, theirs))
        )
    return works("`clip_score(images, images)`, `clip_score(texts, texts)`", **at_most(LIMIT, **found))


def long_captions() -> Found:
    images, _ = tensors()
    long = ["a very long caption of a clock " * 20]
    got, want = clip_score(images[:1], long, ours), clip_score(images[:1], long, theirs)
    return works(
        "`clip_score` with a caption beyond the model's tokens",
        "torchmetrics cuts it by `config.text_config.max_position_embeddings`, which loses the end token: "
        "so it does here.",
        **at_most(LIMIT, difference=difference(got, want)),
    )


def plain_transformers() -> Found:
    """What this client does with transformers 5, for which the factory above is the way out."""
    import transformers

    def factory() -> tuple[Any, Any]:
        with tempfile.TemporaryDirectory() as folder:
            model = transformers.CLIPModel.from_pretrained(emoji(Path(folder)), dtype=torch.float32).eval()
        return model, clip_torch.CLIPProcessor.from_pretrained("emoji")

    images, names = tensors()
    try:
        clip_score(images[:1], names[:1], factory)
    except AttributeError as error:
        return works(
            "`clip_score` with transformers 5's own CLIPModel, for comparison",
            f"fails there (`{error}`): `get_image_features` returns an object since 5.0. Ours returns the tensor.",
        )
    raise AssertionError("transformers 5's model works in torchmetrics now: remove the wrapper")


def by_name() -> Found:
    try:
        CLIPScore("emoji")
    except ValueError as error:
        return refused(
            "`CLIPScore('emoji')`", f"torchmetrics: “{error}” Pass a function that returns model and processor."
        )
    raise AssertionError("a name of ours was taken")


CHECKS = (metric, other_pairs, long_captions, plain_transformers, by_name)
