"""PyTorch's uses of a model: compile, export, copy, cast, checkpoint, dropout, other picture sizes."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from conformance import cases as data
from conformance.adaptors import Torch
from conformance.compare import FORWARD, golden_file, relative_error

CASES = {case.name: case for case in data.cases()}
ADAPTOR = Torch()
# bfloat16 keeps 8 bits (4e-3 per rounding), float16 11 (5e-4); some dozens of roundings add up in a two-layer model.
HALF_BOUND = {torch.bfloat16: 5e-2, torch.float16: 1e-2}


def model_and_inputs(name: str = "class.CLIPModel", **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    case = replace(CASES[name], **changes)
    return ADAPTOR.build(case), {key: torch.from_numpy(array) for key, array in data.draw_inputs(case).items()}


def test_compile_without_graph_breaks() -> None:
    model, inputs = model_and_inputs()
    want = model(**inputs)
    got = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    for name in ("logits_per_image", "text_embeds", "image_embeds"):
        assert relative_error(got[name].detach(), want[name].detach()) <= FORWARD


def test_compile_takes_another_batch_without_failing() -> None:
    model, inputs = model_and_inputs("class.CLIPTextModel")
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    for rows in (4, 3, 2):
        some = {name: array[:rows] for name, array in inputs.items()}
        assert relative_error(compiled(**some)[1].detach(), model(**some)[1].detach()) <= FORWARD


@pytest.mark.parametrize("name", ["class.CLIPModel", "class.CLIPTextModelWithProjection", "class.CLIPVisionModel"])
def test_export_with_a_free_batch_size(name: str) -> None:
    model, inputs = model_and_inputs(name)
    batch = torch.export.Dim("batch", min=2, max=64)
    dynamic = {key: {0: batch} for key in inputs}
    program = torch.export.export(model, (), inputs, dynamic_shapes=dynamic)
    fewer = {key: value[:3] for key, value in inputs.items()}
    got, want = program.module()(**fewer), model(**fewer)
    assert type(got) is type(want)
    for key, value in data.flatten(want).items():
        assert relative_error(data.flatten(got)[key].detach(), value.detach()) <= FORWARD


def test_jit_trace() -> None:
    model, inputs = model_and_inputs("class.CLIPTextModel", config=data.text(torchscript=True))
    traced = torch.jit.trace(model, (inputs["input_ids"],))
    fewer = inputs["input_ids"][:2]
    assert relative_error(traced(fewer)[0].detach(), model(fewer)[0].detach()) <= FORWARD


def test_vmap_and_functional_gradients() -> None:
    model, inputs = model_and_inputs("class.CLIPTextModel")
    ids = inputs["input_ids"]
    singly = torch.vmap(lambda row: model(row[None]).pooler_output[0])(ids)
    assert relative_error(singly.detach(), model(ids).pooler_output.detach()) <= FORWARD
    parameters = dict(model.named_parameters())
    loss = lambda p: torch.func.functional_call(model, p, (ids,)).pooler_output.sum()  # noqa: E731
    got = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        assert torch.allclose(got[name], parameter.grad, atol=1e-5)


@pytest.mark.parametrize("cls", data.CLASSES)
def test_deepcopy_and_pickle_give_equal_independent_models(cls: str) -> None:
    model, inputs = model_and_inputs(f"class.{cls}")
    want = data.flatten(model(**inputs))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(data.flatten(twin(**inputs)).values(), want.values(), strict=True))
        assert twin.config is not model.config
        assert twin.config == model.config
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
    assert all(torch.equal(a, b) for a, b in zip(data.flatten(model(**inputs)).values(), want.values(), strict=True))


@pytest.mark.parametrize("dtype", HALF_BOUND, ids=str)
def test_half_precision_models(dtype: torch.dtype) -> None:
    model, inputs = model_and_inputs()
    want = data.flatten(model(**inputs, **data.ALL_OUTPUTS))
    half = model.to(dtype) if dtype == torch.bfloat16 else model.half()
    assert half.dtype == dtype
    got = data.flatten(half(**inputs, **data.ALL_OUTPUTS))
    assert list(got) == list(want)
    for name, value in got.items():
        assert value.dtype == dtype, name
        assert relative_error(value.detach().float(), want[name].detach()) <= HALF_BOUND[dtype], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("how", ["cast", "autocast"])
def test_a_row_that_is_masked_entirely_attends_uniformly(dtype: torch.dtype, attention: str, how: str) -> None:
    """In every precision: the mean of the values seen so far, so the numbers are float32's within rounding."""
    model, inputs = model_and_inputs("mask.zero_row")
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for layer in model.text_model.encoder.layers:
            layer.self_attn.q_proj.weight.mul_(200)  # scores that float16's lowest value does not drown
        want = model(**inputs)
        if how == "autocast":
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                got = model(**inputs)
        else:
            got = model.to(dtype)(**inputs)
    assert torch.isfinite(got.last_hidden_state).all()
    bound = HALF_BOUND.get(dtype, FORWARD)
    assert relative_error(got.last_hidden_state[1].float(), want.last_hidden_state[1]) <= bound


