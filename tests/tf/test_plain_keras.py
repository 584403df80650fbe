"""With a Keras or TensorFlow that lacks private features used here, the plain path gives the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import clip_tf
from clip_core.checkpoint import Tensor
from clip_tf import names
from clip_tf.shortcuts import walk


def test_flags_go_as_keywords(config: Any, inputs: dict) -> None:
    model = clip_tf.TFCLIPModel(config)
    want = model(**inputs, return_loss=True, output_attentions=True)
    for layer in walk(model):
        layer._allow_non_tensor_positional_args = False
    got = model(**inputs, return_loss=True, output_attentions=True)
    np.testing.assert_array_equal(got.loss, want.loss)
    np.testing.assert_array_equal(model.get_text_features(inputs["input_ids"]), model.clip.get_text_features(inputs))
    assert model.get_image_features(inputs["pixel_values"], interpolate_pos_encoding=True).shape == (4, 16)


def test_layers_are_replaced_without_the_tracker(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = clip_tf.TFCLIPTextModel(config.text_config)
    embeddings = model.text_model.embeddings
    monkeypatch.delattr(type(embeddings._tracker), "untrack")
    model.resize_token_embeddings(70)
    assert model([[57, 69, 58]]).pooler_output.shape == (1, 24)
    assert model._get_weights()["text_model.embeddings.token_embedding.weight"].shape == (70, 24)


@pytest.mark.parametrize("missing", ["ResourceStridedSliceAssign", "DisableCopyOnRead"])
def test_weights_are_filled_at_once(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.setattr(names, "PIECE", 64)
    monkeypatch.delattr(tf.raw_ops, missing)
    values = np.arange(600, dtype=np.float32).reshape(30, 20)
    variable = keras.Variable(np.zeros((30, 20), np.float32))
    names.fill(variable, Tensor.from_numpy(values))
    np.testing.assert_array_equal(variable, values)
