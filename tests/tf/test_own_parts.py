"""Subclasses with their own parts, and classes around a tower: saved, loaded, or named in one warning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import clip_tf
from clip_core.errors import CheckpointError
from clip_tf.modeling import TFCLIPVisionMainLayer

from . import golden437


class WithHead(clip_tf.TFCLIPVisionModel):
    """A Dense layer, and a stack of layers that do not know their sizes before a call."""

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(config, *inputs, **kwargs)
        self.classifier = keras.layers.Dense(3, name="classifier")
        self.stack = keras.Sequential([keras.layers.Dense(4), keras.layers.LayerNormalization()])

    def call(self, pixel_values: Any = None, training: bool = False, **kwargs: Any) -> Any:
        pooled = self.clip(pixel_values=pixel_values, training=training).pooler_output
        return self.classifier(pooled), self.stack(pooled)


class Around(clip_tf.TFCLIPPreTrainedModel):
    """As v4.37's own classes with heads are written."""

    config_class = clip_tf.CLIPVisionConfig

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(config, *inputs, **kwargs)
        self.clip = TFCLIPVisionMainLayer(config, name="clip")
        self.classifier = keras.layers.Dense(3, name="classifier")

    def call(self, pixel_values: Any = None, training: bool = False, **kwargs: Any) -> Any:
        return self.classifier(self.clip(pixel_values=pixel_values, training=training).pooler_output)


class Inside(clip_tf.TFCLIPPreTrainedModel):
    """A whole model in an attribute of another name."""

    config_class = clip_tf.CLIPVisionConfig

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(config, *inputs, **kwargs)
        self.teacher = clip_tf.TFCLIPVisionModel(config)
        self.scale = self.add_weight((2,), "ones", name="scale")

    def call(self, pixel_values: Any = None, training: bool = False, **kwargs: Any) -> Any:
        return self.teacher(pixel_values=pixel_values, training=training).pooler_output * self.scale[0]


CLASSES = [WithHead, Around, Inside]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 21, 21)).astype(np.float32)


def leaves(output: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in keras.tree.flatten(output)]


def own_warnings(record: list[Any]) -> list[str]:
    return [str(w.message) for w in record if "beside CLIP's own weights" in str(w.message)]


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "h5"])
@pytest.mark.parametrize("cls", CLASSES)
def test_own_parts_come_back(cls: Any, safe: bool, config: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    made = cls(config.vision_config)
    want = leaves(made(pixels))
    for weight in made.weights:
        weight.assign_add(np.full(weight.shape, 0.25, np.float32))
    want = leaves(made(pixels))
    made.save_pretrained(tmp_path, safe_serialization=safe)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not own_warnings(record) and not info["missing_keys"] and not info["unexpected_keys"]
    for got, wanted in zip(leaves(loaded(pixels)), want, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("cls", [WithHead, Around])
def test_what_a_file_lacks_is_fresh_and_named_once(cls: Any, model: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    vision = clip_tf.TFCLIPVisionModel(model.config.vision_config)
    vision.save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert len(own_warnings(record)) == 1 and "- classifier.weight" in own_warnings(record)[0]
    assert "classifier.weight" in info["missing_keys"] and not info["unexpected_keys"]
    kernel = np.asarray(loaded.classifier.kernel)
    assert np.isfinite(kernel).all() and np.abs(kernel).max() > 0.01  # Keras' own initialisation
    np.testing.assert_array_equal(loaded.clip(pixels).pooler_output, vision(pixels).pooler_output)


def test_what_a_class_lacks_stays_behind(config: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    made = WithHead(config.vision_config)
    made(pixels)
    made.save_pretrained(tmp_path, safe_serialization=True)
    with pytest.warns(UserWarning, match=r"\+ classifier.weight"):
        plain = clip_tf.TFCLIPVisionModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(plain(pixels).pooler_output, made.clip(pixels).pooler_output)


def test_strictness_holds_for_clips_own_names(config: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    made = WithHead(config.vision_config)
    weights = {name: tensor.numpy() for name, tensor in made._get_weights().items()}
    del weights["vision_model.pre_layrnorm.bias"]
    made.save_pretrained(tmp_path, safe_serialization=True, state_dict=weights)
    with pytest.raises(CheckpointError, match=r"- vision_model\.pre_layrnorm\.bias"):
        WithHead.from_pretrained(tmp_path)


def test_names_and_axes_are_pytorchs(config: Any, pixels: np.ndarray) -> None:
    made = WithHead(config.vision_config)
    tensors = made._get_weights()
    np.testing.assert_array_equal(tensors["classifier.weight"].numpy(), np.asarray(made.classifier.kernel).T)
    assert {"classifier.bias", "stack.0.weight", "stack.1.weight", "vision_model.pre_layrnorm.bias"} <= set(tensors)


@pytest.mark.parametrize("way", ["from_pretrained", "by_name", "by_order"])
def test_a_subclass_file_of_the_real_library(way: str, tmp_path: Path) -> None:
    class Head(clip_tf.TFCLIPVisionModel):
        def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
            super().__init__(config, *inputs, **kwargs)
            self.classifier = keras.layers.Dense(3, name="classifier")

        def call(self, pixel_values: Any = None, training: bool = False, **kwargs: Any) -> Any:
            return self.classifier(self.clip(pixel_values=pixel_values, training=training).pooler_output)

    config, want = golden437.config().vision_config, golden437.outputs()
    if way == "from_pretrained":
        made = Head.from_pretrained(golden437.FOLDER / "head.h5", config=config)
    else:
        made = Head(config)
        made.load_weights(golden437.FOLDER / "head.h5", **({"by_name": True} if way == "by_name" else {}))
    np.testing.assert_allclose(made(want["pixel_values"]), want["classes"], atol=golden437.CLOSE)
