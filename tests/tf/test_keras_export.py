"""SavedModel and LiteRT, which run without this package, against eager calls."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import clip_tf

ROUNDING = 1e-5  # of order-1 values, in other kernels


@pytest.fixture(scope="module")
def model(config: Any) -> Any:
    """With exact gelu, the activation that LiteRT has no plain operation for."""
    exact = clip_tf.CLIPConfig.from_dict(config.to_dict())
    exact.text_config.hidden_act = "gelu"
    keras.utils.set_random_seed(11)
    return clip_tf.TFCLIPModel(exact)


def test_saved_model(model: Any, inputs: dict, tmp_path: Path) -> None:
    ids, pixels = tf.constant(inputs["input_ids"], tf.int32), tf.constant(inputs["pixel_values"])
    mask = tf.constant([[1] * 4 + [0] * 4] * 4)
    model.save_pretrained(tmp_path, saved_model=True, version=3, safe_serialization=True)
    loaded = tf.saved_model.load(str(tmp_path / "saved_model/3"))
    assert set(loaded.signatures) == {"serving_default", "serve", "text", "image"}
    want = model(ids, pixels, mask)
    for name in ("serving_default", "serve"):
        got = loaded.signatures[name](input_ids=ids, attention_mask=mask, pixel_values=pixels)
        assert set(got) == {"logits_per_image", "logits_per_text", "text_embeds", "image_embeds"}
        for field, value in got.items():
            np.testing.assert_allclose(value, want[field], atol=ROUNDING)
    one = loaded.signatures["text"](input_ids=ids[:1, :5], attention_mask=mask[:1, :5])  # any batch and length
    np.testing.assert_allclose(one["text_features"], model.get_text_features(ids[:1, :5], mask[:1, :5]), atol=ROUNDING)
    image = loaded.signatures["image"](pixel_values=pixels)["image_features"]
    np.testing.assert_allclose(image, model.get_image_features(pixels), atol=ROUNDING)


def test_saved_model_of_a_tower(config: Any, inputs: dict, tmp_path: Path) -> None:
    asked = {**config.vision_config.to_dict(), "output_hidden_states": True}
    tower = clip_tf.TFCLIPVisionModelWithProjection(clip_tf.CLIPVisionConfig.from_dict(asked))
    tower.export(tmp_path / "tower", input_signature={"pixel_values": tf.TensorSpec((2, 3, 21, 21), tf.float32)})
    loaded = tf.saved_model.load(str(tmp_path / "tower"))
    got = loaded.serve(inputs["pixel_values"][:2])
    want = tower(inputs["pixel_values"][:2])
    assert set(got) == {"image_embeds", "last_hidden_state", "hidden_states"}
    np.testing.assert_allclose(got["image_embeds"], want.image_embeds, atol=ROUNDING)
    np.testing.assert_allclose(got["hidden_states"][1], want.hidden_states[1], atol=ROUNDING)


def interpreter(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own interpreter says that it will move
        return tf.lite.Interpreter(str(path))


def test_litert_of_both_towers(model: Any, inputs: dict, tmp_path: Path) -> None:
    model.export(tmp_path / "clip.tflite", format="litert")
    run = interpreter(tmp_path / "clip.tflite")
    signatures = run.get_signature_list()
    assert {name: set(signatures[name]["inputs"]) for name in signatures} == {
        "text": {"input_ids", "attention_mask"},
        "image": {"pixel_values"},
    }
    assert not any("Flex" in operation["op_name"] for operation in run._get_ops_details())
    ids = np.full((1, 11), 58, np.int32)
    text, image = run.get_signature_runner("text"), run.get_signature_runner("image")
    for row, pixels in zip(inputs["input_ids"], inputs["pixel_values"], strict=True):
        ids[0, :8] = row
        mask = (np.arange(11) < 6).astype(np.int32)[None]
        got = text(input_ids=ids, attention_mask=mask)["text_features"]
        np.testing.assert_allclose(got, model.get_text_features(ids, mask), atol=ROUNDING)
        got = image(pixel_values=pixels[None])["image_features"]
        np.testing.assert_allclose(got, model.get_image_features(pixels[None]), atol=ROUNDING)


def test_litert_of_a_single_tower(config: Any, inputs: dict, tmp_path: Path) -> None:
    tower = clip_tf.TFCLIPTextModelWithProjection(config.text_config)
    signature = {name: tf.TensorSpec((2, 8), tf.int32) for name in ("input_ids", "attention_mask")}
    options = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    tower.export(tmp_path / "deep/text.tflite", format="litert", input_signature=signature, **options)
    ids = inputs["input_ids"][:2].astype(np.int32)
    got = interpreter(tmp_path / "deep/text.tflite").get_signature_runner("serve")(
        input_ids=ids, attention_mask=np.ones_like(ids)
    )
    want = tower(ids)
    np.testing.assert_allclose(got["text_embeds"], want.text_embeds, atol=0.05 * np.abs(want.text_embeds).max())
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        tower.export(tmp_path / "text.lite", format="litert")
    with pytest.raises(ValueError, match="signatures: wanted some of serve, found 'image'"):
        tower.export(tmp_path / "text.tflite", format="litert", signatures=["image"])
    with pytest.raises(TypeError, match="no option 'quantise'"):
        tower.export(tmp_path / "text.tflite", format="litert", quantise=True)
    assert not (tmp_path / "text.tflite").exists()


def test_dummy_inputs_fit_the_signature(model: Any, config: Any) -> None:
    for made in (model, clip_tf.TFCLIPTextModel(config.text_config), clip_tf.TFCLIPVisionModel(config.vision_config)):
        dummies = made.dummy_inputs
        for name, spec in made.input_signature.items():
            assert spec.is_compatible_with(dummies[name])
        assert all(np.isfinite(value).all() for value in made.serving(dummies).values())
