"""The weight table, the two-sided check, the initialisation rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clip_core import CheckpointError, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.init import initial_values
from clip_core.weights import SCOPES, Difference, Weight, check, compare, in_scope, is_ignorable, weight_table
from conformance import cases as data
from conformance.compare import golden_file


def _arrays(table: dict[str, Weight]) -> dict[str, np.ndarray]:
    return {name: np.empty(weight.shape, np.uint8) for name, weight in table.items()}


def test_published_counts() -> None:
    """OpenAI's ViT-B/32: 398 tensors, 151,277,313 numbers (transformers' own count)."""
    table = weight_table(CLIPConfig())
    assert len(table) == 398
    assert sum(int(np.prod(weight.shape)) for weight in table.values()) == 151_277_313


def test_sizes_come_from_the_right_config() -> None:
    config = CLIPConfig(**data.full())
    table = weight_table(config)
    assert table["text_projection.weight"].shape == (data.PROJECTION, 24)
    assert table["visual_projection.weight"].shape == (data.PROJECTION, 20)
    text = weight_table(CLIPTextConfig(**data.text()), "text_projection")
    assert text["text_projection.weight"].shape == (14, 24)
    vision = weight_table(CLIPVisionConfig(**data.vision()), "vision_projection")
    assert vision["visual_projection.weight"].shape == (18, 20)
    assert vision["vision_model.embeddings.patch_embedding.weight"] == Weight("conv", "weight", (20, 3, 8, 8))
    assert vision["vision_model.embeddings.position_embedding.weight"].shape == (2 * 2 + 1, 20)
    assert vision["vision_model.embeddings.class_embedding"] == Weight("bare", "", (20,))
    assert table["logit_scale"] == Weight("bare", "", ())


def test_scopes_part_the_full_table() -> None:
    config = CLIPConfig(**data.full())
    whole = weight_table(config)
    parts = {scope: weight_table(config, scope) for scope in SCOPES}
    both = {**parts["text_projection"], **parts["vision_projection"]}
    assert whole == {**both, "logit_scale": whole["logit_scale"]}
    for scope, table in parts.items():
        assert {name for name in whole if in_scope(name, scope)} == set(table)
    assert not in_scope("text_model.x", "vision")
    assert not in_scope("bert.encoder", "full")


def test_pruned_heads_shorten_the_inner_side() -> None:
    table = weight_table(CLIPTextConfig(**data.text(pruned_heads={1: [0, 2]})), "text")
    layer = "text_model.encoder.layers.{}.self_attn.{}"
    assert table[layer.format(1, "q_proj.weight")].shape == (8, 24)
    assert table[layer.format(1, "k_proj.bias")].shape == (8,)
    assert table[layer.format(1, "out_proj.weight")].shape == (24, 8)
    assert table[layer.format(1, "out_proj.bias")].shape == (24,)
    assert table[layer.format(0, "q_proj.weight")].shape == (24, 24)


def test_the_check_lists_both_sides_and_shapes() -> None:
    table = weight_table(CLIPTextConfig(**data.text()), "text")
    found = _arrays(table)
    assert compare(found, table) == Difference([], [], [])
    check(found, table, "somewhere")
    name = "text_model.final_layer_norm.weight"
    del found["text_model.final_layer_norm.bias"]
    found[name] = np.empty((24, 1))
    found["text_model.extra"] = np.empty(2)
    found["text_model.embeddings.position_ids"] = np.empty((1, 11))
    with pytest.raises(CheckpointError) as raised:
        check(found, table, "file.bin")
    assert str(raised.value).splitlines() == [
        "file.bin: the weights are not those of this model:",
        "- text_model.final_layer_norm.bias",
        "+ text_model.extra",
        f"{name}: got (24, 1), want (24,)",
    ]
    assert is_ignorable("text_model.embeddings.position_ids")
    assert compare(found, table, ignore={"text_model.extra"}).unexpected == []


@pytest.mark.parametrize(
    "cls, kind",
    [
        ("CLIPModel", CLIPConfig),
        ("CLIPTextModelWithProjection", CLIPTextConfig),
        ("CLIPVisionModelWithProjection", CLIPVisionConfig),
    ],
)
def test_the_rule_is_what_transformers_draws(cls: str, kind: Any) -> None:
    """Deviations of 200 models that transformers 4.37.2 drew, with factors and ranges that tell the terms apart."""
    measured = {
        key.removeprefix(f"init/{cls}/"): value
        for key, value in golden_file("contract").items()
        if key.startswith(f"init/{cls}/")
    }
    text = data.text(initializer_factor=0.5, initializer_range=0.3)
    vision = data.vision(initializer_factor=2.0, initializer_range=0.05)
    arguments = {"CLIPModel": {**data.full(), "text_config": text, "vision_config": vision}}
    config = kind(**arguments.get(cls, text if "Text" in cls else vision))
    scope = {"CLIPModel": "full"}.get(cls, "text_projection" if "Text" in cls else "vision_projection")
    rule, table = initial_values(config, scope), weight_table(config, scope)
    assert set(rule) == set(measured)
    for name, (how, value) in rule.items():
        mean, deviation = measured[name]
        if how == "constant":
            # float32 keeps 7 digits; a scalar has no deviation (recorded as 0 over equal draws)
            assert abs(mean - value) <= 1e-6 * max(1, abs(value)), name
            assert deviation <= 1e-6, name
        else:
            # The deviation of n draws is itself known to 1 / sqrt(2 n); five of those never happen by chance.
            draws = 200 * np.prod(table[name].shape)
            assert abs(deviation / value - 1) <= 5 / np.sqrt(2 * draws), name
            assert abs(mean) <= 5 * value / np.sqrt(draws), name


def test_no_layers_is_a_model_too() -> None:
    rule = initial_values(CLIPTextConfig(**data.text(num_hidden_layers=0)), "text")
    assert not any("layers" in name for name in rule)
