"""Short cuts equal plain calls, and are not taken if calls are observed or parts were changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from clip_torch import CLIPModel, layers
from clip_torch.modeling import CLIPAttention, CLIPEncoderLayer, CLIPTextTransformer
from clip_torch.shortcuts import below, may_pool, may_skip
from conformance import cases as data
from conformance.adaptors import Torch
from conformance.compare import ACROSS, GRADIENT, relative_error
from triclip.backends import torch_ as backend
from triclip.backends.torch_prefixes import may_share
from triclip.prefixes import until_end

ADAPTOR = Torch()
CASE = {case.name: case for case in data.cases()}["class.CLIPModel"]


@pytest.fixture(autouse=True, params=["fast", "plain"])
def choice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICLIP_SHORT_CUTS", f"linear={request.param}")


def build() -> CLIPModel:
    return ADAPTOR.build(CASE)


def inputs() -> dict[str, torch.Tensor]:
    return ADAPTOR._inputs(CASE)


def changed(out: Any) -> Any:
    """What no norm behind it takes back."""
    return (changed(out[0]), *out[1:]) if isinstance(out, tuple) else out + out.abs()


class Wrapper(nn.Module):
    """Somebody's."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return changed(self.inner(*args, **kwargs))


class Lora(nn.Module):
    """As peft's layer of this name."""

    def __init__(self, base: nn.Linear, dropout: float = 0.0) -> None:
        super().__init__()
        self.base_layer, self.scaling = base, 2.0
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(dropout) if dropout else nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.lora_A["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + self.scaling * self.lora_B["default"](inner)


Lora.__module__ = Lora.forward.__module__ = "peft.tuners.lora.layer"
Lora.__name__ = "Linear"


class OwnTower(CLIPTextTransformer):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out["pooler_output"] = out.pooler_output * 2
        return out


class OwnModel(CLIPModel):
    def get_text_features(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().get_text_features(*args, **kwargs) * 2


def hooked(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, args, out: changed(out))


def patched(module: nn.Module) -> None:
    plain = module.forward
    module.forward = lambda *args, **kwargs: changed(plain(*args, **kwargs))


def swapped(path: str) -> Callable[[CLIPModel], None]:
    def change(model: CLIPModel) -> None:
        parent, _, name = path.rpartition(".")
        holder = model.get_submodule(parent)
        inner = holder.get_submodule(name)
        if name.isdigit():
            holder[int(name)] = Wrapper(inner)
        else:
            setattr(holder, name, Wrapper(inner))

    return change


LAST, FIRST = "text_model.encoder.layers.1", "text_model.encoder.layers.0"
PARTS = ("", ".self_attn", ".self_attn.q_proj", ".self_attn.out_proj", ".mlp", ".mlp.fc1", ".mlp.activation_fn")
CHANGES: dict[str, Callable[[CLIPModel], None]] = {}
for layer in (FIRST, LAST):
    for part in PARTS:
        path = layer + part
        CHANGES[f"hook on {path}"] = lambda model, path=path: hooked(model.get_submodule(path))
        CHANGES[f"wrapped {path}"] = swapped(path)
        CHANGES[f"forward of {path}"] = lambda model, path=path: patched(model.get_submodule(path))
for path in ("text_model.embeddings", "text_model.embeddings.token_embedding", "text_model.final_layer_norm"):
    CHANGES[f"hook on {path}"] = lambda model, path=path: hooked(model.get_submodule(path))
    CHANGES[f"forward of {path}"] = lambda model, path=path: patched(model.get_submodule(path))
CHANGES["own tower"] = lambda model: setattr(model.text_model, "__class__", OwnTower)
CHANGES["own model"] = lambda model: setattr(model, "__class__", OwnModel)


def layer_by_layer(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """What `get_text_features` says it computes, every module called."""
    out = model.text_projection(model.text_model(ids).pooler_output)
    return out * 2 if isinstance(model, OwnModel) else out


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changes_count_everywhere(change: str) -> None:
    model, ids = build(), inputs()["input_ids"]
    before = layer_by_layer(model, ids)
    assert may_pool(model.text_model) and may_share(model)
    CHANGES[change](model)
    want = layer_by_layer(model, ids)
    assert relative_error(model.get_text_features(ids), want) <= ACROSS
    rows = [until_end(row, model.config.text_config) for row in ids.tolist()]
    found = torch.from_numpy(backend.row_features(model, rows))
    assert relative_error(found, want) <= ACROSS
    assert relative_error(want, before) > 1e-3


def counting(plain: Callable, seen: list) -> Callable:
    return lambda *args, **kwargs: seen.append(args[0]) or plain(*args, **kwargs)


@torch.no_grad()
def test_a_class_whose_forward_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(), inputs()["input_ids"]
    for cls in (CLIPEncoderLayer, CLIPAttention, nn.Linear):
        with monkeypatch.context() as patch:
            plain, seen = cls.forward, []
            patch.setattr(cls, "forward", counting(plain, seen))
            assert not may_pool(model.text_model) and not may_share(model)
            model.get_text_features(ids)
            assert len(seen) >= model.config.text_config.num_hidden_layers
    assert may_pool(model.text_model)


@torch.no_grad()
def test_copies_and_moves_change_nothing() -> None:
    model = copy.deepcopy(build()).float()
    assert may_share(model) and may_skip(*below(model.vision_model))


@torch.no_grad()
def test_hooks_on_all_modules_see_every_layer() -> None:
    model, seen = build(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(type(module)))
    try:
        model(**inputs())
    finally:
        handle.remove()
    linear = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert seen.count(nn.Linear) == linear and seen.count(nn.Conv2d) == 1


@torch.no_grad()
def test_flop_counters_count_all_products() -> None:
    model, given = build(), inputs()
    pixels = given["pixel_values"]
    with FlopCounterMode(display=False) as counter:
        model.vision_model(pixels)
    config, (batch, channels) = model.config.vision_config, pixels.shape[:2]
    tokens, width = model.vision_model.embeddings.num_positions, config.hidden_size
    dense = 4 * width**2 + 2 * width * config.intermediate_size
    attention = 2 * tokens * width
    patches = (tokens - 1) * channels * config.patch_size**2 * width
    want = 2 * batch * (config.num_hidden_layers * tokens * (dense + attention) + patches)
    assert counter.get_total_flops() == want
    with FlopCounterMode(display=False) as counter:
        model.get_image_features(pixels)
    assert counter.get_total_flops() > 0.5 * want


def test_modes_that_see_every_operator_see_ordinary_ones() -> None:
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.add(str(func))
            return func(*args, **(kwargs or {}))

    names: set[str] = set()
    with Names():
        build().get_image_features(inputs()["pixel_values"])
    assert not any("mkldnn" in name for name in names) and any("mm" in name for name in names)


def scores(model: CLIPModel, mask: bool = True) -> torch.Tensor:
    given = inputs()
    if not mask:
        given.pop("attention_mask", None)
    return model(**given).logits_per_image


@pytest.mark.parametrize("what", ["logits", "image features", "text features"])
def test_forward_mode_derivatives(what: str) -> None:
    model, given = build().eval(), inputs()
    pixels, ids = given["pixel_values"], given["input_ids"]

    def run(shift: torch.Tensor) -> torch.Tensor:
        if what == "text features":
            model.text_model.embeddings.token_embedding.weight.requires_grad_(False)
            return torch.func.functional_call(
                model.text_model, {"embeddings.token_embedding.weight": weight + shift}, (ids,)
            ).pooler_output
        if what == "image features":
            return model.get_image_features(pixels + shift)
        return model(**{**given, "pixel_values": pixels + shift}).logits_per_image

    weight = model.text_model.embeddings.token_embedding.weight.detach()
    torch.manual_seed(0)
    base = torch.zeros_like(weight if what == "text features" else pixels)
    direction = torch.randn_like(base)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(base, direction))).tangent
    start = base.clone().requires_grad_()
    out = run(start)
    cotangent = torch.randn_like(out)
    (slope,) = torch.autograd.grad(out, start, cotangent)
    assert relative_error((tangent * cotangent).sum().detach(), (slope * direction).sum()) <= GRADIENT
    if what != "text features":
        _, again = torch.func.jvp(run, (base,), (direction,))
        assert relative_error(again.detach(), tangent.detach()) <= GRADIENT


@pytest.mark.parametrize("mask", [True, False])
def test_second_derivatives(mask: bool) -> None:
    """By default attention as by eager attention, whose every operator PyTorch differentiates as often as asked."""
    found = []
    for attention in ("sdpa", "eager"):
        model = build().eval()
        model.set_attn_implementation(attention)
        # Biases of keys change nothing: their gradients are rounding.
        wanted = [
            p
            for name, p in model.named_parameters()
            if ("layers.0" in name or "projection" in name) and "k_proj.bias" not in name
        ]
        firsts = torch.autograd.grad(scores(model, mask).pow(2).sum(), wanted, create_graph=True)
        total = sum(first.pow(2).sum() for first in firsts)
        found.append([*firsts, *torch.autograd.grad(total, wanted)])
    for got, want in zip(*found, strict=True):
        assert relative_error(got.detach(), want.detach()) <= GRADIENT


def test_functional_transforms() -> None:
    model, pixels = build().eval(), inputs()["pixel_values"]
    want = model.get_image_features(pixels).detach()
    got = torch.func.vmap(lambda one: model.get_image_features(one[None])[0])(pixels)
    assert relative_error(got.detach(), want) <= ACROSS
    hessian = torch.func.hessian(lambda x: model.get_image_features(pixels[:1] * x).sum())(torch.tensor(1.0))
    scale = torch.tensor(1.0, requires_grad=True)
    (first,) = torch.autograd.grad(model.get_image_features(pixels[:1] * scale).sum(), scale, create_graph=True)
    (second,) = torch.autograd.grad(first, scale)
    assert torch.allclose(hessian, second, rtol=1e-3, atol=1e-4)


def test_meta_tensors_with_a_mask() -> None:
    case = CASE
    with torch.device("meta"):
        model = type(build())(build().config)
    given = {name: tensor.to("meta") for name, tensor in ADAPTOR._inputs(case).items()}
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert model(**given).logits_per_image.shape == build()(**inputs()).logits_per_image.shape


def test_what_was_not_used_has_no_gradient() -> None:
    """As `DistributedDataParallel(find_unused_parameters=True)` has it, which passes all outputs through a function."""

    class Sink(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            ctx.set_materialize_grads(False)
            return outputs

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return gradients

    model = build()
    text, image = Sink.apply(
        model.text_model(inputs()["input_ids"])[0], model.vision_model(inputs()["pixel_values"])[0]
    )
    text.sum().backward()
    assert all(p.grad is None for p in model.vision_model.parameters())
    assert model.text_model.encoder.layers[0].mlp.fc1.weight.grad is not None
    assert image.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_half_precision_without_such_arithmetic(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights stay what they are; every product is computed in float32, so it is nearer to the truth."""
    given = inputs()
    want = build().eval()(**given).logits_per_image
    model = build().eval().to(dtype)
    given["pixel_values"] = given["pixel_values"].to(dtype)
    monkeypatch.setattr(layers, "computes", lambda asked: asked != dtype)
    products: list[torch.Tensor] = []
    monkeypatch.setattr(F, "linear", counting(F.linear, products))
    out = model(**given)
    assert out.logits_per_image.dtype == dtype == model.get_image_features(given["pixel_values"]).dtype
    assert {p.dtype for p in model.parameters()} == {dtype}
    kinds = [x.dtype for x in products]
    assert kinds.count(dtype) == 3, "the projections behind the towers are called as they are"
    assert kinds.count(torch.float32) > 12
    # bfloat16 keeps 8 bits (4e-3 per rounding): weights and what layers hand on are rounded, nothing in between.
    assert relative_error(out.logits_per_image.float(), want) <= (5e-2 if dtype == torch.bfloat16 else 1e-2)


def test_lora_leaves_the_pooled_rows_their_short_cut() -> None:
    """It computes row by row; with dropout in training, a hook or a forward of one's own it is called for every row."""
    model, ids = build(), inputs()["input_ids"]
    attention = model.text_model.encoder.layers[-1].self_attn
    lora = attention.q_proj = Lora(attention.q_proj, dropout=0.5)
    seen: list[tuple[int, ...]] = []
    with torch.no_grad():
        assert may_pool(model.eval().text_model)
        want = model.text_projection(model.text_model(ids).pooler_output)
        assert relative_error(model.get_text_features(ids), want) <= ACROSS
        assert not may_pool(model.train().text_model)
        lora.lora_dropout["default"].p = 0.0
        assert may_pool(model.text_model)
        handle = lora.lora_A["default"].register_forward_hook(lambda module, args, out: seen.append(out.shape))
        model.get_text_features(ids)
        assert seen[0][1] == ids.shape[1]
        handle.remove()
        lora.forward = lambda x: x
        assert not may_pool(model.text_model)
