"""TFCLIPForImageClassification against transformers 4.57.6 in PyTorch (tests/golden/make_classifier.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from clip_core.checkpoint import load
from clip_tf import TFCLIPForImageClassification, TFCLIPModel

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "classifier"
STORED = dict(np.load(GOLDEN / "outputs.npz"))
KINDS = ("single_label_classification", "multi_label_classification", "regression")


def assert_close(found, wanted, bound=1e-6):
    assert np.abs(np.asarray(found) - wanted).max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_loss_and_gradients(kind):
    model = TFCLIPForImageClassification.from_pretrained(GOLDEN)
    model.config.problem_type = kind
    with tf.GradientTape() as tape:
        out = model(pixel_values=STORED["pixels"], labels=STORED[f"{kind}:labels"])
    assert_close(out.logits, STORED["logits"])
    assert_close(out.loss, STORED[f"{kind}:loss"])
    named = model._variables_by_name()
    names = [name for name in STORED if name.startswith(f"{kind}:") and "." in name]
    found = tape.gradient(out.loss, [named[name.partition(":")[2]][0].value for name in names])
    for name, gradient in zip(names, found, strict=True):
        assert_close(tf.transpose(gradient) if name.endswith("classifier.weight") else gradient, STORED[name])


@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded(safe, tmp_path):
    model = TFCLIPForImageClassification.from_pretrained(GOLDEN)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    back = TFCLIPForImageClassification.from_pretrained(tmp_path)
    assert back.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
    assert_close(back(STORED["pixels"]).logits, STORED["logits"])
    if safe:
        wanted, found = load(GOLDEN).tensors, load(tmp_path)
        assert found.config["architectures"] == ["CLIPForImageClassification"]
        assert all(np.array_equal(found.tensors[n].numpy(), t.numpy()) for n, t in wanted.items())


def test_a_clip_is_the_beginning_of_one_and_fit_trains_it(tmp_path):
    TFCLIPModel(TFCLIPForImageClassification.from_pretrained(GOLDEN).config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"- classifier.weight"):
        model = TFCLIPForImageClassification.from_pretrained(tmp_path, num_labels=2)
    assert 0.05 < np.std(model._variables_by_name()["classifier.weight"][0]) < 0.6
    labels = np.array([0, 1, 0, 1])
    model.compile("adam")
    first = float(model(pixel_values=STORED["pixels"], labels=labels).loss)
    history = model.fit(STORED["pixels"], labels, epochs=12, batch_size=4, verbose=0).history["loss"]
    assert history[-1] < first and abs(history[0] - first) < 1e-5
    model.fit({"pixel_values": STORED["pixels"], "labels": labels}, batch_size=4, verbose=0)
