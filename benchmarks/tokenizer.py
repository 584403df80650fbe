"""20,000 captions to padded ids, cold (a new process' first pass) and warm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Row, Side

ROW = Row(
    title="Tokenise 20,000 captions",
    about=(
        "CuPL's sentences about what things look like (package clip-benchmark; 12 words on average, generated, free of "
        "template prompts), padded to the longest, NumPy arrays; open_clip pads to 77, torch. Cold is the first pass "
        "of a new process, the tokenizer loaded before."
    ),
    data=("captions", "vit_b32"),
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
    unit="captions",
    check="same_ids",
    rounds=7,
    budget=40,
)


def ours(data: Path) -> Callable[[], Any]:
    from benchmarks.data import captions
    from clip_core import CLIPTokenizerFast

    tokenizer, texts = CLIPTokenizerFast.from_pretrained(data / "vit_b32"), captions(data)
    return lambda: dict(tokenizer(texts, padding=True, return_tensors="np"))


def hf_fast(data: Path) -> Callable[[], Any]:
    from transformers import CLIPTokenizerFast

    from benchmarks.data import captions

    tokenizer, texts = CLIPTokenizerFast.from_pretrained(data / "vit_b32"), captions(data)
    return lambda: dict(tokenizer(texts, padding=True, return_tensors="np"))


def open_clip(data: Path) -> Callable[[], Any]:
    from benchmarks.data import captions
    from benchmarks.peers import stub_torchvision

    stub_torchvision()
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer, texts = SimpleTokenizer(), captions(data)
    return lambda: {"input_ids": tokenizer(texts).numpy()}


def same_ids(results: dict[str, Any]) -> str:
    import numpy as np

    want = results["HF fast 4.57, warm"]
    width = want["input_ids"].shape[1]
    for label in set(results) - {"open_clip, warm"}:
        for name in ("input_ids", "attention_mask"):
            assert np.array_equal(results[label][name], want[name]), f"{label}: {name}"
    # open_clip pads with 0, the others with the end token: compare the tokens themselves.
    other = results["open_clip, warm"]["input_ids"][:, :width] != want["input_ids"]
    rows = int((other & (want["attention_mask"] == 1)).any(1).sum())
    assert rows < 20, f"open_clip: {rows} captions"
    tokens = int(want["attention_mask"].sum())
    return (
        f"all ids are equal ({tokens:,} tokens, the longest row {width}), but for {rows} captions whose curly quotes "
        f"open_clip makes straight."
    )
