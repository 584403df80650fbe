"""The contract of v4.37's Keras models beside calls, with files and names of the real library."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import clip_tf
from clip_core.absent import ABSENT
from clip_core.errors import CheckpointError, InputError

from . import golden437

CLASSES = {"TFCLIPModel": None, "TFCLIPTextModel": "text_config", "TFCLIPVisionModel": "vision_config"}


def make(name: str, config: Any) -> Any:
    part = CLASSES[name]
    return getattr(clip_tf, name)(config if part is None else getattr(config, part))


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_name_works_or_says_what_to_use(name: str, config: Any) -> None:
    model = make(name, config)
    wanted = golden437.names()[name]
    missing = [n for n in wanted if not hasattr(model, n)]
    generation = {n for n, instead in ABSENT["tf_model"].items() if "it generates none" in instead}
    assert len(set(missing) - generation) <= (len(wanted) - len(generation)) / 10
    for n in missing:
        with pytest.raises(AttributeError, match=f"has no '{n}': .{{10,}}"):
            getattr(model, n)
    with pytest.raises(AttributeError, match=f"'{name}' object has no attribute 'nonsense'$"):
        model.nonsense  # noqa: B018


def test_small_methods(model: Any) -> None:
    assert model.framework == "tf" and model.can_generate() is False and model.generation_config is None
    heads = (model.get_lm_head(), model.get_bias(), model.get_output_embeddings(), model.get_output_layer_with_bias())
    assert heads == (None,) * 4 and model.get_prefix_bias_name() is None
    assert model.get_label_to_output_name_mapping() == {}
    assert model.get_head_mask(None, 3) == [None] * 3
    mask = model.get_head_mask(tf.constant([1, 0]), 3)
    assert mask.shape == (3, 1, 2, 1, 1) and mask.dtype == tf.float32
    with pytest.raises(ValueError, match="head_mask"):
        model.get_head_mask(tf.zeros((2, 2, 2)), 3)
    with pytest.warns(FutureWarning, match="serving"):
        got = model.eager_serving(model.dummy_inputs)
    np.testing.assert_array_equal(got["text_embeds"], model(model.dummy_inputs).text_embeds)
    model.build_in_name_scope()


def test_a_config_from_elsewhere(config: Any) -> None:
    made = clip_tf.TFCLIPModel._from_config(config, name="made")
    assert made.name == "made" and made.config is not config
    foreign = type("CLIPVisionConfig", (), {"to_dict": lambda self: config.vision_config.to_dict()})()
    assert clip_tf.TFCLIPVisionModel(foreign).config.hidden_size == config.vision_config.hidden_size
    with pytest.raises(TypeError, match="pass its text_config"):
        clip_tf.TFCLIPTextModel(config)


# -- parts called by themselves ---------------------------------------------------------------------------------------


def test_encoder_and_layers_take_v437s_arguments(model: Any) -> None:
    tower = model.text_model
    ids, mask = tf.constant([[1, 5, 3, 2, 2]]), tf.constant([[1, 1, 1, 0, 0]])
    lowest = tf.float32.min
    padding = tf.where(mask[:, None, None, :] == 1, 0.0, lowest) + tf.zeros((1, 1, 5, 1))
    causal = tf.where(tf.linalg.band_part(tf.ones((5, 5)), -1, 0) == 1, 0.0, lowest)[None, None]
    want = tower(ids, mask, output_attentions=True, output_hidden_states=True)
    x = tower.embeddings(input_ids=ids)
    out = tower.encoder(
        hidden_states=x, attention_mask=padding, causal_attention_mask=causal,
        output_attentions=True, output_hidden_states=True, return_dict=True,
    )  # fmt: skip
    np.testing.assert_allclose(tower.final_layer_norm(out.last_hidden_state), want.last_hidden_state, atol=1e-5)
    np.testing.assert_allclose(tower.encoder(x, padding, causal, False, False, False)[0], out[0], atol=1e-5)
    layer = tower.encoder.layers[0]
    states, weights = layer(x, padding, causal, True)
    np.testing.assert_allclose(states, want.hidden_states[1], atol=1e-5)
    np.testing.assert_allclose(weights, want.attentions[0], atol=1e-6)
    (alone,) = layer(x, padding, causal, False, training=False)
    np.testing.assert_array_equal(alone, states)
    attended, weights = layer.self_attn(
        hidden_states=layer.layer_norm1(x), attention_mask=padding, causal_attention_mask=causal, output_attentions=True
    )
    np.testing.assert_allclose(x + attended + layer.mlp(layer.layer_norm2(x + attended)), states, atol=1e-5)


# -- the main layer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_the_main_layer(name: str, config: Any) -> None:
    model = make(name, config)
    assert model.layers[0] is model.clip is model.get_layer("clip")
    assert type(model.clip).__name__ == name.replace("Model", "MainLayer")
    model.layers[0].trainable = False
    assert model.trainable_weights == []
    assert model.weights[0].path.startswith(f"{model.name}/clip/")
    got, want = model.clip(model.dummy_inputs), model(model.dummy_inputs)
    np.testing.assert_array_equal(got[0], want[0])


def test_the_main_layer_has_the_models_methods(model: Any, inputs: dict) -> None:
    ids = inputs["input_ids"].tolist()
    np.testing.assert_array_equal(model.clip.get_text_features(ids), model.get_text_features(ids))
    assert model.logit_scale is model.clip.logit_scale and model.projection_dim == model.clip.projection_dim


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [{}, {"by_name": True}, {"by_name": False}], ids=str)
def test_weights_of_the_real_library(by_name: dict) -> None:
    model, want = clip_tf.TFCLIPModel(golden437.config()), golden437.outputs()
    model.load_weights(golden437.FOLDER / "full.h5", **by_name)
    got = model(golden437.IDS, want["pixel_values"], return_loss=True)
    assert got.loss.shape == want["loss"].shape == (1,)
    np.testing.assert_allclose(got.loss, want["loss"], atol=golden437.CLOSE)
    np.testing.assert_allclose(got.logits_per_image, want["logits"], atol=golden437.CLOSE * 10)


def test_weights_of_another_size() -> None:
    config = copy.deepcopy(golden437.config())
    config.text_config.vocab_size = 31
    model = clip_tf.TFCLIPModel(config)
    table = np.asarray(model.get_input_embeddings().embeddings)
    with pytest.raises(CheckpointError, match=r"token_embedding.weight: got \(30, 8\), want \(31, 8\)"):
        model.load_weights(golden437.FOLDER / "full.h5")
    with pytest.warns(UserWarning, match="token_embedding"):
        model.load_weights(golden437.FOLDER / "full.h5", skip_mismatch=True)
    np.testing.assert_array_equal(model.get_input_embeddings().embeddings, table)


def test_save_weights_writes_what_the_real_library_reads(model: Any, config: Any, tmp_path: Path) -> None:
    model.save_weights(tmp_path / "weights.h5")
    with pytest.raises(FileExistsError):
        model.save_weights(tmp_path / "weights.h5", overwrite=False)
    other = clip_tf.TFCLIPModel(config)
    other.load_weights(tmp_path / "weights.h5", by_name=True)
    for got, want in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "weights.h5") as ours, h5py.File(golden437.FOLDER / "full.h5") as theirs:
        assert text(ours.attrs["layer_names"]) == text(theirs.attrs["layer_names"]) == ["clip"]
        assert text(ours["clip"].attrs["weight_names"]) == text(theirs["clip"].attrs["weight_names"])


def text(names: Any) -> list[str]:
    return sorted(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def test_a_model_card(model: Any, tmp_path: Path) -> None:
    model.create_model_card(tmp_path, "Mine", license="mit", tags=["clip"], dataset="pets", dataset_tags="pets")
    card = (tmp_path / "README.md").read_text()
    assert card.startswith('---\nlicense: "mit"\ntags: ["clip"]\ndatasets: "pets"\n---\n# Mine\n')
    assert "Trained on pets." in card
    with pytest.raises(TypeError, match="unknown argument 'licence'"):
        model.create_model_card(tmp_path, "Mine", licence="mit")


def test_a_model_saved_whole_as_h5(model: Any, inputs: dict, tmp_path: Path) -> None:
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert type(loaded) is clip_tf.TFCLIPModel
    np.testing.assert_array_equal(loaded(**inputs).logits_per_text, model(**inputs).logits_per_text)


@pytest.mark.parametrize("name", [*CLASSES, "TFCLIPVisionModelWithProjection"])
def test_tflite_from_keras_model(name: str) -> None:
    config = golden437.config()
    model = make(name, config) if name in CLASSES else clip_tf.TFCLIPVisionModelWithProjection(config.vision_config)
    model(model.dummy_inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own interpreter says that it will move
        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        interpreter = tf.lite.Interpreter(model_content=content)
    names = interpreter.get_signature_list()["serving_default"]["inputs"]
    pixels = golden437.outputs()["pixel_values"][:1]
    given = {n: pixels if n == "pixel_values" else np.ones((1, 7), np.float32) for n in names}
    got = interpreter.get_signature_runner()(**given)
    want = model({n: v if n == "pixel_values" else v.astype(np.int32) for n, v in given.items()})
    for field, value in got.items():
        np.testing.assert_allclose(value, want[field], atol=2e-5)


# -- fresh weights ----------------------------------------------------------------------------------------------------

DRAW = """
import keras, numpy as np, zlib, clip_tf
from tests.tf.golden437 import config
for used in (0, 3):
    keras.random.normal((used + 1,))  # what a program drew before does not matter
    keras.utils.set_random_seed(5)
    model, other = clip_tf.TFCLIPModel(config()), clip_tf.TFCLIPModel(config())
    print(*(zlib.crc32(b"".join(np.asarray(w).tobytes() for w in m.weights)) for m in (model, other)))