def test_uniform_attention_weights() -> None:
    model, inputs = model_and_inputs("mask.zero_row")
    seen = torch.ones(8, 8).tril()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for weights in model.to(dtype)(**inputs, output_attentions=True).attentions:
            assert torch.allclose(weights[1].float(), (seen / seen.sum(-1, keepdim=True)).expand(3, 8, 8), atol=5e-3)


@pytest.mark.parametrize("mask", data.MASKS)
def test_sdpa_equals_eager(mask: str) -> None:
    model, inputs = model_and_inputs(f"mask.{mask}")
    outputs = {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            outputs[attention] = model(**inputs, output_hidden_states=True)
    for name, value in data.flatten(outputs["sdpa"]).items():
        assert relative_error(value, data.flatten(outputs["eager"])[name]) <= FORWARD, name


def test_attention_implementation_is_chosen_and_checked() -> None:
    from clip_torch import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(**data.text())
    assert CLIPTextModel(config).config._attn_implementation == "sdpa"
    config = CLIPTextConfig(**data.text(), attn_implementation="eager")
    assert CLIPTextModel(config).config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="attn_implementation: wanted one of sdpa, eager, found 'flash'"):
        CLIPTextModel(CLIPTextConfig(**data.text(), attn_implementation="flash"))
    with pytest.raises(ValueError, match="found 'nonsense'"):
        CLIPTextModel(config).set_attn_implementation("nonsense")


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model, inputs = model_and_inputs("loss")
    model.train()
    model(**inputs, return_loss=True).loss.backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    model(**inputs, return_loss=True).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, want[name], atol=1e-7), name
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_gradient_checkpointing_recomputes_every_layer() -> None:
    model, inputs = model_and_inputs("class.CLIPTextModel")
    calls = []
    for layer in model.text_model.encoder.layers:
        layer.layer_norm1.register_forward_hook(lambda *args: calls.append(1))
    model.train()
    model.gradient_checkpointing_enable()
    model(**inputs).pooler_output.sum().backward()
    assert len(calls) == 2 * model.config.num_hidden_layers


def test_dropout_acts_in_training_only_and_attentions_are_before_it() -> None:
    model, inputs = model_and_inputs("class.CLIPTextModel", config=data.text(attention_dropout=0.5))
    want = model(**inputs, **data.ALL_OUTPUTS)
    model.train()
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        torch.manual_seed(0)
        got, other = (model(**inputs, output_hidden_states=True) for _ in range(2))
        assert not torch.allclose(got.last_hidden_state, want.last_hidden_state)
        assert not torch.allclose(got.last_hidden_state, other.last_hidden_state)
    trained = model(**inputs, **data.ALL_OUTPUTS)
    assert torch.allclose(trained.attentions[0], want.attentions[0], atol=1e-6)
    assert torch.allclose(trained.attentions[1].sum(-1), torch.ones(4, 3, 8), atol=1e-5)
    model.eval()
    assert torch.equal(model(**inputs, **data.ALL_OUTPUTS).last_hidden_state, want.last_hidden_state)


