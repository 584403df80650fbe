"""KerasHub: our weights into its CLIPBackbone, its weights back, equal outputs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras  # noqa: E402
import keras_hub  # noqa: E402
import numpy as np  # noqa: E402

import clip_tf  # noqa: E402
from clip_core import checkpoint  # noqa: E402

from .models import EMOJI  # noqa: E402
from .record import Found, at_most, difference, works  # noqa: E402

TITLE, PACKAGES = "KerasHub", ("keras-hub", "keras", "tensorflow")
LIMIT = 2e-5


def inputs() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    ids = draw.integers(2, 2046, (3, 24))
    ids[:, -1] = 2047
    return ids, draw.standard_normal((2, 48, 48, 3), np.float32)


def outputs(model: Any) -> np.ndarray:
    """The embeddings of a CLIPBackbone, both sides, of unit length."""
    ids, pixels = inputs()
    sides = model.get_text_embeddings(ids), model.get_vision_embeddings(pixels)
    both = np.concatenate([keras.ops.convert_to_numpy(side) for side in sides])
    return both / np.linalg.norm(both, axis=-1, keepdims=True)


def ours(path: Any) -> np.ndarray:
    ids, pixels = inputs()
    out = clip_tf.TFCLIPModel.from_pretrained(path)(input_ids=ids, pixel_values=pixels.transpose(0, 3, 1, 2))
    return np.concatenate([out.text_embeds, out.image_embeds])


def there() -> Found:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.convert(EMOJI, folder, to="kerashub", dtype="float32")
        model = keras_hub.models.CLIPBackbone.from_preset(folder)
        figures = at_most(LIMIT, embeddings=difference(outputs(model), ours(EMOJI)))
    return works("`CLIPBackbone.from_preset(folder)` of `checkpoint.convert(model, folder, to='kerashub')`", **figures)


def and_back() -> Found:
    """Weights that KerasHub has changed and saved itself come back, to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (str(Path(folder) / name) for name in ("first", "second", "third"))
        checkpoint.convert(EMOJI, first, to="kerashub", dtype="float32")
        model = keras_hub.models.CLIPBackbone.from_preset(first)
        draw = np.random.default_rng(1)
        for variable in model.trainable_variables:
            if "float" in str(variable.dtype):
                noise = draw.standard_normal(variable.shape).astype(np.float32) * 0.01
                variable.assign(keras.ops.convert_to_numpy(variable) * (1 + noise))
        model.save_to_preset(second)
        changed = outputs(model)
        if difference(changed, ours(EMOJI)) < 1e-3:
            raise AssertionError("the weights did not change")
        figures = at_most(LIMIT, embeddings=difference(ours(second), changed))
        checkpoint.convert(second, third, to="hf")
        figures |= at_most(LIMIT, through_safetensors=difference(ours(third), changed))
        fourth = str(Path(folder) / "fourth")
        checkpoint.convert(third, fourth, to="kerashub")
        again = keras_hub.models.CLIPBackbone.from_preset(fourth)
        pairs = zip(again.trainable_variables, model.trainable_variables, strict=True)
        unequal = [v.path for v, w in pairs if not np.array_equal(v.numpy(), w.numpy())]
        if unequal:
            raise AssertionError(f"not to the bit: {unequal[:3]}")
    return works(
        "`model.save_to_preset(folder)`, `TFCLIPModel.from_pretrained(folder)`, `convert` to hf and to kerashub again",
        "The chain returns every variable to the bit.",
        variables=len(model.trainable_variables),
        **figures,
    )


CHECKS = (there, and_back)
