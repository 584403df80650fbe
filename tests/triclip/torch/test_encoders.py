"""`load_encoders`: the interface for programs written for OpenAI's and open_clip's models."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_torch
from clip_core.hub import MODELS
from triclip import Clip, load_encoders
from triclip.encoders import Encoders

PICTURES = sorted((MODELS / "emoji" / "pictures").glob("*.png"))[:3]
TEXTS = ["a rocket", "a slice of pizza with cheese", "rain"]


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return load_encoders("emoji", local_files_only=True)


def images() -> list:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in PICTURES]


def test_embeddings_are_those_of_the_pipeline(encoders) -> None:
    model, transform, tokenizer = encoders
    clip = Clip.from_pretrained("emoji")
    ids = tokenizer(TEXTS)
    assert ids.shape == (3, 24) and ids.dtype == torch.int64
    with torch.no_grad():
        pixels = torch.stack([transform(image) for image in images()])
        got = model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)
        raw = model.encode_image(pixels)
        per_image, per_text = model(pixels, ids)
    assert np.allclose(got[0], clip.encode_image(images()), atol=1e-5)
    assert np.allclose(got[1], clip.encode_text(TEXTS), atol=1e-5)
    assert not torch.allclose(raw, got[0], atol=1e-2), "without normalize: as they are"
    assert torch.allclose(per_image, per_text.T)
    assert np.allclose(per_image, model.logit_scale.exp().item() * clip.similarity(images(), TEXTS), atol=1e-3)


def test_the_tokenizer_takes_one_text_and_cuts_long_ones(encoders) -> None:
    tokenizer = encoders.tokenizer
    assert torch.equal(tokenizer("rain"), tokenizer(["rain"]))
    long = tokenizer("rain " * 40)
    assert long.shape == (1, encoders.model.context_length) and long[0, -1] == 2047
    assert tokenizer("rain", context_length=8).shape == (1, 8)


def test_transform_and_tokenizer_go_to_other_processes(encoders) -> None:
    transform, tokenizer = pickle.loads(pickle.dumps((encoders.transform, encoders.tokenizer)))
    assert torch.equal(transform(images()[0]), encoders.transform(images()[0]))
    assert torch.equal(tokenizer(TEXTS), encoders.tokenizer(TEXTS))


def test_keywords_reach_the_model_and_the_processor(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    clip_torch.CLIPModel.from_pretrained("emoji").save_pretrained(inner)
    clip_torch.CLIPProcessor.from_pretrained("emoji").save_pretrained(inner)
    found = load_encoders(tmp_path, subfolder="inner", dtype="bfloat16")
    assert found.model.clip.dtype == torch.bfloat16 and not found.model.training
    with pytest.raises(FileNotFoundError):
        load_encoders(tmp_path)
