"""The methods of v4.37's base class: embeddings, pruning, counting, drawing weights, refusing bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from clip_core.weights import weight_table
from clip_torch import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ConfigError,
    InputError,
)
from conformance import cases as data
from conformance.adaptors import Torch

CASES = {case.name: case for case in data.cases()}
ADAPTOR = Torch()


def model_and_inputs(name: str = "class.CLIPModel") -> tuple[Any, dict[str, torch.Tensor]]:
    arrays = data.draw_inputs(CASES[name]).items()
    return ADAPTOR.build(CASES[name]), {key: torch.from_numpy(array) for key, array in arrays}


# -- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ["CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection"])
@pytest.mark.parametrize("rows", [70, 59, 30])
def test_resize_token_embeddings(cls: str, rows: int) -> None:
    model, inputs = model_and_inputs(f"class.{cls}")
    old = model.get_input_embeddings().weight.detach().clone()
    returned = model.resize_token_embeddings(rows)
    assert returned is model.get_input_embeddings() is model.text_model.embeddings.token_embedding
    assert returned.weight.shape == (rows, 24)
    assert returned.weight.requires_grad
    kept = min(rows, 59)
    assert torch.equal(returned.weight[:kept], old[:kept])
    assert model.text_model.config.vocab_size == rows
    if rows == 70:
        fresh = returned.weight[59:].detach()
        assert 0.015 < fresh.std() < 0.025, "new rows are drawn by the rule: deviation 0.02"
        ids = torch.full((1, 4), 69)
        assert torch.isfinite(model.text_model(ids).pooler_output).all()
    with pytest.raises(InputError, match=rf"wanted ids from 0 to {rows - 1} \(vocab_size\), found {rows}"):
        model.text_model(torch.tensor([[rows]]))


def test_resizing_to_a_multiple_and_to_nothing() -> None:
    model, _ = model_and_inputs("class.CLIPTextModel")
    assert model.resize_token_embeddings(pad_to_multiple_of=16).num_embeddings == 64
    assert model.resize_token_embeddings(65, pad_to_multiple_of=16).num_embeddings == 80
    assert model.resize_token_embeddings().num_embeddings == 80
    with pytest.raises(ValueError, match="new_num_tokens: wanted at least 1, found 0"):
        model.resize_token_embeddings(0)


def test_a_resized_model_saves_and_loads(tmp_path: Any) -> None:
    model, inputs = model_and_inputs("class.CLIPModel")
    model.resize_token_embeddings(64)
    model.save_pretrained(tmp_path)
    again = CLIPModel.from_pretrained(tmp_path)
    assert again.config.text_config.vocab_size == 64
    assert torch.equal(again(**inputs).text_embeds, model(**inputs).text_embeds)


def test_input_embeddings() -> None:
    text, inputs = model_and_inputs("class.CLIPTextModel")
    new = torch.nn.Embedding(59, 24)
    text.set_input_embeddings(new)
    assert text.get_input_embeddings() is new
    assert text.get_output_embeddings() is None
    vision, _ = model_and_inputs("class.CLIPVisionModel")
    assert vision.get_input_embeddings() is vision.vision_model.embeddings.patch_embedding
    for action in (lambda: vision.set_input_embeddings(new), lambda: vision.resize_token_embeddings(9)):
        with pytest.raises(ValueError, match="this model has no token embedding"):
            action()
    text.enable_input_require_grads()
    text.requires_grad_(False)
    assert text(**inputs).pooler_output.requires_grad
    text.disable_input_require_grads()
    assert not text(**inputs).pooler_output.requires_grad


# -- pruning ----------------------------------------------------------------------------------------------------------


def _silenced(model: Any, tower: str, layer: int, heads: list[int]) -> None:
    """What removing heads means: their columns of the output projection are zero."""
    attention = getattr(model, tower).encoder.layers[layer].self_attn
    with torch.no_grad():
        for head in heads:
            attention.out_proj.weight[:, head * attention.head_dim : (head + 1) * attention.head_dim] = 0


@pytest.mark.parametrize("cls, tower", [("CLIPTextModel", "text_model"), ("CLIPVisionModel", "vision_model")])
def test_pruned_heads_contribute_nothing(cls: str, tower: str, tmp_path: Any) -> None:
    wanted, inputs = model_and_inputs(f"class.{cls}")
    model, _ = model_and_inputs(f"class.{cls}")
    heads = {0: [1], 1: [0]}
    for layer, some in heads.items():
        _silenced(wanted, tower, layer, some)
    model.prune_heads(heads)
    assert model.num_parameters() < wanted.num_parameters()
    assert torch.allclose(model(**inputs).last_hidden_state, wanted(**inputs).last_hidden_state, atol=1e-5)
    kept = wanted.config.num_attention_heads - 1
    assert [a.shape[1] for a in model(**inputs, output_attentions=True).attentions] == [kept, kept]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.pruned_heads == heads
    assert torch.equal(again(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


def test_pruning_in_two_steps_is_pruning_at_once() -> None:
    once, inputs = model_and_inputs("class.CLIPTextModel")
    twice, _ = model_and_inputs("class.CLIPTextModel")
    once.prune_heads({1: [0, 2]})
    twice.prune_heads({1: [2]})
    twice.prune_heads({1: [0]})
    twice.prune_heads({1: [0]})  # gone already
    assert torch.equal(once(**inputs).pooler_output, twice(**inputs).pooler_output)
    assert once.config.pruned_heads == twice.config.pruned_heads == {1: [0, 2]}
    once(**inputs).pooler_output.sum().backward()
    assert all(p.grad is not None for p in once.parameters())


def test_pruning_a_full_model_names_the_tower() -> None:
    model, inputs = model_and_inputs("class.CLIPModel")
    before = model(**inputs)
    model.prune_heads({0: [0]}, tower="vision")
    after = model(**inputs)
    assert torch.equal(before.text_embeds, after.text_embeds)
    assert not torch.allclose(before.image_embeds, after.image_embeds)
    with pytest.raises(ValueError, match="tower: wanted one of text_model, vision_model"):
        model.prune_heads({0: [0]})


@pytest.mark.parametrize("heads, message", [({0: [3]}, "wanted heads from 0 to 2"), ({0: [0, 1, 2]}, "at least one")])
def test_pruning_what_cannot_be(heads: dict, message: str) -> None:
    model, inputs = model_and_inputs("class.CLIPTextModel")
    before = model(**inputs).pooler_output
    with pytest.raises(ValueError, match=message):
        model.prune_heads(heads)
    assert torch.equal(model(**inputs).pooler_output, before)
    assert model.config.pruned_heads == {}


# -- counting and drawing ---------------------------------------------------------------------------------------------


def test_num_parameters() -> None:
    model, _ = model_and_inputs("class.CLIPTextModel")
    total = sum(int(np.prod(row.shape)) for row in weight_table(model.config, "text").values())
    assert model.num_parameters() == total
    assert model.num_parameters(exclude_embeddings=True) == total - (59 + 11) * 24
    model.text_model.embeddings.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == total - (59 + 11) * 24


@pytest.mark.parametrize(
    "cls, kind, values",
    [
        (CLIPModel, CLIPConfig, data.full()),
        (CLIPTextModelWithProjection, CLIPTextConfig, data.text(initializer_factor=3.0)),
        (CLIPVisionModelWithProjection, CLIPVisionConfig, data.vision(initializer_range=0.5)),
    ],
)
def test_drawn_weights_follow_the_rule(cls: Any, kind: Any, values: dict[str, Any]) -> None:
    """Deviations over 60 models, each within five deviations of its own estimate (the rule itself: tests/core)."""
    from clip_core.init import initial_values

    config = kind(**values)
    torch.manual_seed(1)
    models = [dict(cls(config).named_parameters()) for _ in range(60)]
    rule = initial_values(config, cls.weight_scope)
    assert set(rule) == set(models[0])
    for name, (how, value) in rule.items():
        drawn = torch.stack([model[name].detach() for model in models]).flatten().double()
        if how == "constant":
            assert (drawn == torch.tensor(value)).all(), name
        else:
            assert abs(drawn.std() / value - 1) < 5 / np.sqrt(2 * len(drawn)), name
            assert not torch.equal(models[0][name], models[1][name]), name


def test_weights_depend_on_the_seed_alone() -> None:
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(CLIPTextModel(CLIPTextConfig(**data.text())).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not torch.equal(
        models[0]["text_model.final_layer_norm.weight"] * 0 + 1, models[2]["text_model.final_layer_norm.bias"]
    )
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(models[0][name], models[2][name])


def test_a_new_model_trains_and_a_loaded_one_does_not(tmp_path: Any) -> None:
    model = CLIPTextModel(CLIPTextConfig(**data.text()))
    assert model.training
    model.save_pretrained(tmp_path)
    assert not CLIPTextModel.from_pretrained(tmp_path).training


def test_device_and_dtype() -> None:
    model, _ = model_and_inputs("class.CLIPVisionModel")
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
    assert model.base_model is model
    assert model.name_or_path == ""
    assert CLIPVisionModel.config_class is CLIPVisionConfig
    assert set(CLIPTextModel(CLIPTextConfig(**data.text())).dummy_inputs) == {"input_ids"}


# -- bad input --------------------------------------------------------------------------------------------------------


def test_a_config_of_another_class() -> None:
    for cls, wrong in ((CLIPTextModel, CLIPVisionConfig()), (CLIPModel, CLIPTextConfig()), (CLIPVisionModel, {})):
        with pytest.raises(TypeError, match=rf"{cls.__name__}: config: wanted a {cls.config_class.__name__}, found"):
            cls(wrong)


def test_a_config_spoilt_after_it_was_made() -> None:
    config = CLIPTextConfig(**data.text())
    config.hidden_size = float("nan")
    with pytest.raises(ConfigError, match="hidden_size: wanted an integer"):
        CLIPTextModel(config)


def test_ids_and_pixels_that_no_model_takes() -> None:
    model, inputs = model_and_inputs("class.CLIPModel")
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    bad = [
        ({"pixel_values": pixels}, "input_ids: wanted"),
        ({"input_ids": ids}, "pixel_values: wanted"),
        ({"input_ids": ids + 59, "pixel_values": pixels}, "input_ids: wanted ids from 0 to 58"),
        ({"input_ids": ids - 59, "pixel_values": pixels}, "input_ids: wanted ids from 0 to 58"),
        ({"input_ids": ids.repeat(1, 2), "pixel_values": pixels}, "input_ids: wanted at most 11 tokens"),
        ({"input_ids": ids, "pixel_values": pixels[..., 1:]}, "pixel_values: wanted"),
        ({"input_ids": ids, "pixel_values": pixels[0]}, "pixel_values: wanted"),
        ({"input_ids": ids, "pixel_values": pixels, "attention_mask": ids[:, :3]}, "attention_mask: wanted the shape"),
        ({"input_ids": ids, "pixel_values": pixels, "position_ids": ids + 11}, "position_ids: wanted"),
        ({"input_ids": ids, "pixel_values": pixels, "position_ids": ids[:, :3]}, "position_ids: wanted"),
        ({"input_ids": ids.float(), "pixel_values": pixels}, "input_ids: wanted integers"),
        ({"input_ids": ids, "pixel_values": pixels[:2], "return_loss": True}, "return_loss: wanted"),
    ]
    for given, message in bad:
        with pytest.raises(InputError, match=message):
            model(**given)


def test_an_empty_batch_is_a_batch() -> None:
    model, inputs = model_and_inputs("class.CLIPModel")
    ids, pixels = inputs["input_ids"][:0], inputs["pixel_values"][:0]
    assert model.get_text_features(ids).shape == (0, data.PROJECTION)
    assert model.get_image_features(pixels).shape == (0, data.PROJECTION)


# -- what hangs on modules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["position_embedding", "patch_embedding"])
@pytest.mark.parametrize("interpolate", [False, True])
def test_hooks_on_the_vision_embeddings_are_called(name: str, interpolate: bool) -> None:
    """Programs that keep weights on disk put them in place by such hooks, one module at a time."""
    model, inputs = model_and_inputs("class.CLIPVisionModel")
    embeddings = model.vision_model.embeddings
    module = getattr(embeddings, name)
    kept = module.weight.detach().clone()
    want = model(**inputs, interpolate_pos_encoding=interpolate).pooler_output

    def place(module: torch.nn.Module, args: Any) -> None:
        with torch.no_grad():
            module.weight.copy_(kept)

    with torch.no_grad():
        module.weight.zero_()
    module.register_forward_pre_hook(place)
    got = model(**inputs, interpolate_pos_encoding=interpolate).pooler_output
    assert torch.allclose(got, want, atol=1e-5)  # the plain convolution rounds otherwise than its short way
