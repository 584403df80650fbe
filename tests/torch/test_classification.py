"""CLIPForImageClassification in PyTorch against transformers 4.57.6 (tests/golden/make_classifier.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_core import CheckpointError, CLIPConfig, CLIPResNetVisionConfig, ConfigError
from clip_core.checkpoint import convert
from clip_torch import CLIPForImageClassification, CLIPModel, CLIPVisionModel

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "classifier"
STORED = dict(np.load(GOLDEN / "outputs.npz"))
PIXELS = torch.from_numpy(STORED["pixels"])
KINDS = ("single_label_classification", "multi_label_classification", "regression")


def assert_close(found, wanted, bound=1e-6):
    assert np.abs(found.detach().numpy() - wanted).max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_loss_and_gradients(kind):
    model = CLIPForImageClassification.from_pretrained(GOLDEN)
    model.config.problem_type = kind
    out = model(PIXELS, labels=torch.from_numpy(STORED[f"{kind}:labels"]))
    assert_close(out.logits, STORED["logits"])
    assert_close(out.loss, STORED[f"{kind}:loss"])
    out.loss.backward()
    for name in STORED:
        if name.startswith(f"{kind}:") and "." in name:
            assert_close(model.get_parameter(name.partition(":")[2]).grad, STORED[name])


def test_the_problem_is_told_by_the_labels():
    model = CLIPForImageClassification.from_pretrained(GOLDEN)
    for kind in KINDS[:2]:
        loss = model(PIXELS, labels=torch.from_numpy(STORED[f"{kind}:labels"])).loss
        assert_close(loss, STORED[f"{kind}:loss"])
    assert model.config.problem_type is None
    one = CLIPForImageClassification.from_pretrained(GOLDEN, num_labels=1, ignore_mismatched_sizes=True)
    logits = one(PIXELS).logits
    assert torch.allclose(one(PIXELS, labels=torch.ones(4)).loss, (logits[:, 0] - 1).square().mean())
    model.config.problem_type = "ranking"
    with pytest.raises(ConfigError, match="problem_type: wanted one of regression"):
        model(PIXELS, labels=torch.zeros(4, dtype=torch.long))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded(safe, tmp_path):
    model = CLIPForImageClassification.from_pretrained(GOLDEN)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["architectures"] == ["CLIPForImageClassification"] and content["model_type"] == "clip"
    assert content["id2label"] == {"0": "cat", "1": "dog", "2": "bird"}
    back = CLIPForImageClassification.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values(), strict=True))
    vision = CLIPVisionModel.from_pretrained(tmp_path)
    assert torch.equal(vision(PIXELS)[0], model.vision_model(PIXELS)[0])


def test_a_clip_is_the_beginning_of_one(tmp_path):
    clip = CLIPModel(CLIPForImageClassification.from_pretrained(GOLDEN).config)
    clip.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"- classifier.weight"):
        model = CLIPForImageClassification.from_pretrained(tmp_path, num_labels=5)
    assert model(PIXELS).logits.shape == (4, 5)
    assert 0.1 < model.classifier.weight.std() < 0.5 and not model.classifier.bias.any()
    assert torch.equal(model.vision_model(PIXELS)[0], clip.vision_model(PIXELS)[0])
    with pytest.raises(CheckpointError, match="classifier.weight: got"):
        CLIPForImageClassification.from_pretrained(GOLDEN, num_labels=5)


def test_other_layouts(tmp_path):
    """Through `convert` and back, config and classifier included."""
    for to in ("hf-bin", "hf"):
        convert(GOLDEN, tmp_path / to, to=to)
        model = CLIPForImageClassification.from_pretrained(tmp_path / to)
        assert model.config.id2label[2] == "bird"
        assert_close(model(PIXELS).logits, STORED["logits"])
    for to in ("open_clip", "openai"):
        with pytest.raises(CheckpointError):
            convert(GOLDEN, tmp_path / to, to=to)


def test_what_it_is_not_for(tmp_path):
    with pytest.raises(ConfigError, match="wanted a ViT"):
        CLIPForImageClassification(CLIPConfig(vision_config=CLIPResNetVisionConfig([1, 1, 1, 1], 2, 1)))
    CLIPVisionModel(CLIPForImageClassification.from_pretrained(GOLDEN).config.vision_config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="found one tower"):
        CLIPForImageClassification.from_pretrained(tmp_path)
    no_labels = CLIPForImageClassification(CLIPConfig(vision_config={"hidden_size": 8, "num_attention_heads": 2,
        "num_hidden_layers": 1, "intermediate_size": 8, "image_size": 16, "patch_size": 8}, num_labels=0))  # fmt: skip
    assert no_labels(PIXELS).logits.shape == (4, 8)
