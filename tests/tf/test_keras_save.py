"""Saving and loading by this package and by Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import clip_tf
from clip_core.checkpoint import Tensor, load
from clip_core.errors import CheckpointError
from clip_core.pretrained import Loaded
from clip_core.weights import Difference, weight_table
from conformance.cases import draw_weight

CLASSES = {
    "text": "TFCLIPTextModel",
    "text_projection": "TFCLIPTextModelWithProjection",
    "vision": "TFCLIPVisionModel",
    "vision_projection": "TFCLIPVisionModelWithProjection",
    "full": "TFCLIPModel",
}


def same_weights(got: Any, want: Any) -> None:
    got, want = got._get_weights(), want._get_weights()
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_array_equal(got[name].numpy(), want[name].numpy(), err_msg=name)


def test_weights_are_where_their_names_say(config: Any) -> None:
    """Canonical values land in the layer that their name spells, in that layer's own order of axes."""
    table = weight_table(config, "full")
    values = {name: draw_weight(name, row.shape) for name, row in table.items()}
    tensors = {name: Tensor.from_numpy(value) for name, value in values.items()}
    model = clip_tf.TFCLIPModel._from_weights(Loaded(config, tensors, [], Difference([], [], []), "float32"))
    attention, vision = model.text_model.encoder.layers[0].self_attn, model.vision_model
    for variable, want in {
        "kernel": (attention.q_proj.kernel, values["text_model.encoder.layers.0.self_attn.q_proj.weight"].T),
        "bias": (attention.q_proj.bias, values["text_model.encoder.layers.0.self_attn.q_proj.bias"]),
        "patches": (
            vision.embeddings.patch_embedding.kernel,
            values["vision_model.embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0),
        ),
        "gamma": (vision.pre_layrnorm.gamma, values["vision_model.pre_layrnorm.weight"]),
        "beta": (model.clip.vision_model.pre_layrnorm.beta, values["vision_model.pre_layrnorm.bias"]),
        "tokens": (
            model.text_model.embeddings.token_embedding.embeddings,
            values["text_model.embeddings.token_embedding.weight"],
        ),
        "scale": (model.logit_scale, values["logit_scale"]),
    }.values():
        np.testing.assert_array_equal(variable, want)
    got = model._get_weights()
    assert list(got) == list(values)
    assert all(np.array_equal(got[name].numpy(), values[name]) for name in values)
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths) == len(table)
    assert attention.q_proj.kernel.path.endswith("/text_model/encoder/layers_0/self_attn/q_proj/kernel")


@pytest.mark.parametrize("scope", CLASSES)
def test_save_pretrained_and_from_pretrained(model: Any, inputs: dict, tmp_path: Path, scope: str) -> None:
    """A full model's folder gives every class; each class's own folder gives it back, to the bit."""
    model.save_pretrained(tmp_path / "full", safe_serialization=True)
    cls = getattr(clip_tf, CLASSES[scope])
    loaded = cls.from_pretrained(tmp_path / "full")
    ours = model._get_weights()
    for name, tensor in loaded._get_weights().items():
        np.testing.assert_array_equal(tensor.numpy(), ours[name].numpy())
    loaded.save_pretrained(tmp_path / "own")
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"config.json", "tf_model.h5"}  # v4.37's default
    stored = json.loads((tmp_path / "own/config.json").read_text())
    assert stored["architectures"] == [CLASSES[scope].removeprefix("TF")] and stored["torch_dtype"] == "float32"
    again = cls.from_pretrained(tmp_path / "own", name="again")
    same_weights(again, loaded)
    assert again.name == "again"
    bookkeeping = {"_name_or_path", "architectures", "torch_dtype"}
    was, now = ({k: v for k, v in m.config.to_diff_dict().items() if k not in bookkeeping} for m in (loaded, again))
    assert now == was


