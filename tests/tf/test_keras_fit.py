"""Training: the model's own loss, a user's, gradient checkpointing, dropout, initialisation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import clip_tf
from clip_core.errors import InputError
from clip_core.init import initial_values
from conformance.cases import TEXT, VISION


def fresh(config: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(5)
    return clip_tf.TFCLIPModel(config, **options)


def adam() -> Any:
    return keras.optimizers.Adam(3e-3)


def contrastive(logits: np.ndarray) -> float:
    """The paper's loss, by hand."""
    losses = []
    for scores in (logits, logits.T):
        shifted = scores - scores.max(-1, keepdims=True)
        losses.append(-np.mean(np.diag(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))))
    return float(np.mean(losses))


def test_own_loss(config: Any, inputs: dict) -> None:
    """`fit` on inputs alone; and what it reports is the loss."""
    model = fresh(config)
    want = contrastive(np.asarray(model(**inputs).logits_per_text))
    np.testing.assert_allclose(model(**inputs, return_loss=True).loss, want, rtol=1e-5)
    model.compile(adam(), jit_compile=False)
    history = model.fit(inputs, epochs=4, batch_size=4, verbose=0).history["loss"]
    np.testing.assert_allclose(history[0], want, rtol=1e-4)
    assert history[-1] < history[0] - 0.1
    evaluated = model.evaluate(list(inputs.values()), batch_size=4, verbose=0)
    np.testing.assert_allclose(evaluated, contrastive(np.asarray(model(**inputs).logits_per_text)), rtol=1e-4)


def test_own_loss_from_a_dataset_that_asks_for_it(config: Any, inputs: dict) -> None:
    data = tf.data.Dataset.from_tensor_slices(inputs).batch(4).map(lambda batch: {**batch, "return_loss": True})
    model = fresh(config)
    model.compile(adam(), loss="auto_with_warning", jit_compile=False)  # v4.37's way to say so
    want = contrastive(np.asarray(model(**inputs).logits_per_text))
    np.testing.assert_allclose(model.fit(data, verbose=0).history["loss"], [want], rtol=1e-4)


def test_labels_meet_outputs(config: Any, inputs: dict) -> None:
    """A single array the first output, a dict by name; losses and metrics alike."""
    model = fresh(config)
    out = model(**inputs)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(adam(), entropy, ["accuracy"], run_eagerly=True)  # v4.37's positions
    got = model.evaluate(inputs, np.arange(4), batch_size=4, verbose=0, return_dict=True)
    np.testing.assert_allclose(got["loss"], entropy(np.arange(4), out.logits_per_image), rtol=1e-4)
    np.testing.assert_allclose(got["accuracy"], np.mean(np.argmax(out.logits_per_image, -1) == np.arange(4)))

    losses = {"text_embeds": "mse", "image_embeds": "mae"}
    model.compile(adam(), loss=losses, metrics=[], run_eagerly=True)
    labels = {"text_embeds": np.zeros((4, 16), "f"), "image_embeds": np.ones((4, 16), "f")}
    got = model.fit(inputs, labels, batch_size=4, verbose=0).history
    want = np.mean(np.square(out.text_embeds)) + np.mean(np.abs(1 - np.asarray(out.image_embeds)))
    np.testing.assert_allclose(got["loss"], [want], rtol=1e-4)
    with pytest.raises(InputError, match="labels: wanted some of .*found 'no_such_output'"):
        model.evaluate(inputs, {"no_such_output": np.zeros((4, 1))}, verbose=0)


def test_towers_need_a_loss_and_learn_with_one(inputs: dict) -> None:
    config = clip_tf.CLIPVisionConfig(**{**VISION, "num_hidden_layers": 1})
    model = clip_tf.TFCLIPVisionModelWithProjection(config)
    want = np.mean(np.square(model(inputs["pixel_values"]).image_embeds))
    model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=True)
    history = model.fit(inputs["pixel_values"], np.zeros((4, 18)), epochs=3, batch_size=4, verbose=0).history["loss"]
    np.testing.assert_allclose(history[0], want, rtol=1e-4)
    assert history[-1] < history[0]
    predicted = model.predict(inputs["pixel_values"], batch_size=3, verbose=0)
    np.testing.assert_allclose(predicted.image_embeds, model(inputs["pixel_values"]).image_embeds, atol=1e-5)


