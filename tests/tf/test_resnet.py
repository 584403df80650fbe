"""OpenAI's ResNet tower in Keras against OpenAI's own code and open_clip's (tests/golden/make_resnet.py)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from clip_core import InputError
from clip_core.checkpoint import load
from clip_tf import TFCLIPModel, TFCLIPVisionModel, TFCLIPVisionModelWithProjection

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "resnet"
STORED = dict(np.load(GOLDEN / "outputs.npz"))
PIXELS, IDS = STORED["pixels"], STORED["ids"].astype(np.int32)
BOUND = 1e-5


@cache
def loaded():
    return TFCLIPModel.from_pretrained(GOLDEN / "open_clip")


def assert_close(found, name, bound=BOUND):
    wanted = STORED[name]
    scale = max(float(np.abs(wanted).max()), 1.0)
    assert np.abs(np.asarray(tf.cast(found, tf.float32)) - wanted).max() <= bound * scale, name


def by_name(model):
    """Canonical name -> (variable, the order of axes that gives PyTorch's)."""
    found = model._variables_by_name().items()
    return {name: (variable, axes and np.argsort(axes)) for name, (variable, axes) in found}


def canonical(name):
    return "vision_model." + name.partition("visual.")[2]


def test_outputs_are_openais_and_open_clips():
    model = loaded()
    out = model(input_ids=IDS, pixel_values=PIXELS, output_hidden_states=True, output_attentions=True)
    assert_close(out.logits_per_image, "logits_per_image")
    assert_close(model.get_image_features(PIXELS), "image")
    assert_close(model.get_image_features(PIXELS), "open_clip_image")
    assert_close(model.get_text_features(IDS), "open_clip_text")
    vision = out.vision_model_output
    assert [tuple(x.shape) for x in vision.hidden_states] == [
        (3, 4, 16, 16), (3, 16, 16, 16), (3, 32, 8, 8), (3, 64, 4, 4), (3, 128, 2, 2),
    ]  # fmt: skip
    assert tuple(vision.last_hidden_state.shape) == (3, 128, 2, 2)
    assert [tuple(x.shape) for x in vision.attentions] == [(3, 2, 1, 5)]


def test_gradients_are_openais():
    model = loaded()
    with tf.GradientTape() as tape:
        out = model(input_ids=IDS, pixel_values=PIXELS)
        loss = tf.reduce_mean(tf.square(out.logits_per_image))
    named = by_name(model)
    names = [name for name in STORED if name.startswith("gradient:")]
    found = tape.gradient(loss, [named[canonical(name)][0].value for name in names])
    for name, gradient in zip(names, found, strict=True):
        order = named[canonical(name)][1]
        assert_close(gradient if order is None else tf.transpose(gradient, order), name)


@pytest.mark.parametrize("graph", [False, True])
def test_training_mode_is_openais(graph):
    model = TFCLIPModel.from_pretrained(GOLDEN / "open_clip")
    kernel = by_name(model)["vision_model.conv1.weight"][0].value

    def step(pixels):
        with tf.GradientTape() as tape:
            image = model.get_image_features(pixels, training=True)
            loss = tf.reduce_mean(tf.square(image))
        return image, tape.gradient(loss, kernel)

    image, gradient = (tf.function(step) if graph else step)(tf.constant(PIXELS))
    assert_close(image, "trained:image")
    # Through norms over a dozen numbers each; float32 differs from float64 by as much.
    assert_close(tf.transpose(gradient, (3, 2, 0, 1)), "trained:gradient:visual.conv1.weight", 5e-5)
    named = by_name(model)
    for name in STORED:
        if name.startswith("trained:visual."):
            assert_close(named[canonical(name)][0].value, name)


@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded_to_the_bit(safe, tmp_path):
    loaded().save_pretrained(tmp_path, safe_serialization=safe)
    wanted, found = load(GOLDEN / "open_clip").tensors, load(tmp_path)
    assert set(found.tensors) == set(wanted) and found.config["model_type"] == "clip_resnet"
    for name, tensor in wanted.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert np.array_equal(found.tensors[name].numpy(), tensor.numpy()), name


def test_towers_alone_and_fresh_ones(tmp_path):
    vision = TFCLIPVisionModelWithProjection.from_pretrained(GOLDEN / "open_clip")
    assert_close(vision(PIXELS).image_embeds, "image")
    vision.save_pretrained(tmp_path)
    assert_close(TFCLIPVisionModel.from_pretrained(tmp_path)(PIXELS).pooler_output, "image")
    named = by_name(TFCLIPVisionModel(vision.config))
    assert not np.any(named["vision_model.layer1.0.bn3.weight"][0])
    assert np.all(np.asarray(named["vision_model.layer1.0.bn3.running_var"][0]) == 1)
    assert np.std(named["vision_model.attnpool.q_proj.weight"][0]) > 0.05


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 3e-3), ("bfloat16", 3e-2), ("mixed_bfloat16", 3e-2)])
def test_half_types(dtype, bound):
    model = TFCLIPModel.from_pretrained(GOLDEN / "open_clip", dtype=dtype)
    image = model.get_image_features(PIXELS)
    assert image.dtype == dtype.removeprefix("mixed_")
    assert_close(image, "image", bound)


def test_fit_and_keras_files(tmp_path):
    """One step of Keras' own loop moves weights and statistics; .weights.h5 keeps them."""
    model = TFCLIPModel.from_pretrained(GOLDEN / "open_clip")
    model.compile("sgd")
    before = np.asarray(by_name(model)["vision_model.bn1.running_mean"][0])
    model.fit({"input_ids": IDS, "pixel_values": PIXELS[:2]}, batch_size=2, verbose=0)
    after = by_name(model)
    assert not np.array_equal(before, after["vision_model.bn1.running_mean"][0])
    assert int(after["vision_model.bn1.num_batches_tracked"][0]) == 123456790
    model.save_weights(tmp_path / "m.weights.h5")
    other = loaded().__class__(model.config)
    other.load_weights(tmp_path / "m.weights.h5")
    for name, (variable, _) in by_name(other).items():
        assert np.array_equal(variable, after[name][0]), name


def test_gradient_checkpointing_leaves_it_alone():
    model = TFCLIPModel.from_pretrained(GOLDEN / "open_clip")
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model.get_image_features(PIXELS, training=True)
    assert int(by_name(model)["vision_model.bn1.num_batches_tracked"][0]) == 123456790


def test_what_it_refuses():
    with pytest.raises(InputError, match="interpolate_pos_encoding: a ResNet tower"):
        loaded().get_image_features(PIXELS, interpolate_pos_encoding=True)
    with pytest.raises(InputError, match=r"pixel_values: wanted \[batch, 3, 64, 64\]"):
        loaded().get_image_features(PIXELS[..., :32])
