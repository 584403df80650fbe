"""Every public name of v4.37's Flax classes exists, or its error names a replacement."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clip_flax
from clip_core.absent import ABSENT
from clip_flax import modeling

from .conftest import CHECKPOINT, GOLDEN

NAMES = json.loads((GOLDEN / "flax" / "names.json").read_text("utf-8"))
REFUSED = {**ABSENT["*"], **ABSENT["flax_model"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_name(name: str) -> None:
    cls = getattr(clip_flax, name, None) or getattr(modeling, name)
    assert [n for n in NAMES[name] if not hasattr(cls, n) and n not in REFUSED] == []


def test_refused_names_say_what_to_use(text: Any) -> None:
    for name in ("generate", "prepare_inputs_for_generation", "register_for_auto_class"):
        assert not hasattr(text, name)
        with pytest.raises(AttributeError, match=f"FlaxCLIPTextModel has no '{name}': .{{20}}"):
            getattr(text, name)
    with pytest.raises(AttributeError, match="no attribute 'anything'"):
        text.anything  # noqa: B018


def test_weight_files_as_they_are(full: Any, tmp_path: Any) -> None:
    tree = full.load_flax_weights(str(CHECKPOINT / "flax_model.msgpack"))
    assert jax.tree.all(jax.tree.map(np.array_equal, tree, full.params))
    full.save_pretrained(tmp_path, params=full.to_bf16(full.params), max_shard_size="10kB")
    shards = sorted(tmp_path.glob("flax_model-*.msgpack"))
    assert len(shards) > 1
    tree = full.load_flax_sharded_weights(shards)
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, full.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("bfloat16")}