def test_mixed_precision_training(config: Any, inputs: dict) -> None:
    """Loss scaling as Keras does it; weights stay float32 and move."""
    model = fresh(config, dtype="mixed_float16")
    before = [np.array(w) for w in model.get_weights()]
    model.compile(keras.optimizers.LossScaleOptimizer(adam(), initial_scale=64), run_eagerly=True)
    history = model.fit(inputs, epochs=2, batch_size=4, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    moved = [np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True)]
    assert np.mean(moved) > 0.8 and {w.dtype for w in model.weights} == {"float32"}


def gradients(model: Any, inputs: dict, **options: Any) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        loss = model(**inputs, return_loss=True, **options).loss
    return [np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(loss, model.trainable_variables)]


def test_gradient_checkpointing_changes_no_gradient(config: Any, inputs: dict) -> None:
    """Also with dropout: a layer that is computed again drops the same weights."""
    dropping = clip_tf.CLIPConfig.from_dict(config.to_dict())
    dropping.text_config.attention_dropout = dropping.vision_config.attention_dropout = 0.5
    model = fresh(dropping)
    seeds = [tower.encoder.seeds.state for tower in (model.text_model, model.vision_model)]
    found = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        for state in seeds:
            state.assign([3, 0])
        found.append(gradients(model, inputs, training=True))
    assert model.is_gradient_checkpointing
    for plain, checkpointed in zip(*found, strict=True):
        np.testing.assert_allclose(checkpointed, plain, atol=1e-6)
    compiled = tf.function(lambda: model(**inputs, return_loss=True, training=True).loss)
    assert np.isfinite(compiled())


def test_attention_dropout(inputs: dict) -> None:
    model = clip_tf.TFCLIPTextModel(clip_tf.CLIPTextConfig(**{**TEXT, "attention_dropout": 0.5}))
    ids = inputs["input_ids"]
    plain = np.asarray(model(ids).pooler_output)
    np.testing.assert_array_equal(model(ids, training=False).pooler_output, plain)
    one, two = (np.asarray(model(ids, training=True).pooler_output) for _ in range(2))
    assert np.abs(one - plain).max() > 1e-3 and np.abs(one - two).max() > 1e-3
    compiled = tf.function(lambda: model(ids, training=True).pooler_output)
    assert np.abs(compiled() - compiled()).max() > 1e-3
    whole = model(ids, training=True, output_attentions=True).attentions[0]
    np.testing.assert_allclose(np.sum(whole, -1), 1, atol=1e-5)  # reported as they were before dropping
    assert not any("seed" in weight.path for weight in model.weights)


def test_initialisation_follows_the_rule(config: Any) -> None:
    model, again = fresh(config), fresh(config)
    other = clip_tf.TFCLIPModel(config)
    for name, (kind, value) in initial_values(config, "full").items():
        array = np.asarray(model._variables_by_name()[name][0])
        if kind == "constant":
            np.testing.assert_allclose(array, value, rtol=1e-6)
        else:
            spread = 4 / np.sqrt(2 * array.size)  # four standard errors of a standard deviation
            np.testing.assert_allclose(np.std(array), value, rtol=spread, err_msg=name)
            assert abs(array.mean()) < 4 * value / np.sqrt(array.size)
            np.testing.assert_array_equal(array, again._variables_by_name()[name][0])  # the seed decides
            assert np.abs(array - np.asarray(other._variables_by_name()[name][0])).max() > 0


def test_resizing_the_vocabulary(config: Any, inputs: dict) -> None:
    model = fresh(clip_tf.CLIPConfig.from_dict(config.to_dict()))
    before = model.get_text_features(inputs["input_ids"])
    count = len(model.trainable_variables)
    layer = model.resize_token_embeddings(60, pad_to_multiple_of=32)
    assert layer is model.get_input_embeddings() and layer.embeddings.shape == (64, 24)
    assert model.config.text_config.vocab_size == 64 and len(model.trainable_variables) == count
    np.testing.assert_array_equal(model.get_text_features(inputs["input_ids"]), before)
    assert np.std(layer.embeddings[59:]) > 0.01
    model.get_text_features([[63]])
    model.compile(adam(), run_eagerly=True)
    model.fit(inputs, batch_size=4, verbose=0)
    model.resize_token_embeddings(10)
    with pytest.raises(InputError, match="wanted ids from 0 to 9"):
        model.get_text_features([[10]])
    model.set_input_embeddings(np.zeros((5, 24)))
    assert not np.any(model.get_input_embeddings().embeddings) and model.config.text_config.vocab_size == 5
    with pytest.raises(ValueError, match="TFCLIPVisionModel.resize_token_embeddings: this model has no token"):
        clip_tf.TFCLIPVisionModel(config.vision_config).resize_token_embeddings(3)
