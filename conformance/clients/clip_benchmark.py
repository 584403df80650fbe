"""CLIP_benchmark's zero-shot classification and retrieval on the embedded model and its sixteen pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from clip_benchmark import models as registry
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from torch.utils.data import DataLoader, Dataset

from triclip import Clip, load_encoders

from .models import pictures
from .record import Found, at_most, works

TITLE, PACKAGES = "CLIP_benchmark", ("clip_benchmark", "torch")
TEMPLATES = ["{c}", "a picture of {c}"]


class Pictures(Dataset):
    """The pictures with their class, or with their captions."""

    def __init__(self, transform: Any, captions: bool = False) -> None:
        self.transform, self.captions, self.entries = transform, captions, pictures()
        self.classes = [name for _, name, _ in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Any:
        picture, name, sentence = self.entries[i]
        return self.transform(picture), [name, sentence] if self.captions else i


def load() -> Any:
    """Load through CLIP_benchmark's registry of model types."""
    registry.TYPE2FUNC["triclip"] = lambda model_name, pretrained, cache_dir, device: load_encoders(
        model_name, device_map=device
    )
    registry.MODEL_TYPES.append("triclip")
    return registry.load_clip("triclip", "emoji", "", cache_dir="", device="cpu")


def classification() -> Found:
    model, transform, tokenizer = load()
    dataset = Pictures(transform)
    loader = DataLoader(dataset, batch_size=5, num_workers=0)
    arguments = (model, loader, tokenizer, dataset.classes, TEMPLATES, "cpu")
    note = "`triclip.load_encoders` gives model, transform and tokenizer. Against `Clip.classify`."
    try:
        found = zeroshot_classification.evaluate(*arguments, amp=False)
    except TypeError as error:  # what `evaluate` does, but for its last conversion
        note += f" Its `evaluate` ends in an error of its own with NumPy 2.4 (“{error}”): run by its two halves."
        classifier = zeroshot_classification.zero_shot_classifier(model, *arguments[2:], amp=False)
        logits, target = zeroshot_classification.run_classification(model, classifier, loader, "cpu", amp=False)
        hits = logits.topk(5).indices == target[:, None]
        found = {f"acc{k}": hits[:, :k].any(1).double().mean().item() for k in (1, 5)}
    ranked = Clip.from_pretrained("emoji").classify(
        [picture for picture, _, _ in pictures()], dataset.classes, templates=["{}", "a picture of {}"]
    )
    right = np.mean([row[0][0] == name for row, name in zip(ranked, dataset.classes, strict=True)])
    return works(
        "`models.load_clip(…)` through its registry, `zeroshot_classification`",
        note,
        acc1=found["acc1"],
        acc5=found["acc5"],
        **at_most(0, acc1_difference=abs(found["acc1"] - right)),
    )


def mixed_precision() -> Found:
    model, transform, tokenizer = load()
    loader = DataLoader(Pictures(transform), batch_size=8)
    names = loader.dataset.classes
    exact = zeroshot_classification.zero_shot_classifier(model, tokenizer, names, TEMPLATES, "cpu", amp=False)
    rough = zeroshot_classification.zero_shot_classifier(model, tokenizer, names, TEMPLATES, "cpu", amp=True)
    cosine = float(torch.nn.functional.cosine_similarity(exact, rough.float(), dim=0).min())
    if not cosine > 0.999:
        raise AssertionError(f"cosine: {cosine}")
    return works("`zero_shot_classifier(…, amp=True)`: under autocast", least_cosine_to_float32=cosine)


def collate(batch: Any) -> Any:
    return torch.stack([image for image, _ in batch]), [texts for _, texts in batch]


def retrieval() -> Found:
    model, transform, tokenizer = load()
    loader = DataLoader(Pictures(transform, captions=True), batch_size=4, collate_fn=collate)
    found = zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5])
    clip = Clip.from_pretrained("emoji")
    images = clip.encode_image([picture for picture, _, _ in pictures()])
    texts = clip.encode_text([text for _, name, sentence in pictures() for text in (name, sentence)])
    scores, owner = texts @ images.T, np.repeat(np.arange(16), 2)
    for k in (1, 5):
        best = np.argsort(-scores, axis=1)[:, :k]
        want = (best == owner[:, None]).any(1).mean()
        at_most(1e-6, image_retrieval=abs(found[f"image_retrieval_recall@{k}"] - want))
        best = owner[np.argsort(-scores.T, axis=1)[:, :k]]
        want = (best == np.arange(16)[:, None]).any(1).mean()
        at_most(1e-6, text_retrieval=abs(found[f"text_retrieval_recall@{k}"] - want))
    return works(
        "`zeroshot_retrieval.evaluate`, two captions a picture",
        "Equal to recalls computed from `Clip`'s embeddings.",
        **{name.replace("retrieval_", ""): value for name, value in found.items()},
    )


CHECKS = (classification, mixed_precision, retrieval)
