"""MaxDiffusion's use of the Flax classes, which transformers lacks: with transformers 5 installed, and without it.

MaxDiffusion itself is in no package index. Its calls are in tests/flax/test_maxdiffusion.py, which is run here in each
environment.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import clip_flax

from .record import Found, at_most, difference, works

ROOT = Path(__file__).resolve().parents[2]
TRANSFORMERS = find_spec("transformers") is not None
TITLE = f"MaxDiffusion, {'transformers 5 installed' if TRANSFORMERS else 'no transformers installed'}"
PACKAGES = ("jax", "flax", *(("transformers",) if TRANSFORMERS else ()))
PROMPTS = ["a red fox in the snow", "two birds"]


class Count:
    """pytest's counts."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.skipped or report.failed:
            self.outcomes.append(report.outcome)


def calls() -> Found:
    count = Count()
    pytest.main(["-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "flax" / "test_maxdiffusion.py")], [count])
    if not count.outcomes or set(count.outcomes) != {"passed"}:
        raise AssertionError(f"{count.outcomes}")
    return works(
        "the calls of its checkpointer, pipelines, trainers and safety checker (tests/flax/test_maxdiffusion.py)",
        "loading by subfolder, `from_pt`, string dtypes; `_do_init=False`, `init_weights` under `eval_shape`; "
        "`params` set; a subclass of FlaxPreTrainedModel with FlaxCLIPVisionModule inside.",
        tests=len(count.outcomes),
    )


def tokenizer() -> Found:
    own = clip_flax.CLIPTokenizer()
    with tempfile.TemporaryDirectory() as folder:
        own.save_pretrained(folder)
        loaded = clip_flax.CLIPTokenizer.from_pretrained(folder, dtype="bfloat16", use_fast=True)
    texts = ["fox " * 100, *PROMPTS]
    padded = {"padding": "max_length", "max_length": loaded.model_max_length, "truncation": True}
    ids, before = (one(texts, **padded, return_tensors="np").input_ids for one in (loaded, own))
    long = loaded(texts[1:], **padded, return_overflowing_tokens=False, return_length=True, return_tensors="np")
    # v4.37's slow tokenizer counts a batch's tokens before it pads.
    if ids.shape != (3, 77) or ids[0, -1] != 49407 or long.input_ids.shape != (2, 77) or list(long.length) != [8, 4]:
        raise AssertionError(f"ids: {ids.shape}, {long.input_ids.shape}, length: {long.length}")
    return works(
        "`CLIPTokenizer.from_pretrained(folder, dtype=, use_fast=True)`, `padding='max_length'`, "
        "`return_overflowing_tokens`, `return_length`, `return_tensors='np'`",
        **at_most(0, ids=difference(ids, before)),
    )


CHECKS = (calls, tokenizer)