"""


def test_fresh_weights_are_equal_from_run_to_run() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, cwd=Path(__file__).parents[2])
        for _ in range(2)
    ]
    lines = [line for run in runs for line in run.stdout.split("\n") if line]
    assert len(lines) == 4 and len(set(lines)) == 1, runs[0].stderr
    assert len(set(lines[0].split())) == 2, "two models differ"


# -- training ---------------------------------------------------------------------------------------------------------


def rows(count: int = 5) -> list[dict[str, Any]]:
    return [
        {"input_ids": [57, i, 58], "text": "no input", "label": i % 2, "attention_mask": [1] * 3} for i in range(count)
    ]


def test_prepare_tf_dataset(config: Any) -> None:
    model = clip_tf.TFCLIPTextModel(config.text_config)
    features, labels = next(iter(model.prepare_tf_dataset(rows(), batch_size=2, shuffle=False)))
    assert set(features) == {"input_ids", "attention_mask"} and labels.numpy().tolist() == [0, 1]
    assert features["input_ids"].numpy().tolist() == [[57, 0, 58], [57, 1, 58]]
    assert model(features).pooler_output.shape == (2, 24)
    kept = model.prepare_tf_dataset(rows(), batch_size=2, shuffle=False)
    cut = model.prepare_tf_dataset(rows(), batch_size=2)
    assert [len(x[1]) for x in kept] == [2, 2, 1] and len(kept) == 3
    assert [len(x[1]) for x in cut] == [2, 2] and len(cut) == 2
    single = next(iter(model.prepare_tf_dataset([{"input_ids": [1, 2]}] * 3, shuffle=False)))
    assert single.shape == (3, 2), "a single column has no name, as in v4.37"


def test_prepare_tf_dataset_pads_with_a_tokenizer(config: Any) -> None:
    model = clip_tf.TFCLIPTextModel(config.text_config)
    tokenizer = clip_tf.CLIPTokenizerFast()
    uneven = [{"input_ids": [57, 3, 58][: 3 - i % 2]} for i in range(4)]
    batch = next(iter(model.prepare_tf_dataset(uneven, 4, False, tokenizer)))
    assert batch["attention_mask"].numpy().sum(-1).tolist() == [3, 2, 3, 2]


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_prepare_tf_dataset_refuses(size: Any, config: Any) -> None:
    model = clip_tf.TFCLIPTextModel(config.text_config)
    with pytest.raises(InputError, match="batch_size: wanted a whole number"):
        model.prepare_tf_dataset(rows(), batch_size=size)
    with pytest.raises(InputError, match="dataset: wanted columns among input_ids"):
        model.prepare_tf_dataset([{"text": "a"}])
    with pytest.raises(TypeError, match="dataset: wanted a datasets.Dataset"):
        model.prepare_tf_dataset(iter(rows()))


@pytest.mark.parametrize("arguments", [{"new_num_tokens": 0}, {"pad_to_multiple_of": 0}, {"pad_to_multiple_of": -8}])
def test_resizing_refuses(arguments: dict, config: Any) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: wanted at least 1"):
        clip_tf.TFCLIPTextModel(config.text_config).resize_token_embeddings(**arguments)


def test_a_config_may_ask_for_gradient_checkpointing(config: Any) -> None:
    asked = copy.deepcopy(config)
    asked.gradient_checkpointing = True
    assert clip_tf.TFCLIPModel(asked).is_gradient_checkpointing
    assert not clip_tf.TFCLIPModel(config).is_gradient_checkpointing
