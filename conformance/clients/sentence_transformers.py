"""sentence-transformers: CLIP models that embed pictures and sentences, with our model inside."""

from __future__ import annotations

import functools
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.models import CLIPModel

import clip_torch
from triclip import Clip

from .models import emoji, pictures
from .record import Found, at_most, difference, refused, works

PACKAGES = ("sentence-transformers", "transformers", "torch")
LIMIT = 2e-5
# Since 5.4 the module is a `Transformer`, which asks transformers' processor for everything and the model for features.
GENERAL = "modality_config" in inspect.signature(CLIPModel.__mro__[1].__init__).parameters
VERSION = sentence_transformers.__version__
TITLE = "sentence-transformers" if GENERAL else f"sentence-transformers {VERSION.split('.')[0]}"


@functools.cache
def folder() -> Path:
    """The embedded model in float32, where both libraries load the same numbers."""
    path = emoji(Path(tempfile.mkdtemp(prefix="triclip-sentence-")))
    clip_torch.CLIPModel.from_pretrained(path).save_pretrained(path)
    return path


def data() -> tuple[list[Any], list[str]]:
    images, names, _ = zip(*pictures(), strict=True)
    return list(images), list(names)


def theirs() -> Any:
    return SentenceTransformer(modules=[CLIPModel(str(folder()))], device="cpu")


def ours(processor: Any = None) -> Any:
    module = CLIPModel(str(folder()))
    module.model = clip_torch.CLIPModel.from_pretrained(folder())
    if processor is not None:
        module.processor = processor
    if GENERAL:  # the features are tensors, not objects of which one field is wanted
        for entry in module.modality_config.values():
            entry["method_output_name"] = None
    return SentenceTransformer(modules=[module], device="cpu")


def encode() -> Found:
    images, names = data()
    a, b = ours(), theirs()
    figures = {
        label: difference(a.encode(given), b.encode(given))
        for label, given in {"images": images, "sentences": names, "one_sentence": "a clock"}.items()
    }
    found = util.semantic_search(a.encode(names), a.encode(images), top_k=1)
    right = sum(hits[0]["corpus_id"] == i for i, hits in enumerate(found))
    if right < 4:
        raise AssertionError(f"{right} of 16 found")
    how = "`module.modality_config[…]['method_output_name'] = None`, as features are tensors" if GENERAL else ""
    return works(
        f"`CLIPModel(folder)`, `module.model = clip_torch.CLIPModel…`, `encode` of pictures and sentences ({VERSION})",
        how,
        **at_most(LIMIT, **figures),
        found_at_rank_1_of_16=right,
    )


def processor() -> Found:
    images, names = data()
    own = clip_torch.CLIPProcessor.from_pretrained(folder())
    call = f"`module.processor = clip_torch.CLIPProcessor…` ({VERSION})"
    if not GENERAL:
        model = ours(own)
        clip = Clip.from_pretrained("emoji")
        got = np.concatenate([model.encode(images), model.encode(names)])
        got = got / np.linalg.norm(got, axis=-1, keepdims=True)
        want = np.concatenate([clip.encode_image(images), clip.encode_text(names)])
        length = model[0].max_seq_length
        model[0].max_seq_length = 8
        cut = model.encode(["a very long sentence about a clock on a wall in a house"])
        if length != 24 or own.tokenizer.model_max_length != 8 or not np.isfinite(cut).all():
            raise AssertionError(f"max_seq_length: {length}")
        return works(
            call + ", `encode`, `max_seq_length`", "Against `Clip`.", **at_most(LIMIT, embeddings=difference(got, want))
        )
    try:
        ours(own).encode(names)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        return refused(
            call,
            f"By sentence-transformers, which looks for transformers' `ProcessorMixin` ({type(error).__name__}: "
            f"“{words}”). Keep its own processor: same ids; pixels by transformers' filter, not Pillow's.",
        )
    raise AssertionError("our processor is taken now")


def saved() -> Found:
    images, names = data()
    a = ours()
    want, note = (a.encode(images), a.encode(names)), ""
    if GENERAL:  # what is written is read with transformers' class
        a[0].modality_config = theirs()[0].modality_config
        note = " Before saving, `modality_config` is set back to what transformers' class returns."
    with tempfile.TemporaryDirectory() as path:
        a.save(path)
        again = SentenceTransformer(path, device="cpu")
        kind = type(again[0].model)
        if not issubclass(kind, transformers.CLIPModel) or kind is clip_torch.CLIPModel:
            raise AssertionError(f"{kind}")
        figures = at_most(
            LIMIT,
            images=difference(again.encode(images), want[0]),
            sentences=difference(again.encode(names), want[1]),
        )
    return works(
        f"`SentenceTransformer.save`, then `SentenceTransformer(folder)` ({VERSION})",
        "`save_pretrained(safe_serialization=)` of ours; loaded with transformers' classes." + note,
        **figures,
    )


def trained() -> Found:
    """One step of its contrastive loss, through the module as its trainer calls it."""
    from sentence_transformers import losses

    images, names = data()
    gradients = []
    for model in (ours(), theirs()):
        model.eval()  # CLIP has no dropout by default; this keeps it so
        process = getattr(model, "preprocess", model.tokenize)
        features = [process(images[:4]), process(names[:4])]
        loss = losses.MultipleNegativesRankingLoss(model)(features, torch.empty(0))
        loss.backward()
        gradients.append(model[0].model.text_projection.weight.grad)
    return works(
        f"`losses.MultipleNegativesRankingLoss`, one step ({VERSION})",
        **at_most(LIMIT, gradient=difference(*gradients)),
    )


CHECKS = (encode, processor, saved, trained)
