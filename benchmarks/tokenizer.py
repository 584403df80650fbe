"""20,000 captions to padded ids, cold (a new process' first pass) and warm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Row, Side

ROW = Row(
    title="Tokenise 20,000 sentences of many languages",
    about=(
        "What Django's pages say, as people translated it into 98 languages (package django; distinct sentences of 70 "
        "characters on average), padded to the longest, NumPy arrays; open_clip pads to 77, torch. Cold is the first "
        "pass of a new process, the tokenizer loaded before."
    ),
    data=("messages", "vit_b32"),
    sides={
        "triclip, cold": Side("triclip", "ours", "fresh"),
        "HF fast 4.57, cold": Side("hf4", "hf_fast", "fresh"),
        "triclip, warm": Side("triclip", "ours"),
        "HF fast 4.57, warm": Side("hf4", "hf_fast"),
        "HF 5.23, warm": Side("hf5", "hf_fast"),
        "open_clip, warm": Side("openclip", "open_clip"),
    },
    pairs=(
        Pair("triclip, cold", "HF fast 4.57, cold", at_least=3.0),
        Pair("triclip, warm", "HF fast 4.57, warm", at_least=9.0),
        Pair("triclip, warm", "HF 5.23, warm"),
        Pair("triclip, warm", "open_clip, warm"),
    ),
    count=20_000,
    unit="sentences",
    check="same_ids",
    rounds=7,
    budget=40,
)


def ours(data: Path) -> Callable[[], Any]:
    from benchmarks.data import captions
    from clip_core import CLIPTokenizerFast

    tokenizer, texts = CLIPTokenizerFast.from_pretrained(data / "vit_b32"), captions(data, kind="messages")
    return lambda: dict(tokenizer(texts, padding=True, return_tensors="np"))


def hf_fast(data: Path) -> Callable[[], Any]:
    from transformers import CLIPTokenizerFast

    from benchmarks.data import captions

    tokenizer, texts = CLIPTokenizerFast.from_pretrained(data / "vit_b32"), captions(data, kind="messages")
    return lambda: dict(tokenizer(texts, padding=True, return_tensors="np"))


def open_clip(data: Path) -> Callable[[], Any]:
    from benchmarks.data import captions
    from benchmarks.peers import stub_torchvision

    stub_torchvision()
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer, texts = SimpleTokenizer(), captions(data, kind="messages")
    return lambda: {"input_ids": tokenizer(texts).numpy()}


def same_ids(results: dict[str, Any]) -> str:
    import numpy as np

    want = results["HF fast 4.57, warm"]
    for label in set(results) - {"open_clip, warm"}:
        for name in ("input_ids", "attention_mask"):
            assert np.array_equal(results[label][name], want[name]), f"{label}: {name}"
    # open_clip pads with 0, the others with the end token; it cuts at 77, and mends texts as ftfy does: compare tokens.
    theirs = results["open_clip, warm"]["input_ids"]
    width = min(theirs.shape[1], want["input_ids"].shape[1]) - 1
    other = theirs[:, :width] != want["input_ids"][:, :width]
    rows = int((other & (want["attention_mask"][:, :width] == 1)).any(1).sum())
    tokens = int(want["attention_mask"].sum())
    return (
        f"all ids are equal ({tokens:,} tokens, the longest row {want['input_ids'].shape[1]}), but for {rows} "
        f"sentences that open_clip mends by ftfy."
    )
