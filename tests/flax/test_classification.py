"""FlaxCLIPForImageClassification against transformers 4.57.6 in PyTorch (tests/golden/make_classifier.py)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from clip_core.checkpoint import load
from clip_flax import FlaxCLIPForImageClassification, FlaxCLIPModel

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "classifier"
STORED = dict(np.load(GOLDEN / "outputs.npz"))
KINDS = ("single_label_classification", "multi_label_classification", "regression")


def assert_close(found, wanted, bound=1e-6):
    assert np.abs(np.asarray(found) - wanted).max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_loss_and_gradients(kind):
    model = FlaxCLIPForImageClassification.from_pretrained(GOLDEN)
    model.config.problem_type = kind
    labels = STORED[f"{kind}:labels"]
    assert_close(model(STORED["pixels"]).logits, STORED["logits"])

    def loss(params):
        return model(STORED["pixels"], params=params, labels=labels).loss

    value, gradients = jax.value_and_grad(loss)(model.params)
    assert_close(value, STORED[f"{kind}:loss"])
    found = flatten_dict(gradients, sep=".")
    assert_close(found["classifier.kernel"].T, STORED[f"{kind}:classifier.weight"])
    assert_close(found["classifier.bias"], STORED[f"{kind}:classifier.bias"])
    name = "vision_model.embeddings.class_embedding"
    assert_close(found[name], STORED[f"{kind}:{name}"])


@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded(safe, tmp_path):
    model = FlaxCLIPForImageClassification.from_pretrained(GOLDEN)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    back = FlaxCLIPForImageClassification.from_pretrained(tmp_path)
    assert back.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
    assert_close(back(STORED["pixels"]).logits, STORED["logits"])
    if safe:
        wanted, found = load(GOLDEN).tensors, load(tmp_path)
        assert found.config["architectures"] == ["CLIPForImageClassification"]
        assert all(np.array_equal(found.tensors[n].numpy(), t.numpy()) for n, t in wanted.items())


def test_a_clip_is_the_beginning_of_one(tmp_path):
    config = FlaxCLIPForImageClassification.from_pretrained(GOLDEN).config
    FlaxCLIPModel(config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"- classifier"):
        model = FlaxCLIPForImageClassification.from_pretrained(tmp_path, num_labels=5)
    assert model(STORED["pixels"]).logits.shape == (4, 5)
    assert 0.05 < np.std(model.params["classifier"]["kernel"]) < 0.6
