"""Replaced, wrapped, subclassed or patched layers are called on every path: no short cut skips them."""

from __future__ import annotations

import copy
from functools import wraps
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import clip_tf
from clip_tf import modeling
from clip_tf.shortcuts import untouched

ROUNDING = 1e-5  # other kernels, the same float32 arithmetic; values of order 1


class Wrapped(keras.layers.Layer):
    """The sine of what a layer gives, three times as fast: by a weight of its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.gain = self.add_weight((), keras.initializers.Constant(3.0), name="gain")

    def call(self, *args: Any, **kwargs: Any) -> Any:
        out = self.inner(*args, **kwargs)
        bent = tf.sin(self.gain * (out[0] if isinstance(out, tuple) else out))
        return (bent, *out[1:]) if isinstance(out, tuple) else bent


class Attention(modeling.TFCLIPAttention):
    """A subclass that looks at all tokens' queries: nothing may be left out."""

    def call(  # v4.37's parameters
        self,
        hidden_states: Any,
        attention_mask: Any,
        causal_attention_mask: Any,
        output_attentions: Any,
        training: bool = False,
    ) -> Any:
        masks = attention_mask, causal_attention_mask
        context, *weights = super().call(hidden_states, *masks, output_attentions, training=training)
        return context + tf.reduce_mean(context, axis=1, keepdims=True), *weights


def tripled(function: Any) -> Any:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        return (3 * out[0], *out[1:]) if isinstance(out, tuple) else 3 * out

    return run


def wrap_layer(tower: Any) -> None:
    tower.encoder.layers[-1] = Wrapped(tower.encoder.layers[-1])


def wrap_mlp(tower: Any) -> None:
    tower.encoder.layers[-1].mlp = Wrapped(tower.encoder.layers[-1].mlp)


def wrap_fc1(tower: Any) -> None:
    tower.encoder.layers[0].mlp.fc1 = Wrapped(tower.encoder.layers[0].mlp.fc1)


def patch_fc2(tower: Any) -> None:
    fc2 = tower.encoder.layers[0].mlp.fc2
    fc2.call = tripled(fc2.call)


def patch_attention(tower: Any) -> None:
    attention = tower.encoder.layers[-1].self_attn
    attention.call = tripled(attention.call)


def subclass_attention(tower: Any) -> None:
    old = tower.encoder.layers[-1].self_attn
    new = Attention(tower.config, 0)
    new.build()
    new.set_weights(old.get_weights())
    tower.encoder.layers[-1].self_attn = new


def drop_layer(tower: Any) -> None:
    tower.encoder.layers = list(tower.encoder.layers)[:-1]


def another_activation(tower: Any) -> None:
    tower.encoder.layers[0].mlp.activation_fn = tf.nn.relu


CHANGES = [
    wrap_layer,
    wrap_mlp,
    wrap_fc1,
    patch_fc2,
    patch_attention,
    subclass_attention,
    drop_layer,
    another_activation,
]


def build(config: Any) -> Any:
    """Two layers each, biases too, so that every change shows."""
    config = copy.deepcopy(config)
    for part in (config.text_config, config.vision_config):
        part.num_hidden_layers = 2
    model = clip_tf.TFCLIPModel(config)
    for i, weight in enumerate(model.weights):
        if weight.path.endswith(("bias", "beta")):
            weight.assign(tf.random.stateless_normal(weight.shape, (i, 1), stddev=0.2))
    return model


def plain(model: Any, inputs: dict) -> tuple[Any, Any]:
    """Features without any short cut: the towers' own calls."""
    text = model.text_model(inputs["input_ids"])[1]
    image = model.vision_model(inputs["pixel_values"])[1]
    return model.text_projection(text), model.visual_projection(image)


@pytest.mark.parametrize("change", CHANGES)
def test_features_see_what_was_changed(change: Any, config: Any, inputs: dict) -> None:
    from triclip.backends import tf_

    model = build(config)
    before = model.get_text_features(inputs["input_ids"]), model.get_image_features(inputs["pixel_values"])
    graphs = (
        lambda: tf_.text_features(model, inputs["input_ids"]),
        lambda: tf_.image_features(model, inputs["pixel_values"]),
    )
    for run, want in zip(graphs, before, strict=True):  # traced before the change
        np.testing.assert_allclose(run(), want, atol=ROUNDING)
    change(model.text_model)
    change(model.vision_model)
    want = plain(model, inputs)
    got = model.get_text_features(inputs["input_ids"]), model.get_image_features(inputs["pixel_values"])
    for was, now, run, wanted in zip(before, got, graphs, want, strict=True):
        assert np.abs(np.asarray(now) - np.asarray(was)).max() > 1e-3, "the change shows"
        np.testing.assert_allclose(now, wanted, atol=ROUNDING)
        np.testing.assert_allclose(run(), wanted, atol=ROUNDING)


