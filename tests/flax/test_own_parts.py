"""Users' own modules: weights beside CLIP's are saved, loaded, or drawn with one warning that names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from clip_core import checkpoint
from clip_core.errors import CheckpointError
from clip_flax import (
    FlaxCLIPVisionModel,
    FlaxCLIPVisionModule,
    FlaxCLIPVisionPreTrainedModel,
)
from clip_flax.modeling import FlaxCLIPVisionTransformer

from .conftest import CHECKPOINT
from .test_wrapper import leaves_equal

HF = CHECKPOINT.parent / "hf"  # the same weights in model.safetensors


class ClassifierModule(nn.Module):
    """As v4.37's modules are written: every argument by position, no more than those."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.vision_model = FlaxCLIPVisionTransformer(self.config, dtype=self.dtype)
        self.norm = nn.LayerNorm()
        self.classifier = nn.Dense(3, dtype=self.dtype)
        self.shift = self.param("shift", nn.initializers.ones, (2, 3))

    def __call__(
        self,
        pixel_values: Any,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> Any:
        out = self.vision_model(pixel_values, deterministic, output_attentions, output_hidden_states, return_dict)
        return self.classifier(self.norm(out[1])) + self.shift.sum(0)


class FlaxClassifier(FlaxCLIPVisionPreTrainedModel):
    module_class = ClassifierModule


class HeadModule(FlaxCLIPVisionModule):
    def setup(self) -> None:
        super().setup()
        self.head = nn.Dense(2)

    def __call__(self, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        return self.head(super().__call__(pixel_values, *args, **kwargs)[1])


class FlaxWithHead(FlaxCLIPVisionModel):
    module_class = HeadModule


class OtherModule(nn.Module):
    config: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        return nn.Conv(4, (3, 3), name="stem")(pixel_values).mean((1, 2))


class FlaxOther(FlaxCLIPVisionModel):
    module_class = OtherModule


@pytest.mark.parametrize("source", [CHECKPOINT, HF], ids=["msgpack", "safetensors"])
@pytest.mark.parametrize("cls", [FlaxClassifier, FlaxWithHead])
def test_a_plain_checkpoint_fills_clip_and_the_rest_is_drawn(cls: Any, source: Path, full: Any, inputs: Any) -> None:
    parts = ["norm", "classifier", "shift"] if cls is FlaxClassifier else ["head"]
    with pytest.warns(UserWarning, match="initialised freshly") as caught:
        model = cls.from_pretrained(source)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert all(f"- {name}" in message for name in parts)
    assert "vision_model" not in message and "text_model" not in message
    assert leaves_equal(model.params["vision_model"], full.params["vision_model"])
    assert all(np.any(leaf) for part in parts for leaf in jax.tree.leaves(model.params[part])[-1:])
    assert np.isfinite(model(inputs["pixel_values"])).all()


@pytest.mark.parametrize("safe", [False, True], ids=["msgpack", "safetensors"])
@pytest.mark.parametrize("cls", [FlaxClassifier, FlaxWithHead, FlaxOther])
@pytest.mark.filterwarnings("error")
def test_all_parts_come_back(cls: Any, safe: bool, full: Any, inputs: Any, tmp_path: Path) -> None:
    model = cls(full.config.vision_config, seed=5)
    want = model(inputs["pixel_values"])
    model.save_pretrained(tmp_path, safe_serialization=safe)
    again = cls.from_pretrained(tmp_path)
    assert leaves_equal(again.params, model.params)
    assert np.array_equal(again(inputs["pixel_values"]), want)
    _, loose = cls.from_pretrained(tmp_path, _do_init=False)
    assert leaves_equal(loose, model.params)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [cls.__name__[4:]]


def test_safetensors_have_pytorchs_names_and_layouts(full: Any, tmp_path: Path) -> None:
    model = FlaxClassifier(full.config.vision_config)
    model.save_pretrained(tmp_path, safe_serialization=True)
    entries = checkpoint.load(tmp_path, own=True).entries
    assert entries["classifier.weight"].shape == (3, 24)
    assert np.array_equal(entries["classifier.weight"].numpy().T, model.params["classifier"]["kernel"])
    assert {"norm.weight", "norm.bias", "classifier.bias", "shift"} <= set(entries)
    other = FlaxOther(full.config.vision_config)
    other.save_pretrained(tmp_path / "other", safe_serialization=True)
    stem = checkpoint.load(tmp_path / "other", own=True).entries["stem.weight"]
    assert np.array_equal(stem.numpy().transpose(2, 3, 1, 0), other.params["stem"]["kernel"])


def test_strict_about_clips_own(full: Any, tmp_path: Path) -> None:
    model = FlaxClassifier(full.config.vision_config)
    params = flatten_dict(model.params)
    del params["vision_model", "post_layernorm", "scale"]
    with pytest.warns(UserWarning, match=r"saved without vision_model.post_layernorm.scale"):
        model.save_pretrained(tmp_path, params=unflatten_dict(params))
    with pytest.raises(CheckpointError, match=r"- vision_model.post_layernorm.scale"):
        FlaxClassifier.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "wide")
    with pytest.raises(CheckpointError, match=r"fc1.kernel: got \(24, \d+\), want \(24, 52\)"):
        FlaxClassifier.from_pretrained(tmp_path / "wide", intermediate_size=52)


def test_what_a_plain_class_does_not_have_is_named(full: Any, tmp_path: Path) -> None:
    FlaxClassifier(full.config.vision_config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"\+ classifier.bias"):
        FlaxCLIPVisionModel.from_pretrained(tmp_path)


def test_partial_parameters_without_init_are_completed(text: Any, tmp_path: Path) -> None:
    """v4.37: `save_pretrained(params=part)`, `from_pretrained(_do_init=False)`, `init_weights(params=...)`."""
    kept = {"text_model": {k: v for k, v in text.params["text_model"].items() if k != "final_layer_norm"}}
    with pytest.warns(UserWarning, match="saved without text_model.final_layer_norm.bias"):
        text.save_pretrained(tmp_path, params=kept)
    with pytest.raises(CheckpointError, match=r"- text_model.final_layer_norm.weight"):
        type(text).from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="text_model.final_layer_norm"):
        model, params = type(text).from_pretrained(tmp_path, _do_init=False)
    params = model.init_weights(model.key, model.input_shape, params=params)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, text.params)
    assert leaves_equal(params["text_model"]["encoder"], text.params["text_model"]["encoder"])
