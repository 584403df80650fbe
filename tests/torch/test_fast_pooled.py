"""The pooled state computed by itself equals the plain forward pass's, values and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clip_torch import InputError
from conformance import cases as data
from conformance.adaptors import Torch
from conformance.compare import ACROSS, GRADIENT, gradient_errors, relative_error

ADAPTOR = Torch()
CASES = {case.name: case for case in data.cases() if case.values}
TOWERS = {name: case for name, case in CASES.items() if case.tower != "full"}
FLAGS = {"output_hidden_states": True, "output_attentions": True, "return_dict": False}
HEADS = {"pruned_heads": {0: [1], 1: [0]}}
for text, vision in (("mask.zero_row", "image.grey"), ("eos.legacy", "image.cut_off")):
    for name in (text, vision):
        case = TOWERS[name]
        TOWERS[f"{name}, flags"] = replace(case, config={**case.config, **FLAGS})
        TOWERS[f"{name}, fewer heads"] = replace(case, config={**case.config, **HEADS})
# bfloat16 keeps 8 bits (4e-3 per rounding), float16 11 (5e-4); some dozens of roundings add up in a two-layer model.
HALF_BOUND = {torch.bfloat16: 5e-2, torch.float16: 1e-2}


def build(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A tower and its inputs."""
    case = TOWERS[name]
    model = ADAPTOR.build(case)
    return getattr(model, f"{case.tower}_model"), ADAPTOR._inputs(case)


def plain(tower: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return tower(**inputs, return_dict=True).pooler_output


def gradients(tower: Any, pooled: torch.Tensor) -> dict[str, np.ndarray]:
    tower.zero_grad()
    (pooled * torch.from_numpy(data.cotangent("pooled", tuple(pooled.shape)))).sum().backward()
    # The plain pass asks parameters that no pooled state needs for their gradient too: zeros.
    return {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy() for n, p in tower.named_parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TOWERS)
def test_equals_the_plain_pass(name: str, attention: str) -> None:
    tower, inputs = build(name)
    tower.config._attn_implementation = attention
    want, got = plain(tower, inputs), tower.pooled(**inputs)
    assert relative_error(got.detach(), want.detach()) <= ACROSS
    if name != "eos.absent":  # there each pooled token sees itself alone: the queries' gradient is 0, and noise
        assert gradient_errors(gradients(tower, got), gradients(tower, want))[0] <= GRADIENT
    with torch.no_grad():
        assert relative_error(tower.pooled(**inputs), plain(tower, inputs)) <= ACROSS


@pytest.mark.parametrize("dtype", HALF_BOUND, ids=str)
@pytest.mark.parametrize("name", ["mask.zero_row", "mask.holes", "eos.legacy", "image.cut_off"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    tower, inputs = build(name)
    tower = tower.to(dtype)
    assert tower.pooled(**inputs).dtype == dtype
    got, want = tower.pooled(**inputs).float(), plain(tower, inputs).float()
    assert relative_error(got.detach(), want.detach()) <= HALF_BOUND[dtype]
    with torch.autocast("cpu", dtype):
        assert relative_error(tower.pooled(**inputs).float().detach(), want.detach()) <= HALF_BOUND[dtype]


def test_gradient_checkpointing() -> None:
    tower, inputs = build("mask.holes")
    want = gradients(tower, plain(tower, inputs))
    tower.encoder.gradient_checkpointing = True
    assert gradient_errors(gradients(tower.train(), tower.pooled(**inputs)), want)[0] <= GRADIENT


def test_compiles_without_graph_breaks() -> None:
    model, inputs = ADAPTOR.build(CASES["class.CLIPModel"]), ADAPTOR._inputs(CASES["class.CLIPModel"])
    pixels = inputs.pop("pixel_values")
    for run, given in ((model.get_text_features, inputs), (model.get_image_features, {"pixel_values": pixels})):
        got = torch.compile(run, fullgraph=True, backend="aot_eager")(**given)
        assert relative_error(got.detach(), run(**given).detach()) <= ACROSS


@pytest.mark.parametrize("where", ["", "encoder.layers.1", "encoder.layers.1.mlp", "post_layernorm"])
def test_hooks_see_whole_towers(where: str) -> None:
    case = CASES["class.CLIPModel"]
    model, pixels = ADAPTOR.build(case), ADAPTOR._inputs(case)["pixel_values"]
    want, seen = model.get_image_features(pixels), []
    part = model.vision_model.get_submodule(where)
    handle = part.register_forward_hook(lambda module, args, output: seen.append(output))
    assert relative_error(model.get_image_features(pixels).detach(), want.detach()) <= ACROSS
    handle.remove()
    model.vision_model(pixels)
    assert len(seen) == 1
    state = seen[0] if where.endswith(("mlp", "norm")) else seen[0][0]
    assert state.shape[:2] == ((4, 20) if where.endswith("norm") else (4, 5))


def test_chosen_patches() -> None:
    tower, inputs = build("image.cut_off")  # 4 x 4 patches
    pixels = inputs["pixel_values"]
    chosen = torch.tensor([[0, 3, 7], [15, 1, 2], [4, 5, 6], [9, 8, 15]])
    tokens = tower.pre_layrnorm(tower.embeddings(pixels))
    picked = torch.stack([row[[0, *own]] for row, own in zip(tokens, (chosen + 1).tolist(), strict=True)])
    want = tower.post_layernorm(tower.encoder(picked).last_hidden_state[:, 0])
    for patches in (chosen, chosen.int()):
        assert relative_error(tower.pooled(pixels, patches=patches).detach(), want.detach()) <= ACROSS
    everything = torch.arange(16).expand(4, -1)
    assert relative_error(tower.pooled(pixels, patches=everything).detach(), plain(tower, inputs).detach()) <= ACROSS


@pytest.mark.parametrize(
    "patches, message",
    [
        (torch.zeros(2, 3, dtype=torch.long), r"wanted \[batch, chosen\] for 4 pictures, found \(2, 3\)"),
        (torch.full((4, 1), 16), "wanted patches from 0 to 15, found 16"),
        (torch.full((4, 1), -1), "wanted patches from 0 to 15, found -1"),
        (torch.zeros(4, 3), "patches: wanted integers, found float32"),
    ],
)
def test_wrong_patches(patches: torch.Tensor, message: str) -> None:
    tower, inputs = build("image.cut_off")
    with pytest.raises(InputError, match=message):
        tower.pooled(inputs["pixel_values"], patches=patches)
