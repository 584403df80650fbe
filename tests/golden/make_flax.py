"""Make tests/golden/flax from transformers 4.37.2's Flax classes (jax 0.4.25, flax 0.8.1, torch):

    HF_HUB_OFFLINE=1 python tests/golden/make_flax.py

`trees.json`: each class's parameter tree for the configuration of tests/golden/checkpoints/flax, as path -> shape.
`outputs.npz`: what FlaxCLIPModel computes from those weights, with every field asked for, in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from transformers import FlaxCLIPModel, FlaxCLIPTextModel, FlaxCLIPTextModelWithProjection, FlaxCLIPVisionModel

ROOT = Path(__file__).parent
CHECKPOINT = ROOT / "checkpoints" / "flax"


def flatten(output: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested outputs and tuples as name -> array."""
    if hasattr(output, "items"):
        items = output.items()
    elif isinstance(output, tuple):
        items = ((str(i), value) for i, value in enumerate(output))
    else:
        return {prefix: np.asarray(output)}
    return {k: v for name, value in items for k, v in flatten(value, f"{prefix}.{name}".lstrip(".")).items()}


def main() -> None:
    trees = {}
    for cls in (FlaxCLIPModel, FlaxCLIPTextModel, FlaxCLIPTextModelWithProjection, FlaxCLIPVisionModel):
        config = cls.config_class.from_pretrained(CHECKPOINT)
        tree = flatten_dict(cls(config, _do_init=False).params_shape_tree, sep="/")
        trees[cls.__name__] = {path: list(leaf.shape) for path, leaf in sorted(tree.items())}
    (ROOT / "flax" / "trees.json").write_text(json.dumps(trees, indent=1) + "\n")

    given = np.load(ROOT / "checkpoints" / "outputs.npz")
    ids = given["ids"].astype(np.int32)
    mask = np.ones_like(ids)
    mask[0, 7:] = 0
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT)
    output = model(ids, given["pixels"], mask, output_attentions=True, output_hidden_states=True)
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": given["pixels"]}
    np.savez_compressed(ROOT / "flax" / "outputs.npz", **inputs, **flatten(output))


if __name__ == "__main__":
    main()
