"""Texts computed from shared beginnings have the embeddings of the plain pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from conformance import cases as data
from conformance.adaptors import Torch
from conformance.compare import ACROSS, relative_error
from triclip.backends import torch_ as pipeline
from triclip.pipeline import Clip
from triclip.prefixes import until_end
from triclip.prompts import OPENAI_IMAGENET_TEMPLATES

ADAPTOR = Torch()
CONFIGS = {
    "plain": {},
    "legacy": {"eos_token_id": 2},
    "no layer": {"num_hidden_layers": 0},
    "one layer": {"num_hidden_layers": 1},
    "fewer heads": {"pruned_heads": {0: [1], 1: [0, 2]}},
    "gelu": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=list(CONFIGS))
def test_equals_the_plain_pass(changes: dict[str, Any]) -> None:
    model = ADAPTOR.build(data.Case("", "CLIPModel", data.full(changes), {}))
    config = model.config.text_config
    rows = np.random.default_rng(0).integers(0, 3, (40, 10)) + 54  # few tokens: many common beginnings
    rows[:, 0], rows[::2, 6:] = data.BOS, data.EOS
    rows[:3] = [data.BOS, 55, data.EOS, *range(7)]
    with torch.no_grad():
        want = model.get_text_features(torch.from_numpy(rows)).numpy()
    got = pipeline.row_features(model, [until_end(row, config) for row in rows.tolist()])
    assert relative_error(got, want) <= ACROSS
    alone = pipeline.row_features(model, [until_end(rows[5].tolist(), config)])
    assert relative_error(alone, want[5:6]) <= ACROSS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    model = ADAPTOR.build(data.Case("", "CLIPModel", data.full(), {})).to(dtype)
    rows = [[data.BOS, 4, 5, data.EOS], [data.BOS, 4, data.EOS], [data.BOS, 4, 6, 1, data.EOS]]
    got = pipeline.row_features(model, rows)
    for row, vector in zip(rows, got, strict=True):
        want = pipeline.text_features(model, np.array([row]))[0]
        assert relative_error(vector, want) <= 5e-2  # bfloat16's eight bits through two layers


def test_encode_text_in_any_company() -> None:
    clip = Clip.from_pretrained()
    texts = ["red apple", "a red apple on a table", "", "red apple", "red apples", "ships that pass in the night " * 30]
    together = clip.encode_text(texts)
    for text, vector in zip(texts, together, strict=True):
        limit = clip.config.text_config.max_position_embeddings
        ids = clip.processor.tokenizer([text], truncation=True, max_length=limit, return_tensors="np")["input_ids"]
        plain = pipeline.text_features(clip.model, np.asarray(ids))
        assert relative_error(vector, plain[0] / np.linalg.norm(plain)) <= ACROSS
    np.testing.assert_array_equal(together[0], together[3])
    for size in (1, 2, 5):
        assert relative_error(clip.encode_text(texts, batch_size=size), together) <= ACROSS


def test_zero_shot_head() -> None:
    clip = Clip.from_pretrained()
    labels, templates = ["cat", "great cat", "dog"], ["a photo of a {}.", "a photo of many {}.", "{}"]
    head = clip.zero_shot_head(labels, templates)
    for column, label in zip(head.T, labels, strict=True):
        one = np.mean([clip.encode_text(t.replace("{}", label))[0] for t in templates], axis=0)
        assert relative_error(column, one / np.linalg.norm(one)) <= ACROSS


def test_the_80_templates() -> None:
    assert len(set(OPENAI_IMAGENET_TEMPLATES)) == 80
    assert all(template.count("{}") == 1 for template in OPENAI_IMAGENET_TEMPLATES)
    assert Clip.from_pretrained().zero_shot_head(["cat"], OPENAI_IMAGENET_TEMPLATES).shape[1] == 1
