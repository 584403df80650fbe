"""A zero-shot head: 1,000 names x 80 templates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.harness import Pair, Row, Side
from benchmarks.text_mixed import hf_encoder, open_clip_encoder

OURS, HF, OPEN_CLIP = 32, 8, 1  # labels in a repetition

ROW = Row(
    title="Zero-shot head, ImageNet's names x OpenAI's 80 templates",
    about=(
        "Labels per second, PyTorch, float32, from a slice of the 1,000 labels: `Clip.zero_shot_head`; transformers in "
        "batches padded to their longest, open_clip at 77 tokens, as their own scripts do it."
    ),
    data=("captions", "vit_b32"),
    sides={
        "triclip": Side("triclip", "ours", count=OURS),
        "HF 4.57": Side("hf4", "hf", count=HF),
        "open_clip": Side("openclip", "open_clip", count=OPEN_CLIP),
    },
    pairs=(Pair("triclip", "HF 4.57", at_least=2.8), Pair("triclip", "open_clip", at_least=15)),
    unit="labels",
    check="same_head",
    limits=(
        "Tokens of all 80,000 sentences: open_clip 6.16M, transformers 1.09M, without padding 769k, distinct "
        "beginnings 328k, which is what triclip computes, but for a few per cent at the borders of its batches."
    ),
    rounds=5,
    budget=120,
)


def ours(data: Path) -> Callable[[], Any]:
    from triclip.pipeline import Clip
    from triclip.prompts import OPENAI_IMAGENET_TEMPLATES

    clip = Clip.from_pretrained(data / "vit_b32")
    return lambda: clip.zero_shot_head(_names(data, OURS), OPENAI_IMAGENET_TEMPLATES)


def hf(data: Path) -> Callable[[], Any]:
    import numpy as np
    from transformers import CLIPTokenizerFast

    encode = hf_encoder(
        models.hf_torch(data), CLIPTokenizerFast.from_pretrained(data / "vit_b32"), _sentences(data, HF)
    )

    def run() -> Any:
        means = encode().reshape(HF, 80, -1).mean(1)
        return (means / np.linalg.norm(means, axis=-1, keepdims=True)).T

    return run


def open_clip(data: Path) -> Callable[[], Any]:
    return open_clip_encoder(_sentences(data, OPEN_CLIP))


def _names(data: Path, count: int) -> list[str]:
    return (data / "names.txt").read_text(encoding="utf-8").splitlines()[:count]


def _sentences(data: Path, count: int) -> list[str]:
    templates = (data / "templates.txt").read_text(encoding="utf-8").splitlines()
    return [template.replace("{}", name) for name in _names(data, count) for template in templates]


def same_head(results: dict[str, Any]) -> str:
    return models.compare({"triclip": results["triclip"][:, :HF], "HF 4.57": results["HF 4.57"]}, 1e-5)