def test_from_pt_and_shards(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB", safe_serialization=True)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    same_weights(clip_tf.TFCLIPModel.from_pretrained(str(tmp_path), from_pt=True), model)
    read = load(tmp_path)
    kernel = np.asarray(model.text_model.encoder.layers[0].mlp.fc1.kernel)
    np.testing.assert_array_equal(read.tensors["text_model.encoder.layers.0.mlp.fc1.weight"].numpy(), kernel.T)


@pytest.mark.parametrize(
    ("asked", "weights", "computation"),
    [
        (None, "float32", "float32"),
        ("auto", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
        (tf.bfloat16, "bfloat16", "bfloat16"),
        ("mixed_float16", "float32", "float16"),
        (keras.DTypePolicy("mixed_bfloat16"), "float32", "bfloat16"),
    ],
)
def test_dtypes(config: Any, tmp_path: Path, asked: Any, weights: str, computation: str) -> None:
    model = clip_tf.TFCLIPVisionModel(config.vision_config, dtype="bfloat16")
    model.save_pretrained(tmp_path, safe_serialization=True)
    loaded = clip_tf.TFCLIPVisionModel.from_pretrained(tmp_path, dtype=asked)
    assert {w.dtype for w in loaded.weights} == {weights}
    assert loaded.vision_model.encoder.layers[0].mlp.fc1.compute_dtype == computation
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        once = tf.cast(tf.cast(ours, theirs.dtype), tf.float32)  # float16 has no room for bfloat16's smallest
        np.testing.assert_array_equal(once, tf.cast(theirs, tf.float32))


def test_the_global_policy_decides_where_it_fits(config: Any, tmp_path: Path) -> None:
    clip_tf.TFCLIPVisionModel(config.vision_config).save_pretrained(tmp_path, safe_serialization=True)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = clip_tf.TFCLIPVisionModel.from_pretrained(tmp_path)
        half = clip_tf.TFCLIPVisionModel.from_pretrained(tmp_path, dtype="float16")
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.dtype_policy.name == "mixed_bfloat16" and half.dtype_policy.name == "float16"


def test_loading_problems(config: Any, tmp_path: Path) -> None:
    clip_tf.TFCLIPTextModel(config.text_config).save_pretrained(tmp_path, safe_serialization=True)
    with pytest.raises(CheckpointError, match=r"- text_projection\.weight"):
        clip_tf.TFCLIPTextModelWithProjection.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="text_projection"):
        part, info = clip_tf.TFCLIPTextModelWithProjection.from_pretrained(
            tmp_path, strict=False, output_loading_info=True
        )
    assert info["missing_keys"] == ["text_projection.weight"] and np.std(part.text_projection.kernel) > 0.05
    with pytest.raises(CheckpointError, match="load it with TFCLIPTextModel"):
        clip_tf.TFCLIPModel.from_pretrained(tmp_path)


# -- Keras' own files -------------------------------------------------------------------------------------------------


def test_keras_file(model: Any, inputs: dict, output: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is clip_tf.TFCLIPModel and loaded.config.to_dict() == model.config.to_dict()
    same_weights(loaded, model)
    np.testing.assert_array_equal(loaded(**inputs).logits_per_text, output.logits_per_text)


@pytest.mark.parametrize("scope", list(CLASSES)[:-1])
def test_keras_file_of_a_tower(config: Any, tmp_path: Path, scope: str) -> None:
    cls = getattr(clip_tf, CLASSES[scope])
    own = config.text_config if "text" in scope else config.vision_config
    model = cls(own, dtype="mixed_bfloat16", name="tower")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    same_weights(loaded, model)
    assert type(loaded) is cls and loaded.name == "tower"
    assert {layer.compute_dtype for layer in loaded._flatten_layers()} == {"bfloat16"}


def test_a_compiled_model_goes_on_where_it_stopped(config: Any, inputs: dict, tmp_path: Path) -> None:
    model = clip_tf.TFCLIPModel(config)
    # The keys' bias has gradient 0 in real numbers: without an epsilon above rounding, Adam steps by rounding alone.
    model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-3), run_eagerly=True)
    model.fit(inputs, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 1
    for trained in (model, loaded):
        trained.fit(inputs, batch_size=4, verbose=0)
    for name, tensor in model._get_weights().items():
        np.testing.assert_allclose(loaded._get_weights()[name].numpy(), tensor.numpy(), atol=1e-6)


def test_weights_file(model: Any, config: Any, tmp_path: Path) -> None:
    model.save_weights(tmp_path / "model.weights.h5")
    other = clip_tf.TFCLIPModel(config)
    other.load_weights(tmp_path / "model.weights.h5")
    same_weights(other, model)
    for got, want in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("inside", ["model", "towers"])
def test_functional_models(model: Any, inputs: dict, tmp_path: Path, inside: str) -> None:
    ids, pixels = keras.Input((8,), dtype="int32"), keras.Input((3, 21, 21))
    if inside == "model":
        whole = model({"input_ids": ids, "pixel_values": pixels})
        outputs = [keras.layers.Dense(2)(whole.vision_model_output.pooler_output), whole.text_embeds]
    else:
        outputs = [keras.layers.Dense(2)(model.get_image_features(pixels)), model.get_text_features(ids)]
    built = keras.Model([ids, pixels], outputs)
    built.save(tmp_path / "built.keras")
    loaded = keras.models.load_model(tmp_path / "built.keras")
    given = [inputs["input_ids"], inputs["pixel_values"]]
    for got, want in zip(loaded(given), built(given), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_configs_of_either_kind(model: Any) -> None:
    for given in (model.get_config(), model.config, model.config.to_dict()):
        made = clip_tf.TFCLIPModel.from_config(given)
        assert made.config.to_diff_dict() == model.config.to_diff_dict()
    clone = keras.models.clone_model(model)
    assert type(clone) is clip_tf.TFCLIPModel and clone.count_params() == model.num_parameters()
    assert made.num_parameters(only_trainable=True) == sum(np.prod(w.shape) for w in model.trainable_weights)
