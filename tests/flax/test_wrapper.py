"""The wrapper's contract of v4.37: parameters, initialisation, casts, dtypes, compiled calls."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from flax.traverse_util import flatten_dict, unflatten_dict

import clip_flax
from clip_core.errors import CheckpointError, InputError
from clip_flax import CLIPTextConfig, FlaxCLIPModel, FlaxCLIPTextModel, FlaxCLIPVisionModel

from .conftest import CHECKPOINT


def leaves_equal(left: Any, right: Any) -> bool:
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), left, right)
    return all(jax.tree.leaves(same))


def fresh() -> FlaxCLIPTextModel:
    return FlaxCLIPTextModel.from_pretrained(CHECKPOINT)


def test_what_a_model_says_of_itself(text: Any, full: Any) -> None:
    assert text.framework == "flax" and not text.can_generate()
    assert text.seed == 0 and text.input_shape == (1, 1) and text.dtype is jnp.float32
    assert isinstance(text.module, clip_flax.FlaxCLIPTextModule) and isinstance(text.config, CLIPTextConfig)
    assert full.input_shape == ((1, 1), (1, 16, 16, 3))
    assert ("text_model", "final_layer_norm", "scale") in text.required_params
    assert text.num_params() == sum(leaf.size for leaf in jax.tree.leaves(text.params))
    assert np.array_equal(text.key, jax.random.PRNGKey(0))


def test_params_are_checked_both_ways() -> None:
    model = fresh()
    before = model.params
    tree = flatten_dict(before)
    tree["nonsense", "kernel"] = tree.pop(("text_model", "final_layer_norm", "scale"))
    tree["text_model", "final_layer_norm", "bias"] = jnp.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        model.params = unflatten_dict(tree)
    assert str(caught.value).splitlines()[1:] == [
        "- text_model.final_layer_norm.scale",
        "+ nonsense.kernel",
        "text_model.final_layer_norm.bias: got (7,), want (16,)",
    ]
    assert model.params is before
    with pytest.raises(TypeError, match="params: wanted a nested dict of arrays, found list"):
        model.params = [1]


def test_setting_params_takes_frozen_dicts_and_numpy_and_shares_no_dicts(text: Any, inputs: Any) -> None:
    model = fresh()
    given = jax.tree.map(np.asarray, text.params)
    model.params = freeze(given)
    assert type(model.params) is dict and leaves_equal(model.params, text.params)
    model.params = given
    given["text_model"].pop("final_layer_norm")
    assert leaves_equal(model.params, text.params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))


def test_without_init_the_caller_keeps_the_parameters(text: Any, inputs: Any) -> None:
    model, params = FlaxCLIPTextModel.from_pretrained(CHECKPOINT, _do_init=False)
    assert leaves_equal(params, text.params)
    for use in (lambda: model.params, lambda: model(inputs["input_ids"]), lambda: setattr(model, "params", params)):
        with pytest.raises(ValueError, match="_do_init=False"):
            use()
    want = text(inputs["input_ids"])
    assert np.array_equal(model(inputs["input_ids"], params=params)[1], want[1])
    assert np.array_equal(model(inputs["input_ids"], params=freeze(params))[1], want[1])


def test_init_weights_draws_by_seed_and_completes_what_is_given(text: Any) -> None:
    config = text.config
    one, two, other = (FlaxCLIPTextModel(config, seed=seed) for seed in (3, 3, 4))
    assert leaves_equal(one.params, two.params) and not leaves_equal(one.params, other.params)
    given = {"text_model": {"final_layer_norm": {"bias": jnp.full(16, 7.0)}}}
    drawn = one.init_weights(jax.random.PRNGKey(3), (1, 1), given)
    assert np.all(drawn["text_model"]["final_layer_norm"].pop("bias") == 7)
    want = copy.deepcopy(one.params)
    want["text_model"]["final_layer_norm"].pop("bias")
    assert leaves_equal(drawn, want)


@pytest.mark.parametrize("cls", [FlaxCLIPModel, FlaxCLIPTextModel, FlaxCLIPVisionModel])
def test_init_weights_in_the_abstract(cls: Any) -> None:
    model = cls(cls.config_class.from_pretrained(CHECKPOINT), _do_init=False)
    shapes = jax.eval_shape(partial(model.init_weights, rng=jax.random.PRNGKey(0), input_shape=model.input_shape))
    assert shapes == model.params_shape_tree
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


def test_casts(text: Any) -> None:
    params = {**text.params, "step": jnp.int32(1)}
    half = text.to_bf16(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half["text_model"])} == {"bfloat16"}
    assert half["step"].dtype == jnp.int32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(text.to_fp32(half)["text_model"])} == {"float32"}
    mask = unflatten_dict({path: path[-1] == "kernel" for path in flatten_dict(params)})
    for path, leaf in flatten_dict(text.to_fp16(freeze(params), mask)).items():
        assert leaf.dtype.name == ("float16" if path[-1] == "kernel" else flatten_dict(params)[path].dtype.name)


@pytest.mark.parametrize("given", ["bfloat16", "bf16", jnp.bfloat16, jnp.dtype("bfloat16"), "torch.bfloat16"])
def test_dtype_as_a_string_or_an_object(text: Any, given: Any) -> None:
    model = FlaxCLIPTextModel(text.config, dtype=given, _do_init=False)
    assert model.dtype is model.module.dtype is jnp.bfloat16


def test_bad_dtype_and_config_are_named(text: Any, full: Any) -> None:
    with pytest.raises(ValueError, match="dtype: unknown name 'float7'"):
        FlaxCLIPTextModel(text.config, dtype="float7")
    with pytest.raises(TypeError, match="FlaxCLIPVisionModel: config: wanted a CLIPVisionConfig"):
        FlaxCLIPVisionModel(text.config)
    with pytest.raises(TypeError, match="FlaxCLIPModel: config: wanted a CLIPConfig"):
        FlaxCLIPModel(full.config.vision_config)


def test_half_precision_parameters_compute_in_the_models_dtype(text: Any, inputs: Any) -> None:
    out = text(inputs["input_ids"], params=text.to_bf16(text.params))
    assert out.last_hidden_state.dtype == jnp.float32
    assert np.abs(out.pooler_output - text(inputs["input_ids"]).pooler_output).max() < 0.1


def test_calls_are_compiled_once_per_shape_and_flags(inputs: Any) -> None:
    model = fresh()
    ids = inputs["input_ids"]
    for _ in range(2):
        model(ids)
        model(ids, output_hidden_states=True)
        model(ids[:1])
    assert model._compiled._cache_size() == 3
    model.jit = False
    assert np.allclose(model(ids, attention_mask=inputs["attention_mask"])[1][1], model(ids)[1][1], atol=1e-6)
    assert model._compiled._cache_size() == 3
    assert not FlaxCLIPTextModel(model.config, jit=False, _do_init=False).jit


def test_a_model_can_be_copied_pickled_and_collected(inputs: Any) -> None:
    model = fresh()
    want = model(inputs["input_ids"])[1]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.params is not model.params and np.array_equal(other(inputs["input_ids"])[1], want)
    gone = weakref.ref(model)
    del model, other
    gc.collect()
    assert gone() is None


def test_inputs_may_be_lists_and_one_sequence(text: Any, inputs: Any) -> None:
    want = text(inputs["input_ids"])[1]
    assert np.array_equal(text(inputs["input_ids"].tolist())[1], want)
    assert np.array_equal(text(inputs["input_ids"].astype(np.int64))[1], want)
    assert np.allclose(text(inputs["input_ids"][0])[1], want[:1], atol=1e-6)


def test_position_ids_move_the_positions(text: Any, inputs: Any) -> None:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    natural = np.broadcast_to(np.arange(12), ids.shape)
    want = text(ids, mask)[0]
    assert np.allclose(text(ids, mask, natural)[0], want, atol=1e-6)
    assert not np.allclose(text(ids, mask, natural[:, ::-1])[0], want, atol=1e-2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, i: m(None, i["pixel_values"]), "wanted [batch, sequence] token ids, found None"),
        (lambda m, i: m(i["input_ids"], None), "wanted [batch, channels, height, width] pixels, found None"),
        (lambda m, i: m.get_text_features(np.zeros((1, 13), int)), "input_ids: wanted at most 12 tokens"),
        (lambda m, i: m.get_text_features([[100]]), "input_ids: wanted ids from 0 to 99 (vocab_size), found 100"),
        (lambda m, i: m.get_text_features([[2**32]]), "from 0 to 99 (vocab_size), found 4294967296"),
        (lambda m, i: m.get_text_features(jnp.array([[-1]])), "from 0 to 99 (vocab_size), found -1"),
        (lambda m, i: m.get_text_features(i["input_ids"], [[1]]), "attention_mask: wanted the shape of input_ids"),
        (lambda m, i: m.get_text_features([[1.5]]), "input_ids: wanted integers, found float64"),
        (lambda m, i: m.get_text_features([[1, 2]], None, [[0, 12]]), "position_ids: wanted 0 to 11"),
        (lambda m, i: m.get_text_features([[1, 2]], None, [[0]]), "position_ids: wanted the shape (1, 2)"),
        (lambda m, i: m.get_image_features(i["pixel_values"][0]), "pixel_values: wanted [batch, 3, 16, 16]"),
        (lambda m, i: m.get_image_features(np.zeros((1, 16, 16, 3))), "found (1, 16, 16, 3)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(full: Any, inputs: Any, call: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(full, inputs)
    assert message in str(caught.value)
