"""The tools with a CLIP whose vision tower is OpenAI's ResNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from clip_core import CLIPConfig, CLIPResNetVisionConfig, ConfigError, InputError
from clip_core.checkpoint import convert
from clip_torch import CLIPModel
from triclip import Clip
from triclip.conform import conform
from triclip.explain import explain
from triclip.train.config import ModelSection, TrainConfig
from triclip.train.start import prepare

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "resnet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One with OpenAI's vocabulary, so that texts can be given."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text, CLIPResNetVisionConfig([1, 1, 1, 1], 2, 1, image_size=32), projection_dim=8)
    path = tmp_path_factory.mktemp("resnet") / "model"
    CLIPModel(config).save_pretrained(path)
    return path


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8))


def test_clip_from_any_file(folder, tmp_path):
    clip = Clip.from_pretrained(folder)
    vectors = clip.encode_image([picture(0), picture(1)])
    assert vectors.shape == (2, 8)
    assert clip.classify([picture(0)], ["cat", "dog"]).probabilities.shape == (1, 2)
    convert(folder, tmp_path / "RN50.pt", to="openai")
    other = Clip.from_pretrained(tmp_path / "RN50.pt")
    assert np.allclose(other.encode_image([picture(0), picture(1)]), vectors, atol=1e-6)
    assert np.allclose(other.encode_text(["a cat"]), clip.encode_text(["a cat"]), atol=1e-6)


def test_conform_finds_what_is_wrong(folder):
    """Also with parts that a ViT has and this one hasn't."""
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    right = Clip.from_pretrained(folder).encode_pixels(pixels, normalize=False)
    given = {"pixel_values": pixels, "image_embeds": right / np.linalg.norm(right, axis=1, keepdims=True)}
    assert conform(folder, ["torch"], given).ok
    report = conform(folder, ["torch"], {**given, "image_embeds": given["image_embeds"][::-1]})
    assert not report.ok


def test_what_needs_a_vit_says_so(folder):
    with pytest.raises(InputError, match="its vision tower is a ResNet"):
        explain(Clip.from_pretrained(folder), picture(0), "a cat")
    with pytest.raises(InputError, match="int8 is for transformers, found CLIPResNetVisionTransformer as vision_model"):
        Clip.from_pretrained(folder, dtype="int8")
    run = TrainConfig(model=ModelSection(init=str(folder)))
    with pytest.raises(ConfigError, match="found OpenAI's ResNet"):
        prepare(run)