@pytest.mark.parametrize("size", ["24x24", "32x32", "16x28", "40x20", "25x27", "4x4"])
def test_other_image_sizes(size: str) -> None:
    """Positions are resized as transformers 4.57.6 resizes them; at the native size nothing changes."""
    height, width = (int(n) for n in size.split("x"))
    config = data.vision(image_size=24, patch_size=4)
    case = data.Case("", "CLIPVisionModelWithProjection", config, {"pixel_values": f"pixels:2,3,{height},{width}"})
    model, pixels = ADAPTOR.build(case), torch.from_numpy(data.draw_inputs(case)["pixel_values"])
    with torch.no_grad():
        output = model(pixels, interpolate_pos_encoding=True)
    for name in ("last_hidden_state", "image_embeds"):
        assert relative_error(output[name], golden_file("interpolate")[f"{size}/{name}"]) <= FORWARD
    if size == "24x24":
        with torch.no_grad():
            assert torch.equal(model(pixels).last_hidden_state, output.last_hidden_state)


def test_inputs_are_never_changed() -> None:
    model, inputs = model_and_inputs("loss")
    before = {name: value.clone() for name, value in inputs.items()}
    model(**inputs, return_loss=True).loss.backward()
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_integer_types_of_ids_and_masks() -> None:
    model, inputs = model_and_inputs("class.CLIPTextModel")
    want = model(**inputs).pooler_output
    for dtype in (torch.int32, torch.int64):
        assert torch.equal(model(inputs["input_ids"].to(dtype), inputs["attention_mask"]).pooler_output, want)
    for dtype in (torch.bool, torch.int32, torch.float32):
        assert torch.equal(model(inputs["input_ids"], inputs["attention_mask"].to(dtype)).pooler_output, want)


def test_float64_and_uint8_pixels() -> None:
    model, inputs = model_and_inputs("class.CLIPVisionModel")
    want = model(**inputs).pooler_output
    assert relative_error(model(inputs["pixel_values"].double()).pooler_output.detach(), want.detach()) <= FORWARD
    pixels = (inputs["pixel_values"] * 50).clamp(0, 255).to(torch.uint8)
    assert torch.equal(model(pixels).pooler_output, model(pixels.float()).pooler_output)
    double = model.double()
    assert relative_error(double(inputs["pixel_values"]).pooler_output.detach(), want.detach()) <= FORWARD


def test_outputs_are_a_pytree() -> None:
    model, inputs = model_and_inputs("class.CLIPModel")
    output = model(**inputs, **data.ALL_OUTPUTS)
    leaves, spec = torch.utils._pytree.tree_flatten(output)
    assert len(leaves) == len(data.flatten(output))
    again = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert type(again) is type(output)
    assert again.text_model_output.pooler_output is output.text_model_output.pooler_output


def test_peft_module_names() -> None:
    """LoRA files name these modules; both text classes and both vision classes must have them."""
    for cls in data.CLASSES:
        model, _ = model_and_inputs(f"class.{cls}")
        names = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        for tower in ("text_model", "vision_model"):
            if tower.split("_")[0] in CASES[f"class.{cls}"].tower or cls == "CLIPModel":
                for leaf in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
                    assert f"{tower}.encoder.layers.1.{leaf}" in names
                assert {f"{tower}.encoder.layers.0.mlp.fc1", f"{tower}.encoder.layers.0.mlp.fc2"} <= names


def test_numbers_do_not_depend_on_the_batch() -> None:
    model, inputs = model_and_inputs("class.CLIPModel")
    want = model(**inputs).image_embeds.detach()
    singly = [model.get_image_features(pixels[None]).detach() for pixels in inputs["pixel_values"]]
    singly = torch.cat([row / row.norm() for row in singly])
    assert np.abs(singly.numpy() - want.numpy()).max() <= FORWARD