@pytest.mark.parametrize("name", ["TFCLIPAttention", "TFCLIPEncoderLayer", "TFCLIPMLP", "TFCLIPTextTransformer"])
def test_a_class_that_is_patched_is_seen(name: str, config: Any, inputs: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = getattr(modeling, name)
    calls = []
    original = cls.call

    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args[0].shape if args else None)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, "call", call)
    model = build(config)
    assert not untouched(model)
    model.get_text_features(inputs["input_ids"])
    assert calls and all(shape is None or shape[1] == 8 for shape in calls), "all tokens, not the pooled one alone"


def test_a_subclass_of_the_model_is_asked(config: Any, inputs: dict) -> None:
    from triclip.backends import tf_

    class Half(clip_tf.TFCLIPModel):
        def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_text_features(*args, **kwargs).numpy() / 2  # no graph can do this

    model = Half(config)
    want = model.clip.get_text_features(inputs["input_ids"]) / 2
    np.testing.assert_allclose(tf_.text_features(model, inputs["input_ids"]), want, atol=ROUNDING)


def test_weights_of_what_was_replaced(config: Any, inputs: dict) -> None:
    model = build(config)
    count = len(model.weights)
    wrap_mlp(model.text_model)
    assert len(model.weights) == count + 1
    wrap_layer(model.text_model)
    model.get_text_features(inputs["input_ids"])
    assert len(model.weights) == count + 2, "an item of a list is found by the next call"
    drop_layer(model.vision_model)
    assert len(model.weights) == count + 2 - 16
    model.text_model = Wrapped(model.text_model)
    assert model.clip.text_model is model.text_model and not untouched(model)
    assert "gain" in {weight.name for weight in model.text_model.weights}


def test_an_untouched_model_takes_the_short_cuts(config: Any, inputs: dict) -> None:
    model = build(config)
    model(**inputs)
    assert untouched(model)
    model.compile("sgd", run_eagerly=True)
    model.fit(inputs, batch_size=4, verbose=0)
    assert untouched(model)


# -- embeddings -------------------------------------------------------------------------------------------------------


def test_more_rows_than_the_config_says(config: Any) -> None:
    model = build(config)
    rows = np.random.default_rng(0).standard_normal((70, 24)).astype(np.float32)
    model.set_input_embeddings(rows)
    assert model.get_text_features([[57, 69, 58]]).shape == (1, 16)
    with pytest.raises(ValueError, match="from 0 to 69"):
        model.get_text_features([[57, 70, 58]])
    model.text_model.embeddings.position_embedding = keras.layers.Embedding(40, 24)
    assert model.get_text_features([[57] * 30]).shape == (1, 16)
    assert model.get_text_features([[57] * 3], position_ids=[[1, 39, 2]]).shape == (1, 16)


def test_a_patched_embedding_may_take_any_id(config: Any) -> None:
    model = build(config)
    embedding = model.text_model.embeddings.token_embedding
    original = embedding.call
    embedding.call = lambda ids: original(tf.where(ids < 59, ids, 0))
    np.testing.assert_array_equal(model.get_text_features([[57, 4000, 58]]), model.get_text_features([[57, 0, 58]]))


@pytest.mark.parametrize("own", [True, False])
def test_another_grid_of_positions(own: bool, config: Any) -> None:
    model = clip_tf.TFCLIPVisionModel(config.vision_config)
    embeddings, patch = model.vision_model.embeddings, config.vision_config.patch_size
    side, wide = 6 * patch, np.ones((1, 3, 6 * patch, 6 * patch), np.float32)
    with pytest.raises(ValueError, match="pixel_values: wanted"):
        model(wide)
    table = np.random.default_rng(0).standard_normal((37, 20)).astype(np.float32)
    layer = modeling.Embedding.of(tf.constant(table), model) if own else keras.layers.Embedding(37, 20)
    embeddings.position_embedding = layer
    assert model(wide).last_hidden_state.shape == (1, 37, 20)
    if own:
        with pytest.raises(ValueError, match=rf"wanted \[batch, 3, {side}, {side}\]"):
            model(np.ones((1, 3, 21, 21), np.float32))
