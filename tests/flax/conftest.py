"""One small model for all Flax tests: the weights that transformers' own FlaxCLIPModel wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_flax import FlaxCLIPModel, FlaxCLIPTextModel

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "checkpoints" / "flax"


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return CHECKPOINT


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Inputs and what transformers 4.37.2's FlaxCLIPModel makes of them (tests/golden/make_flax.py)."""
    return dict(np.load(GOLDEN / "flax" / "outputs.npz"))


@pytest.fixture(scope="session")
def inputs(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: golden[name] for name in ("input_ids", "pixel_values", "attention_mask")}


@pytest.fixture(scope="session")
def full() -> FlaxCLIPModel:
    """To be left as it is."""
    return FlaxCLIPModel.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="session")
def text() -> FlaxCLIPTextModel:
    """To be left as it is."""
    return FlaxCLIPTextModel.from_pretrained(CHECKPOINT)
