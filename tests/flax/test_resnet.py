"""OpenAI's ResNet tower in Flax against OpenAI's own code and open_clip's (tests/golden/make_resnet.py)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from clip_core import InputError
from clip_core.checkpoint import load
from clip_flax import FlaxCLIPModel, FlaxCLIPVisionModel, FlaxCLIPVisionModelWithProjection
from clip_flax.resnet import with_statistics

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "resnet"
STORED = dict(np.load(GOLDEN / "outputs.npz"))
PIXELS, IDS = STORED["pixels"], STORED["ids"]
NHWC = PIXELS.transpose(0, 2, 3, 1)
BOUND = 1e-5
LEAVES = {"weight": "scale", "running_mean": "mean", "running_var": "var"}


@cache
def loaded():
    return FlaxCLIPModel.from_pretrained(GOLDEN / "open_clip")


def assert_close(found, name, bound=BOUND):
    wanted = STORED[name]
    scale = max(float(np.abs(wanted).max()), 1.0)
    assert np.abs(np.asarray(found, np.float32) - wanted).max() <= bound * scale, name


def of_tree(tree, name):
    """The leaf of OpenAI's name, in PyTorch's order of axes."""
    flat = flatten_dict(tree, sep=".")
    path = "vision_model." + name.partition("visual.")[2]
    module, _, leaf = path.rpartition(".")
    for own in (path, f"{module}.kernel" if leaf == "weight" else "", f"{module}.{LEAVES.get(leaf)}"):
        if own in flat:
            value = np.asarray(flat[own])
            return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T if own.endswith("kernel") else value
    raise KeyError(name)


def test_outputs_are_openais_and_open_clips():
    model = loaded()
    out = model(IDS, PIXELS, output_hidden_states=True, output_attentions=True)
    assert_close(out.logits_per_image, "logits_per_image")
    assert_close(model.get_image_features(PIXELS), "image")
    assert_close(model.get_image_features(PIXELS), "open_clip_image")
    assert_close(model.get_text_features(IDS), "open_clip_text")
    vision = out.vision_model_output
    assert [x.shape for x in vision.hidden_states] == [
        (3, 4, 16, 16), (3, 16, 16, 16), (3, 32, 8, 8), (3, 64, 4, 4), (3, 128, 2, 2),
    ]  # fmt: skip
    assert vision.last_hidden_state.shape == (3, 128, 2, 2)
    assert [x.shape for x in vision.attentions] == [(3, 2, 1, 5)]


def test_gradients_are_openais_and_running_statistics_have_none():
    model = loaded()

    @jax.jit
    @jax.grad
    def gradients(params):
        out = model.module.apply({"params": params}, IDS, NHWC)
        return jnp.square(out.logits_per_image).mean()

    found = gradients(model.params)
    for name in STORED:
        if name.startswith("gradient:"):
            assert_close(of_tree(found, name), name)
    assert not np.any(found["vision_model"]["bn1"]["mean"]) and not np.any(found["vision_model"]["bn1"]["var"])


def test_training_mode_is_openais():
    model = loaded()

    @jax.jit
    def step(params):
        def loss(params):
            image, new = model.module.apply(
                {"params": params}, NHWC, False, method="get_image_features", mutable=["batch_stats"]
            )
            return jnp.square(image).mean(), (image, new)

        gradient, (image, new) = jax.grad(loss, has_aux=True)(params)
        return gradient, image, new["batch_stats"]

    gradient, image, statistics = step(model.params)
    assert_close(image, "trained:image")
    name = "trained:gradient:visual.conv1.weight"
    assert_close(of_tree(gradient, name), name)
    moved = with_statistics(model.params, statistics)
    for name in STORED:
        if name.startswith("trained:visual.") and not name.endswith("tracked"):
            assert_close(of_tree(moved, name), name)
    assert_close(model.get_image_features(PIXELS, train=True), "trained:image")  # without a place for the statistics


@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded_to_the_bit(safe, tmp_path):
    loaded().save_pretrained(tmp_path, safe_serialization=safe)
    wanted, found = load(GOLDEN / "open_clip").tensors, load(tmp_path)
    assert set(found.tensors) == set(wanted) and found.config["model_type"] == "clip_resnet"
    for name, tensor in wanted.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert np.array_equal(found.tensors[name].numpy(), tensor.numpy()), name
    assert_close(FlaxCLIPModel.from_pretrained(tmp_path).get_image_features(PIXELS), "image")


def test_towers_alone_and_fresh_ones(tmp_path):
    vision = FlaxCLIPVisionModelWithProjection.from_pretrained(GOLDEN / "open_clip")
    assert_close(vision(PIXELS).image_embeds, "image")
    vision.save_pretrained(tmp_path)
    assert_close(FlaxCLIPVisionModel.from_pretrained(tmp_path)(PIXELS).pooler_output, "image")
    fresh = FlaxCLIPVisionModel(vision.config)
    block = fresh.params["vision_model"]["layer1"]["0"]
    assert not block["bn3"]["scale"].any() and (block["bn3"]["var"] == 1).all()
    fresh.save_pretrained(tmp_path / "fresh")  # with counts of 0
    assert load(tmp_path / "fresh").tensors["vision_model.bn1.num_batches_tracked"].numpy() == 0


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 3e-3), ("bfloat16", 3e-2)])
def test_half_types(dtype, bound):
    model = FlaxCLIPModel.from_pretrained(GOLDEN / "open_clip", dtype=dtype)
    image = model.get_image_features(PIXELS)
    assert image.dtype == dtype
    assert_close(image, "image", bound)


def test_what_it_refuses():
    with pytest.raises(InputError, match="interpolate_pos_encoding: a ResNet tower"):
        loaded().get_image_features(PIXELS, interpolate_pos_encoding=True)
    with pytest.raises(InputError, match=r"pixel_values: wanted \[batch, 3, 64, 64\]"):
        loaded().get_image_features(PIXELS[..., :32])
