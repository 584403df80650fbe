"""Tiny models that the tests share; the configs are the conformance cases'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.cases import IDS, full

pytest.importorskip("tensorflow", reason="tensorflow is not installed")

LAYERS = {"num_hidden_layers": 1}


@pytest.fixture(scope="session")
def config() -> Any:
    import clip_tf

    return clip_tf.CLIPConfig(**full(LAYERS, LAYERS))


@pytest.fixture(scope="module")
def model(config: Any) -> Any:
    """A full model with drawn weights. Tests that change it make their own."""
    import keras

    import clip_tf

    keras.utils.set_random_seed(7)
    return clip_tf.TFCLIPModel(config)


@pytest.fixture(scope="session")
def inputs() -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).standard_normal((4, 3, 21, 21)).astype(np.float32)
    return {"input_ids": np.array(IDS), "pixel_values": pixels}


@pytest.fixture(scope="module")
def output(model: Any, inputs: dict[str, np.ndarray]) -> Any:
    return model(**inputs, return_loss=True)
