"""The pooled state computed by itself equals the plain forward pass's, values and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_core.errors import InputError
from clip_flax.layers import CHECKPOINT_POLICIES
from conformance import cases as data
from conformance.adaptors import Flax
from conformance.compare import ACROSS, GRADIENT, relative_error

ADAPTOR = Flax()
CASES = {case.name: case for case in data.cases() if case.values}
TOWERS = {name: case for name, case in CASES.items() if case.tower != "full" and case.name[:3] not in ("act", "hea")}
HEADS = {"pruned_heads": {0: [1], 1: [0]}, "output_hidden_states": True, "return_dict": False}
for name in ("mask.zero_row", "image.cut_off"):
    TOWERS[f"{name}, fewer heads"] = replace(TOWERS[name], config={**TOWERS[name].config, **HEADS})


def build(name: str, **changes: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A tower's module, its variables and its inputs."""
    case = TOWERS[name]
    model = ADAPTOR.build(case)
    name = f"{case.tower}_model"
    module = model.module.clone(**changes).bind({"params": model.params})
    inputs = data.draw_inputs(case)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].transpose(0, 2, 3, 1)
    tower = getattr(module, name)
    return tower.clone(parent=None), {"params": model.params[name]}, inputs


def plain(tower: Any, variables: Any, inputs: dict[str, Any]) -> Any:
    return tower.apply(variables, **inputs, return_dict=True).pooler_output


def pooled(tower: Any, variables: Any, inputs: dict[str, Any]) -> Any:
    return tower.apply(variables, **inputs, method="pooled")


@pytest.mark.parametrize("name", TOWERS)
def test_equals_the_plain_pass(name: str) -> None:
    run = build(name)
    assert relative_error(pooled(*run), plain(*run)) <= ACROSS


@pytest.mark.parametrize("name", ["mask.zero_row", "eos.legacy", "image.cut_off", "depth.text_0"])
@pytest.mark.parametrize("checkpointing", [False, True, "dots_saveable"])
def test_gradients(name: str, checkpointing: bool | str) -> None:
    tower, variables, inputs = build(name)
    want = jax.grad(lambda v: objective(plain(tower, v, inputs)))(variables)
    again = tower.clone(gradient_checkpointing=checkpointing)
    got = jax.grad(lambda v: objective(pooled(again, v, inputs)))(variables)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        if "k_proj" not in str(path) or "bias" not in str(path):  # 0 in real numbers
            assert np.abs(a - b).max() <= GRADIENT * max(np.abs(b).max(), 1e-2), path


def objective(vectors: jax.Array) -> jax.Array:
    return (vectors * data.cotangent("pooled", vectors.shape)).sum()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["mask.zero_row", "image.cut_off"])
def test_half_precision(name: str, dtype: Any) -> None:
    run = build(name, dtype=dtype)
    got, want = pooled(*run), plain(*run)
    assert got.dtype == want.dtype == dtype
    assert relative_error(got.astype("float32"), want.astype("float32")) <= 5e-2  # eight bits, two layers


def test_checkpoint_policies() -> None:
    for name in CHECKPOINT_POLICIES:
        tower, variables, inputs = build("depth.text_1", gradient_checkpointing=name)
        assert pooled(tower, variables, inputs).shape == (4, 24)
    for wrong in ("save_only_these_names", "all", ""):
        with pytest.raises(InputError, match="gradient_checkpointing: wanted True, False or one of nothing_saveable"):
            pooled(*build("depth.text_1", gradient_checkpointing=wrong or "none"))


def test_chosen_patches() -> None:
    tower, variables, inputs = build("image.cut_off")  # 4 x 4 patches
    pixels, bound = inputs["pixel_values"], tower.bind(variables)
    chosen = np.array([[0, 3, 7], [15, 1, 2], [4, 5, 6], [9, 8, 15]])
    tokens = np.asarray(bound.pre_layrnorm(bound.embeddings(pixels)))
    picked = np.stack([row[[0, *own]] for row, own in zip(tokens, (chosen + 1).tolist(), strict=True)])
    want = bound.post_layernorm(bound.encoder(jnp.asarray(picked)).last_hidden_state[:, 0])
    for dtype in (np.int32, np.int64, np.uint8):
        assert relative_error(bound.pooled(pixels, patches=chosen.astype(dtype)), want) <= ACROSS
    with pytest.raises(InputError, match="wanted patches from 0 to 15, found 16"):
        bound.pooled(pixels, patches=np.full((4, 1), 16))
    with pytest.raises(InputError, match=r"for 4 pictures, found \(2, 3\)"):
        bound.pooled(pixels, patches=np.zeros((2, 3), np.int32))
