"""`Clip` over Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from triclip import Clip

TEXTS = ["cat", "a red heart", "the flag of a country far away with many words in its name", "x"]
PLAIN_PATH = 1e-5  # the same model and inputs in another batch: only the order of float32 sums differs


@pytest.fixture(scope="module")
def clip() -> Any:
    pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    return Clip.from_pretrained("emoji", backend="tf")


def test_padding_is_never_pooled() -> None:
    """eos_token_id 2 pools the highest id: a padding id above the end token would win."""
    pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    clip = Clip.from_pretrained("emoji", backend="tf")
    config, tokenizer = clip.model.text_model.config, clip.processor.tokenizer
    want = np.concatenate([clip.encode_text([text]) for text in TEXTS])
    clip.model.resize_token_embeddings(config.vocab_size + 1)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    assert tokenizer.pad_token_id == config.vocab_size - 1 > config.eos_token_id
    config.eos_token_id = 2
    np.testing.assert_allclose(clip.encode_text(TEXTS), want, atol=PLAIN_PATH)


def test_a_graph_follows_the_model(clip: Any) -> None:
    before = clip.encode_text(TEXTS)
    embedding = clip.model.get_input_embeddings()
    try:
        clip.model.set_input_embeddings(-np.asarray(embedding.embeddings))
        changed = clip.encode_text(TEXTS)
        assert np.abs(changed - before).max() > 1e-2
    finally:
        clip.model.set_input_embeddings(embedding)
    np.testing.assert_allclose(clip.encode_text(TEXTS), before, atol=PLAIN_PATH)
