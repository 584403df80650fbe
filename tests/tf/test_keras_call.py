"""Calls of Keras models: styles of input, graphs, dtypes, errors."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import clip_tf
from clip_core.batch import BatchEncoding
from clip_core.config import CLIPTextConfig
from clip_core.errors import InputError

ROUNDING = 2e-6  # the same float32 operations, fused or reordered by a compiler; values are of order 1
MODES = {"graph": {}, "xla": {"jit_compile": True}}


def close(got: Any, want: Any, tolerance: float = ROUNDING) -> None:
    got, want = (np.asarray(tf.cast(x, tf.float32)) for x in (got, want))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1, np.abs(want).max()))


# -- styles of input --------------------------------------------------------------------------------------------------


def styles(ids: np.ndarray, pixels: np.ndarray) -> dict[str, tuple[tuple, dict]]:
    mask = np.ones_like(ids)
    return {
        "keywords": ((), {"input_ids": ids, "pixel_values": pixels}),
        "positions": ((ids, pixels), {}),
        "flags in positions": ((ids, pixels, None, None, True), {}),
        "tensors": ((tf.constant(ids, tf.int32), tf.constant(pixels)), {}),
        "numbers": ((ids.tolist(), pixels.tolist()), {}),
        "list": (([ids, pixels],), {}),
        "tuple of tensors": (((tf.constant(ids), tf.constant(pixels)),), {}),
        "list with a mask": (([ids, pixels, mask],), {}),
        "list with None": (([ids, pixels, None],), {"return_loss": True}),
        "list of numbers": (([ids.tolist(), pixels.tolist()],), {}),
        "dict": (({"input_ids": ids, "pixel_values": pixels},), {}),
        "dict and keywords": (({"input_ids": ids, "attention_mask": mask}, pixels), {"return_loss": True}),
        "processor's": ((BatchEncoding({"pixel_values": pixels, "input_ids": ids.tolist()}),), {}),
        "other integers": ((ids.astype(np.uint8), pixels.astype(np.float64)), {}),
    }


@pytest.mark.parametrize("style", styles(np.zeros((1, 1), int), np.zeros(1)))
def test_every_style_of_input_gives_the_same(model: Any, inputs: dict, output: Any, style: str) -> None:
    args, kwargs = styles(inputs["input_ids"], inputs["pixel_values"])[style]
    close(model(*args, **kwargs).logits_per_text, output.logits_per_text)


def test_features_take_the_same_styles(model: Any, inputs: dict) -> None:
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    text, image = model.get_text_features(ids), model.get_image_features(pixels)
    for value in (ids.tolist(), [ids], {"input_ids": ids}, tf.constant(ids)):
        close(model.get_text_features(value), text)
    for value in (pixels.tolist(), (pixels,), {"pixel_values": pixels}):
        close(model.get_image_features(value), image)
    assert not np.allclose(np.linalg.norm(text, axis=-1), 1, atol=0.05)


def test_a_tower_takes_one_text_or_a_list(model: Any, inputs: dict) -> None:
    tower = clip_tf.TFCLIPTextModel(model.config.text_config)
    ids = inputs["input_ids"]
    want = tower(ids).pooler_output
    close(tower([ids]).pooler_output, want)
    close(tower(ids.tolist()).pooler_output, want)
    close(tower(ids[0]).pooler_output, want[:1])
    close(tower.text_model(input_ids=ids)[1], want)  # the layer itself, as other libraries use it


def test_unknown_names_in_a_dict_are_ignored_with_a_warning(model: Any, inputs: dict, output: Any) -> None:
    with pytest.warns(UserWarning, match="'label'"):
        got = model({**inputs, "label": np.zeros(4)})
    close(got.logits_per_text, output.logits_per_text)


def test_given_twice_is_refused(model: Any, inputs: dict) -> None:
    with pytest.raises(TypeError, match="pixel_values: given twice"):
        model(inputs, pixel_values=inputs["pixel_values"])
    with pytest.raises(TypeError, match=r"TFCLIPModel.call\(\) got an unexpected keyword argument 'labels'"):
        model(**inputs, labels=1)


# -- outputs ----------------------------------------------------------------------------------------------------------


def test_outputs_are_nests_for_tensorflow_and_keras(output: Any) -> None:
    assert isinstance(output, clip_tf.TFCLIPOutput)
    for map_structure in (tf.nest.map_structure, keras.tree.map_structure):
        doubled = map_structure(lambda x: 2 * x, output)
        assert type(doubled) is type(output) and list(doubled) == list(output)
        assert type(doubled.text_model_output) is clip_tf.BaseModelOutputWithPooling
        close(doubled.text_model_output.pooler_output, 2 * output.text_model_output.pooler_output)
        assert doubled.loss.shape == (1,)  # v4.37's TF
    assert len(keras.tree.flatten(output)) == len(tf.nest.flatten(output)) == 9


@pytest.mark.parametrize("mode", MODES)
def test_graphs_give_what_eager_gives(model: Any, inputs: dict, output: Any, mode: str) -> None:
    compiled = tf.function(model, **MODES[mode])
    got = compiled(return_loss=True, output_attentions=True, **{k: tf.constant(v) for k, v in inputs.items()})
    assert type(got) is type(output) and len(got.vision_model_output.attentions) == 1
    for name in ("loss", "logits_per_image", "text_embeds", "image_embeds"):
        close(got[name], output[name], 1e-5)
    again = tf.function(lambda out: out.text_embeds, **MODES[mode])(output)  # and an output goes into a graph
    close(again, output.text_embeds)


def test_sizes_may_be_unknown(model: Any, inputs: dict, output: Any) -> None:
    ids, pixels = tf.TensorSpec((None, None), tf.int64), tf.TensorSpec((None, None, None, None), tf.float32)
    call = tf.function(lambda i, m, p: model(i, p, m), input_signature=[ids, ids, pixels])
    got = call(inputs["input_ids"], np.ones((4, 8), np.int64), inputs["pixel_values"])
    close(got.logits_per_text, output.logits_per_text, 1e-5)
    short = call(inputs["input_ids"][:1, :3], np.ones((1, 3), np.int64), inputs["pixel_values"])
    assert short.text_embeds.shape == (1, 16)
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(inputs["input_ids"], np.ones((4, 8), np.int64), inputs["pixel_values"][:, :, :16, :16])


def test_nobody(model: Any) -> None:
    out = model(np.zeros((0, 5), int), np.zeros((0, 3, 21, 21), np.float32))
    assert out.logits_per_text.shape == (0, 0) and out.text_model_output.last_hidden_state.shape == (0, 5, 24)


def test_batches_of_zeros_do_not_mix(model: Any, inputs: dict) -> None:
    whole = model.get_text_features(inputs["input_ids"])
    close(model.get_text_features(inputs["input_ids"][1:2]), whole[1:2])


# -- the functional API -----------------------------------------------------------------------------------------------


def test_functional_model(model: Any, inputs: dict, output: Any) -> None:
    pixels = keras.Input((3, 21, 21), name="pixel_values")
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    out = model([pixels, ids])  # found by their names
    assert isinstance(out, clip_tf.TFCLIPOutput) and isinstance(out.text_embeds, keras.KerasTensor)
    assert out.text_model_output.last_hidden_state.shape == (None, None, 24)
    built = keras.Model([ids, pixels], {"logits": out.logits_per_text, "text": model.get_text_features(ids)})
    got = built([inputs["input_ids"], inputs["pixel_values"]])
    close(got["logits"], output.logits_per_text)
    close(got["text"], model.get_text_features(inputs["input_ids"]))
    assert len(built.trainable_variables) == len(model.trainable_variables)


# -- masks, positions, activations, sizes -----------------------------------------------------------------------------


def test_a_row_without_visible_tokens_is_uniform_and_finite_in_every_dtype(config: Any, inputs: dict) -> None:
    ids, mask = inputs["input_ids"], np.array([[0] * 8, [1] * 8, [0] + [1] * 7, [1] * 4 + [0] * 4])
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        tower = clip_tf.TFCLIPTextModel(config.text_config, dtype=policy)
        kernel = tower.text_model.encoder.layers[0].self_attn.q_proj.kernel
        kernel.assign(kernel * 300)  # large scores: nothing may shine through what is hidden
        out = tower(ids, mask, output_attentions=True)
        weights = np.asarray(tf.cast(out.attentions[0], tf.float32))
        uniform = np.tril(np.ones((8, 8))) / np.arange(1, 9)[:, None]
        np.testing.assert_allclose(weights[0], np.broadcast_to(uniform, weights[0].shape), atol=2e-3)
        np.testing.assert_allclose(weights[2, :, 0, 0] + weights[2, :, 0, 1:].sum(-1), 1, atol=1e-2)
        assert (weights[3, :, 7, 4:] == 0).all() and np.isfinite(weights).all()
        assert np.isfinite(np.asarray(tf.cast(out.last_hidden_state, tf.float32))).all()


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int64])
def test_masks_of_any_type(model: Any, inputs: dict, dtype: Any) -> None:
    mask = np.array([[1] * 4 + [0] * 4] * 4)
    want = model.get_text_features(inputs["input_ids"], mask.astype(np.int32))
    close(model.get_text_features(inputs["input_ids"], mask.astype(dtype)), want)


def test_positions_for_one_or_all(model: Any, inputs: dict) -> None:
    row = [3, 0, 1, 2, 10, 9, 8, 7]
    want = model.get_text_features(inputs["input_ids"], None, [row] * 4)
    for given in (row, [row], np.array(row)):
        close(model.get_text_features(inputs["input_ids"], position_ids=given), want)
    assert np.abs(want - model.get_text_features(inputs["input_ids"])).max() > 1e-2


def test_other_image_sizes(model: Any, inputs: dict, output: Any) -> None:
    close(
        model.get_image_features(inputs["pixel_values"], interpolate_pos_encoding=True),
        model.get_image_features(inputs["pixel_values"]),
    )
    wide = np.ones((1, 3, 16, 40), np.float32)
    out = model.vision_model(pixel_values=wide, interpolate_pos_encoding=True)
    assert out.last_hidden_state.shape == (1, 2 * 5 + 1, 20)
    compiled = tf.function(model.get_image_features, jit_compile=True)
    close(compiled(wide, interpolate_pos_encoding=True), model.get_image_features(wide, interpolate_pos_encoding=True))
    unknown = tf.function(
        lambda p: model.get_image_features(p, interpolate_pos_encoding=True),
        input_signature=[tf.TensorSpec((None, 3, None, None))],
    )
    with pytest.raises(InputError, match="height and width that are known"):
        unknown(wide)


def test_any_function_may_be_the_activation() -> None:
    small = {"vocab_size": 9, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    ids = [[1, 2, 8]]
    outputs = []
    for act in (tf.nn.relu, "relu", tf.nn.tanh):
        keras.utils.set_random_seed(3)
        config = CLIPTextConfig(num_attention_heads=2, eos_token_id=8, hidden_act=act, **small)
        outputs.append(np.asarray(clip_tf.TFCLIPTextModel(config)(ids).pooler_output))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 1e-4


# -- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "weights", "computation", "tolerance"),
    [
        ("mixed_float16", "float32", "float16", 2e-2),
        ("mixed_bfloat16", "float32", "bfloat16", 1e-1),
        ("bfloat16", "bfloat16", "bfloat16", 1e-1),
        ("float64", "float64", "float64", 1e-5),
    ],
)
def test_policies(
    model: Any, inputs: dict, output: Any, policy: str, weights: str, computation: str, tolerance: float
) -> None:
    other = clip_tf.TFCLIPModel(model.config, dtype=policy)
    other.set_weights(model.get_weights())
    assert {v.dtype for v in other.weights} == {weights} and other.dtype == weights
    assert {layer.compute_dtype for layer in other._flatten_layers()} == {computation}
    got = other(**inputs, return_loss=True, output_attentions=True, output_hidden_states=True)
    leaves = tf.nest.flatten({key: value for key, value in got.items() if key != "loss"})
    assert {leaf.dtype.name for leaf in leaves} == {computation}
    assert got.loss.dtype.name == ("float64" if policy == "float64" else "float32")
    close(got.logits_per_text, output.logits_per_text, tolerance)
    assert keras.config.dtype_policy().name == "float32"  # left as it was


def test_the_global_policy_is_the_default(config: Any) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = clip_tf.TFCLIPVisionModel(config.vision_config)
    finally:
        keras.config.set_dtype_policy("float32")
    assert made.vision_model.encoder.layers[0].mlp.fc1.compute_dtype == "bfloat16"
    assert made(np.zeros((1, 3, 21, 21))).pooler_output.dtype == tf.bfloat16


# -- errors -----------------------------------------------------------------------------------------------------------

# `...` stands for what is right
BAD = {
    "no ids": ({"pixel_values": ...}, "input_ids: wanted [batch, sequence] token ids, found None"),
    "no pixels": ({"input_ids": ...}, "pixel_values: wanted [batch, channels, height, width] pixels, found None"),
    "too long": (
        {"input_ids": np.zeros((1, 12), int), "pixel_values": ...},
        "input_ids: wanted at most 11 tokens (max_position_embeddings), found 12: "
        "tokenize with truncation=True, max_length=11",
    ),
    "no tokens": (
        {"input_ids": np.zeros((2, 0), int), "pixel_values": ...},
        "input_ids: wanted [batch, sequence] with at least one token, found shape (2, 0)",
    ),
    "no such id": (
        {"input_ids": np.array([[1, 59]]), "pixel_values": ...},
        "input_ids: wanted ids from 0 to 58 (vocab_size), found 59",
    ),
    "negative id": (
        {"input_ids": np.array([[1, -1]]), "pixel_values": ...},
        "input_ids: wanted ids from 0 to 58 (vocab_size), found -1",
    ),
    "mask": (
        {"input_ids": ..., "pixel_values": ..., "attention_mask": np.ones((4, 7))},
        "attention_mask: wanted the shape of input_ids (4, 8), found (4, 7)",
    ),
    "fractions": (
        {"input_ids": np.zeros((1, 3)), "pixel_values": ...},
        "input_ids: wanted integers, found float64",
    ),
    "positions": (
        {"input_ids": ..., "pixel_values": ..., "position_ids": np.zeros((4, 7), int)},
        "position_ids: wanted the shape (4, 8) or (1, 8), found (4, 7)",
    ),
    "no such position": (
        {"input_ids": ..., "pixel_values": ..., "position_ids": np.full((1, 8), 11)},
        "position_ids: wanted 0 to 10 (max_position_embeddings), found 11",
    ),
    "pairs": (
        {"input_ids": np.zeros((3, 2), int), "pixel_values": ..., "return_loss": True},
        "return_loss: wanted as many texts as images, found 3 texts and 4 images",
    ),
    "NHWC": (
        {"input_ids": ..., "pixel_values": np.zeros((1, 21, 21, 3))},
        "pixel_values: wanted [batch, 3, 21, 21], found (1, 21, 21, 3)",
    ),
    "another size": (
        {"input_ids": ..., "pixel_values": np.zeros((1, 3, 24, 24))},
        "pixel_values: wanted [batch, 3, 21, 21], found (1, 3, 24, 24): "
        "for other sizes pass interpolate_pos_encoding=True",
    ),
    "one picture": (
        {"input_ids": ..., "pixel_values": np.zeros((3, 21, 21))},
        "pixel_values: wanted [batch, 3, 21, 21], found (3, 21, 21)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_in_the_words_of_the_core(model: Any, inputs: dict, case: str) -> None:
    """Keras and AutoGraph would otherwise rewrite message and type."""
    given, message = BAD[case]
    given = {name: inputs[name] if value is ... else value for name, value in given.items()}
    with pytest.raises(InputError) as eager:
        model(**given)
    assert str(eager.value) == message
    if case not in ("no such id", "negative id", "no such position"):  # numbers are looked at where they are known
        flags = {name: given.pop(name) for name in ("return_loss",) if name in given}
        with pytest.raises(InputError) as graph:
            tf.function(model)(**{name: tf.constant(value) for name, value in given.items()}, **flags)
        assert str(graph.value) == message


def test_ragged_and_wordy_inputs_are_named(model: Any, inputs: dict) -> None:
    with pytest.raises(ValueError, match="input_ids: rows differ in length"):
        model.get_text_features([[1, 2], [3]])
    with pytest.raises(InputError, match="input_ids: wanted numbers"):
        model.get_text_features(np.array([["a"]]))
    with pytest.raises(InputError, match="input_ids: wanted a dense tensor, found a RaggedTensor"):
        model.get_text_features(tf.ragged.constant([[1, 2], [3]]))
    with pytest.raises(TypeError, match="TFCLIPModel: config: wanted a CLIPConfig"):
        clip_tf.TFCLIPModel(model.config.text_config)
    symbolic = tf.function(lambda flag: model(**inputs, output_attentions=flag))
    with pytest.raises(InputError, match="output_attentions: wanted True, False or None"):
        symbolic(tf.constant(True))


def test_calling_warns_of_nothing(model: Any, inputs: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**inputs)
