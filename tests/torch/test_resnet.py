"""OpenAI's ResNet tower in PyTorch against OpenAI's own code and open_clip's (tests/golden/make_resnet.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clip_core import CheckpointError, CLIPResNetVisionConfig, InputError
from clip_torch import CLIPModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "resnet"
STORED = dict(np.load(GOLDEN / "outputs.npz"))
PIXELS, IDS = torch.from_numpy(STORED["pixels"]), torch.from_numpy(STORED["ids"])
BOUND = 1e-5


def loaded(**options):
    return CLIPModel.from_pretrained(GOLDEN / "open_clip", **options)


def assert_close(found, name, bound=BOUND):
    wanted = STORED[name]
    scale = max(float(np.abs(wanted).max()), 1.0)
    assert np.abs(found.detach().numpy() - wanted).max() <= bound * scale, name


@torch.no_grad()
def test_outputs_are_openais_and_open_clips():
    model = loaded()
    out = model(IDS, PIXELS)
    for name in ("image", "open_clip_image"):
        assert_close(model.get_image_features(PIXELS), name)
    for name in ("text", "open_clip_text"):
        assert_close(model.get_text_features(IDS), name)
    assert_close(out.logits_per_image, "logits_per_image")


@torch.no_grad()
def test_openais_archive():
    """Its convolutions and products are halves, its norms are not."""
    wide, kept = (CLIPModel.from_pretrained(GOLDEN / "openai.pt", dtype=dtype) for dtype in (None, "float16"))
    assert_close(wide.get_image_features(PIXELS), "image", 1e-3)
    assert kept.vision_model.bn1.running_var.dtype == torch.float16
    assert kept.vision_model.bn1.num_batches_tracked == 123456789
    assert_close(kept.get_image_features(PIXELS).float(), "image", 3e-3)


def test_gradients_are_openais():
    model = loaded()
    model(IDS, PIXELS).logits_per_image.square().mean().backward()
    for name in STORED:
        kind, _, weight = name.partition(":")
        if kind == "gradient":
            assert_close(model.get_parameter(weight.replace("visual.", "vision_model.")).grad, name)


def test_training_mode_is_openais():
    """Batches' own statistics; the running ones follow."""
    model = loaded().train()
    image = model.get_image_features(PIXELS)
    image.square().mean().backward()
    assert_close(image, "trained:image")
    assert_close(model.vision_model.conv1.weight.grad, "trained:gradient:visual.conv1.weight")
    state = model.state_dict()
    for name in STORED:
        if name.startswith("trained:visual."):
            assert_close(state[name.removeprefix("trained:").replace("visual.", "vision_model.")], name)


@torch.no_grad()
def test_what_is_returned():
    model = loaded()
    out = model(IDS, PIXELS, output_hidden_states=True, output_attentions=True)
    vision = out.vision_model_output
    assert torch.equal(vision.pooler_output, model.get_image_features(PIXELS))
    assert [tuple(x.shape) for x in vision.hidden_states] == [
        (3, 4, 16, 16), (3, 16, 16, 16), (3, 32, 8, 8), (3, 64, 4, 4), (3, 128, 2, 2),
    ]  # fmt: skip
    assert torch.equal(vision.hidden_states[-1], vision.last_hidden_state)
    assert [tuple(x.shape) for x in vision.attentions] == [(3, 2, 1, 5)]
    assert torch.allclose(vision.attentions[0].sum(-1), torch.ones(3, 2, 1))
    assert model(IDS, PIXELS, return_dict=False)[2].shape == (2, 24)


@torch.no_grad()
def test_towers_alone(tmp_path):
    loaded().save_pretrained(tmp_path / "full")
    vision = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "full")
    assert_close(vision(PIXELS).image_embeds, "image")
    vision.save_pretrained(tmp_path / "vision")
    alone = CLIPVisionModel.from_pretrained(tmp_path / "vision")
    assert isinstance(alone.config, CLIPResNetVisionConfig)
    assert_close(alone(PIXELS).pooler_output, "image")
    assert_close(CLIPTextModelWithProjection.from_pretrained(tmp_path / "full")(IDS).text_embeds, "text")
    with pytest.raises(CheckpointError, match="found one tower"):
        CLIPModel.from_pretrained(tmp_path / "vision")


@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded_to_the_bit(safe, tmp_path):
    model = loaded()
    model.save_pretrained(tmp_path, safe_serialization=safe)
    for options in ({}, {"mmap": True}):
        back = CLIPModel.from_pretrained(tmp_path, **options).state_dict()
        assert set(back) == set(model.state_dict())
        assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 3e-3), ("bfloat16", 3e-2), ("float64", 1e-5)])
def test_other_types(dtype, bound):
    model = loaded(dtype=dtype)
    with torch.no_grad():
        assert_close(model.get_image_features(PIXELS.to(model.dtype)).double(), "image", bound)
    if dtype != "float64":  # halves train, too, and their statistics follow
        model.train()
        before = model.vision_model.bn1.running_mean.clone()
        model.get_image_features(PIXELS).float().sum().backward()
        assert model.vision_model.bn1.num_batches_tracked == 123456790
        assert not torch.equal(before, model.vision_model.bn1.running_mean)


def test_fresh_and_missing_weights():
    torch.manual_seed(0)
    model = CLIPModel(loaded().config)
    block = model.vision_model.layer1[0]
    assert not block.bn3.weight.any() and block.bn3.running_var.eq(1).all()
    assert abs(float(model.vision_model.attnpool.q_proj.weight.detach().std()) * 128**0.5 - 1) < 0.05
    wanted = loaded().state_dict()
    less = {name: value for name, value in wanted.items() if not name.startswith("vision_model.layer1.0.bn3.")}
    with pytest.warns(UserWarning, match=r"- vision_model.layer1.0.bn3.running_mean"):
        made = CLIPModel.from_pretrained(None, config=loaded().config, state_dict=less, strict=False)
    state = made.state_dict()
    assert all(torch.equal(state[name], value) for name, value in less.items())
    assert state["vision_model.layer1.0.bn3.running_var"].eq(1).all()
    assert not state["vision_model.layer1.0.bn3.weight"].any()
    assert state["vision_model.layer1.0.bn3.num_batches_tracked"] == 0


def test_what_it_refuses():
    model = loaded()
    with pytest.raises(InputError, match="interpolate_pos_encoding: a ResNet tower"):
        model.get_image_features(PIXELS, interpolate_pos_encoding=True)
    with pytest.raises(InputError, match=r"pixel_values: wanted \[batch, 3, 64, 64\]"):
        model.get_image_features(PIXELS[..., :32])
    with pytest.raises(InputError, match="pixel_values: wanted"):
        model.get_image_features(None)
