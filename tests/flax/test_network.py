"""Values and trees against transformers 4.37.2's Flax classes, and features of Linen modules."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import clip_flax
from clip_core.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.errors import InputError
from clip_core.init import initial_values
from clip_flax import FlaxCLIPModel

from .conftest import CHECKPOINT, GOLDEN

SAME = 2e-5  # float32, sums in another order
HALF = 5e-2  # bfloat16 keeps 8 bits (4e-3 per rounding); some dozens of roundings add up in two layers
CLASSES = ("FlaxCLIPModel", "FlaxCLIPTextModel", "FlaxCLIPTextModelWithProjection", "FlaxCLIPVisionModel")


def relative_error(got: Any, want: np.ndarray) -> float:
    got = np.asarray(got, np.float64)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def named_leaves(output: Any) -> dict[str, Any]:
    return {
        ".".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(output)
    }


def test_every_field_equals_transformers(full: Any, inputs: Any, golden: Any) -> None:
    found = named_leaves(full(**inputs, output_attentions=True, output_hidden_states=True))
    assert set(found) == set(golden) - set(inputs)
    assert max(relative_error(found[name], golden[name]) for name in found) < SAME


def test_bfloat16_computation_is_close_and_leaves_parameters_alone(inputs: Any, golden: Any) -> None:
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT, dtype="bfloat16")
    assert model.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype("float32")}
    out = model(**inputs, output_hidden_states=True)
    assert out.text_embeds.dtype == out.vision_model_output.last_hidden_state.dtype == jnp.bfloat16
    for name, leaf in named_leaves(out).items():
        assert relative_error(leaf, golden[name]) < HALF, name


@pytest.mark.parametrize("name", CLASSES)
def test_parameter_tree_is_that_of_transformers(name: str) -> None:
    cls = getattr(clip_flax, name)
    model = cls(cls.config_class.from_pretrained(CHECKPOINT), _do_init=False)
    found = {path: list(leaf.shape) for path, leaf in flatten_dict(model.params_shape_tree, sep="/").items()}
    assert found == json.loads((GOLDEN / "flax" / "trees.json").read_text())[name]


def test_vision_projection_class_is_vision_tower_and_projection() -> None:
    trees = json.loads((GOLDEN / "flax" / "trees.json").read_text())
    cls = clip_flax.FlaxCLIPVisionModelWithProjection
    model = cls(CLIPVisionConfig.from_pretrained(CHECKPOINT), _do_init=False)
    found = {path: list(leaf.shape) for path, leaf in flatten_dict(model.params_shape_tree, sep="/").items()}
    assert found == {**trees["FlaxCLIPVisionModel"], "visual_projection/kernel": [24, 8]}


def test_tuples_have_every_field_that_was_asked_for(text: Any, full: Any, inputs: Any) -> None:
    cls = clip_flax.FlaxCLIPTextModelWithProjection
    model = cls.from_pretrained(CHECKPOINT)
    model.jit = False
    asked = {"output_attentions": True, "output_hidden_states": True, "return_dict": False}
    embeds, last, hidden, attentions = model(inputs["input_ids"], inputs["attention_mask"], **asked)
    assert (embeds.shape, last.shape, len(hidden), len(attentions)) == ((3, 8), (3, 12, 16), 3, 2)
    assert isinstance(full(**inputs, return_dict=False)[4], tuple)


def test_initialisation_is_the_cores_rule() -> None:
    """Means and deviations of every weight, also for a module used by itself and inside the full model."""
    size = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = CLIPTextConfig(**size, vocab_size=500, max_position_embeddings=64, projection_dim=96, initializer_factor=3.0)
    vision = CLIPVisionConfig(**size, image_size=64, patch_size=8, initializer_range=0.05, initializer_factor=2.0)
    module = clip_flax.FlaxCLIPTextModelWithProjectionModule(text)
    alone = module.init(jax.random.PRNGKey(0), jnp.zeros((1, 3), jnp.int32))["params"]
    model = FlaxCLIPModel(CLIPConfig.from_text_vision_configs(text, vision, projection_dim=96), seed=1)
    vision_alone = clip_flax.FlaxCLIPVisionModel(vision)
    for config, scope, params in (
        (text, "text_projection", alone),
        (vision, "vision", vision_alone.params),
        (model.config, "full", model.params),
    ):
        wanted = initial_values(config, scope)
        leaf_of = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
        for path, leaf in flatten_dict(params, sep=".").items():
            head, dot, last = path.rpartition(".")
            kind, value = wanted[head + dot + leaf_of.get(last, last)]
            if kind == "constant":
                assert np.allclose(leaf, value), path
            else:  # the deviation of n draws is off by value / sqrt(2 n), the mean by value / sqrt(n)
                assert abs(leaf.std() - value) < 5 * value / np.sqrt(2 * leaf.size), path
                assert abs(leaf.mean()) < 5 * value / np.sqrt(leaf.size), path


def test_modules_take_pixels_with_channels_last(full: Any, inputs: Any) -> None:
    pixels = inputs["pixel_values"]
    module = clip_flax.FlaxCLIPVisionModule(full.config.vision_config)
    params = {"vision_model": full.params["vision_model"]}
    got = module.apply({"params": params}, pixels.transpose(0, 2, 3, 1))
    assert np.allclose(got[1], full(**inputs).vision_model_output.pooler_output, atol=1e-5)
    with pytest.raises(InputError, match=r"\[batch, 3, 16, 16\], found \(2, 16, 3, 16\)"):
        module.apply({"params": params}, pixels)


def test_interpolation_at_the_native_size_changes_nothing(full: Any, inputs: Any) -> None:
    pixels = inputs["pixel_values"]
    assert np.array_equal(
        full.get_image_features(pixels), full.get_image_features(pixels, interpolate_pos_encoding=True)
    )
    with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
        full.get_image_features(np.zeros((1, 3, 24, 40)))
    assert full.get_image_features(np.zeros((1, 3, 24, 40)), interpolate_pos_encoding=True).shape == (1, 8)


def test_dropout_needs_and_uses_its_key(inputs: Any) -> None:
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, attention_dropout=0.5,
    )  # fmt: skip
    model = clip_flax.FlaxCLIPTextModel(config)
    key = jax.random.PRNGKey(0)
    quiet = model(inputs["input_ids"], dropout_rng=key)[0]
    noisy = model(inputs["input_ids"], dropout_rng=key, train=True)[0]
    again = model(inputs["input_ids"], dropout_rng=key, train=True)[0]
    other = model(inputs["input_ids"], dropout_rng=jax.random.PRNGKey(1), train=True)[0]
    assert np.array_equal(noisy, again) and not np.allclose(noisy, quiet) and not np.allclose(noisy, other)


def test_pruned_heads_shorten_the_projections() -> None:
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=4,
        pruned_heads={1: [0, 2]},
    )  # fmt: skip
    tree = clip_flax.FlaxCLIPTextModel(config, _do_init=False).params_shape_tree
    layers = tree["text_model"]["encoder"]["layers"]
    assert layers["0"]["self_attn"]["q_proj"]["kernel"].shape == (16, 16)
    assert layers["1"]["self_attn"]["q_proj"]["kernel"].shape == (16, 8)
    assert layers["1"]["self_attn"]["out_proj"]["kernel"].shape == (8, 16)
