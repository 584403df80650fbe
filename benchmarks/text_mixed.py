"""Real captions of mixed length, from strings to vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models, products
from benchmarks.harness import Pair, Row, Side

COUNT, BATCH, FEW = 512, 64, 64

ROW = Row(
    title="Text embeddings, captions of mixed length",
    about=(
        f"{COUNT} captions, strings to unit vectors, PyTorch, float32: `Clip.encode_text`; transformers in batches of "
        f"{BATCH}, each padded to its longest; open_clip ({FEW} of them) always has 77 tokens."
    ),
    data=("captions", "vit_b32"),
    sides={
        "triclip": Side("triclip", "ours"),
        "HF 4.57": Side("hf4", "hf"),
        "open_clip": Side("openclip", "open_clip", count=FEW),
        "products alone": Side("triclip", "ceiling"),
    },
    pairs=(
        Pair("triclip", "HF 4.57", at_least=1.6),
        Pair("triclip", "open_clip", at_least=8),
        Pair("triclip", "products alone", at_least=0.88, share=True),
    ),
    count=COUNT,
    unit="captions",
    check="same_vectors",
    limits=(
        "A caption has 19.7 tokens, 17.5 without beginnings that a batch shares, which are 1.25 GFLOP with the last "
        "layer for end tokens alone: the ceiling in the first table over that is the most there can be. open_clip "
        "computes 77 tokens, 5.8 GFLOP. Sharing beginnings among all 512 captions would leave 17.0 tokens, and twice "
        "the work in attention."
    ),
)


def ours(data: Path) -> Callable[[], Any]:
    from benchmarks.data import captions
    from triclip.pipeline import Clip

    clip, texts = Clip.from_pretrained(data / "vit_b32"), captions(data, COUNT)
    return lambda: clip.encode_text(texts, progress=False)


def ceiling(data: Path) -> Callable[[], Any]:
    from benchmarks.data import captions

    return products_of_texts(data, captions(data, COUNT))


def products_of_texts(data: Path, texts: list[str]) -> Callable[[], Any]:
    """For the tokens that `Clip.encode_text` computes: see there how batches are made."""
    from clip_core import CLIPTokenizerFast
    from triclip.prefixes import shared_prefixes

    rows = CLIPTokenizerFast.from_pretrained(data / "vit_b32")(texts)["input_ids"]
    distinct = sorted({tuple(row) for row in rows}, key=lambda row: (-(-len(row) // 4), row))
    batches = [distinct[start : start + BATCH] for start in range(0, len(distinct), BATCH)]
    sizes = [(len(shared_prefixes(batch).tokens), len(batch)) for batch in batches]
    # One chain for all of them: its weights are those of the batches before.
    chains = [products.with_torch(products.tower(*size, products.TEXT)) for size in sizes]

    def run() -> None:
        for chain in chains:
            chain()

    return run


def hf(data: Path) -> Callable[[], Any]:
    from transformers import CLIPTokenizerFast

    from benchmarks.data import captions

    return hf_encoder(models.hf_torch(data), CLIPTokenizerFast.from_pretrained(data / "vit_b32"), captions(data, COUNT))


def hf_encoder(model: Any, tokenizer: Any, texts: list[str]) -> Callable[[], Any]:
    """Batches in the given order, each padded to its longest text."""
    import numpy as np
    import torch

    @torch.inference_mode()
    def run() -> Any:
        out = []
        for start in range(0, len(texts), BATCH):
            inputs = tokenizer(texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
            vectors = model.get_text_features(**inputs)
            out.append((vectors / vectors.norm(dim=-1, keepdim=True)).numpy())
        return np.concatenate(out)

    return run


def open_clip(data: Path) -> Callable[[], Any]:
    from benchmarks.data import captions

    return open_clip_encoder(captions(data, FEW))


def open_clip_encoder(texts: list[str]) -> Callable[[], Any]:
    """With weights of its own: only its time is compared."""
    import torch

    from benchmarks.peers import stub_torchvision

    stub_torchvision()
    import open_clip

    model = open_clip.create_model("ViT-B-32-quickgelu").eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, len(texts), BATCH):
            model.encode_text(tokenizer(texts[start : start + BATCH]), normalize=True)

    return run


def same_vectors(results: dict[str, Any]) -> str:
    return models.compare({name: value for name, value in results.items() if value is not None}, 1e-5)
