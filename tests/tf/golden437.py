"""Files of the real TF classes of v4.37: see tests/golden/make_tf.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden" / "tf"
SMALL = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = {
    "projection_dim": 6,
    "text_config": {"vocab_size": 30, "max_position_embeddings": 7, "eos_token_id": 29, "bos_token_id": 28, **SMALL},
    "vision_config": {"image_size": 8, "patch_size": 4, **SMALL},
}
IDS = np.array([[28, 3, 4, 29], [28, 5, 29, 29]])
CLOSE = 1e-5  # the same float32 arithmetic in another release of TensorFlow; values of order 1


def outputs() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "outputs.npz") as file:
        return dict(file)


def names() -> dict[str, list[str]]:
    return json.loads((FOLDER / "names.json").read_text())


def config() -> Any:
    from clip_tf import CLIPConfig

    return CLIPConfig(**CONFIG)
