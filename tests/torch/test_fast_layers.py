"""Products by oneDNN equal PyTorch's own, and are not used for tracing, transforms and the like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_torch import layers
from clip_torch.activations import ACT2FN as ACTIVATIONS
from clip_torch.modeling import CLIPMLP
from conformance import cases as data
from conformance.adaptors import Torch
from conformance.compare import ACROSS, relative_error

ADAPTOR = Torch()
CASES = {case.name: case for case in data.cases()}
needs_onednn = pytest.mark.skipif(not layers.X86, reason="these products are for x86 CPUs with oneDNN")
# bfloat16 keeps 8 bits: 4e-3 per rounding, and one or two of them lie between the two ways.
BOUND = {torch.float32: ACROSS, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True, params=["fast", "plain", "fast, no bfloat16"])
def taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """The dtypes whose products go to oneDNN: by choice, for every processor computes float32 with it."""
    monkeypatch.setenv("TRICLIP_SHORT_CUTS", f"linear={request.param.partition(',')[0]}")
    if request.param == "plain":
        return set()
    if request.param == "fast":
        return {torch.float32, *({torch.bfloat16} if layers.computes(torch.bfloat16) else ())}
    monkeypatch.setattr(layers, "computes", lambda dtype: dtype not in (torch.bfloat16, torch.float16))
    return {torch.float32}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The products that went to oneDNN."""
    calls, product = [], layers.product
    monkeypatch.setattr(layers, "product", lambda *args: calls.append(args) or product(*args))
    return calls


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (1, 1, 7)], ids=str)
@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_a_linear_layer(dtype: torch.dtype, shape: tuple[int, ...], bias: bool, used: list, taken: set) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(7, 4, bias=bias).to(dtype), torch.randn(shape).to(dtype).requires_grad_()
    got, want = layers.linear(layer, x), layer(x)
    assert bool(used) == (dtype in taken) and got.dtype == dtype
    assert relative_error(got.float().detach(), want.float().detach()) <= BOUND[dtype]
    cotangent = torch.randn_like(want)
    ours, theirs = (torch.autograd.grad(out, [x, *layer.parameters()], cotangent) for out in (got, want))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert relative_error(a.float(), b.float()) <= BOUND[dtype]


@needs_onednn
@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_gradients_of_a_part(frozen: str) -> None:
    layer, x = nn.Linear(7, 4), torch.randn(5, 7, requires_grad=frozen != "x")
    if frozen != "x":
        getattr(layer, frozen).requires_grad_(False)
    wanted = [t for t in (x, *layer.parameters()) if t.requires_grad]
    ours, theirs = (torch.autograd.grad(y.pow(2).sum(), wanted) for y in (layers.linear(layer, x), layer(x)))
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) <= ACROSS


@needs_onednn
def test_second_derivatives() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(7, 4), torch.randn(5, 7, requires_grad=True)
    seconds = []
    for run in (lambda x: layers.linear(layer, x), layer):
        (first,) = torch.autograd.grad(run(x).pow(3).sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(first.pow(2).sum(), [x, *layer.parameters()]))
    for a, b in zip(*seconds, strict=True):
        assert relative_error(a, b) <= ACROSS


@needs_onednn
@pytest.mark.parametrize("size", [(8, 8), (11, 14), (4, 5)], ids=str)
@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_patches_as_one_product(dtype: torch.dtype, size: tuple[int, int], used: list, taken: set) -> None:
    torch.manual_seed(0)
    layer, pixels = nn.Conv2d(3, 6, 4, stride=4, bias=False).to(dtype), torch.randn(2, 3, *size).to(dtype)
    got, want = layers.patch_tokens(layer, pixels), layer(pixels).permute(0, 2, 3, 1)
    assert bool(used) == (dtype in taken)
    assert relative_error(got.float().detach(), want.float().detach()) <= BOUND[dtype]
    cotangent = torch.randn_like(want)
    ours, theirs = (torch.autograd.grad(out, layer.weight, cotangent)[0] for out in (got, want))
    assert relative_error(ours.float(), theirs.float()) <= BOUND[dtype]
    other = nn.Conv2d(3, 6, 4, stride=2, bias=False).to(dtype)  # with overlap
    assert layers.patch_tokens(other, pixels).equal(other(pixels).permute(0, 2, 3, 1))


@needs_onednn
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)], ids=str)
@pytest.mark.parametrize("act", layers.IN_PLACE)
def test_an_activation_over_its_argument(act: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without oneDNN: the plain products, with no second hidden layer."""
    monkeypatch.setenv("TRICLIP_SHORT_CUTS", "linear=plain")
    torch.manual_seed(0)
    fc1, fc2, function, x = nn.Linear(8, 16), nn.Linear(16, 8), ACTIVATIONS[act], torch.randn(shape)
    taken, plain = [], layers._mlp_in_place
    monkeypatch.setattr(layers, "_mlp_in_place", lambda *args: taken.append(args) or plain(*args))
    with torch.no_grad():
        got, want = layers.mlp(fc1, function, fc2, x), fc2(function(fc1(x)))
        assert relative_error(got, want) <= ACROSS and taken
        fc1.register_forward_hook(lambda *_: taken.clear())  # who looks on gets each layer's own output
        assert torch.equal(layers.mlp(fc1, function, fc2, x), want) and not taken
    assert layers.mlp(fc1, function, fc2, x).requires_grad and not taken


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "selu"])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_an_activation_inside_the_product(act: str, dtype: torch.dtype, used: list, taken: set) -> None:
    torch.manual_seed(0)
    config = type("Config", (), {"hidden_act": act, "hidden_size": 24, "intermediate_size": 37})
    block, x = CLIPMLP(config).to(dtype).eval(), 4 * torch.randn(3, 5, 24).to(dtype)
    with torch.no_grad():
        want = block.fc2(ACTIVATIONS[act](block.fc1(x)))
        assert relative_error(block(x).float(), want.float()) <= BOUND[dtype]
        if dtype in taken:
            assert (used[0][3:] != ()) == (act != "selu")
        else:
            assert not used
        block.activation_fn = nn.Tanh()  # replaced from outside
        assert relative_error(block(x).float(), block.fc2(torch.tanh(block.fc1(x))).float()) <= BOUND[dtype]


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_an_activation_with_gradients(
    act: str, training: bool, dtype: torch.dtype, taken: set, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = type("Config", (), {"hidden_act": act, "hidden_size": 24, "intermediate_size": 37})
    block, x = CLIPMLP(config).to(dtype).train(training), 4 * torch.randn(3, 5, 24).to(dtype)
    calls, apply = [], layers._SwishMLP.apply
    monkeypatch.setattr(layers._SwishMLP, "apply", lambda *args: calls.append(args) or apply(*args))
    block(x)
    assert bool(calls) == (act == "quick_gelu" and dtype == torch.float32 and dtype in taken)
    x.requires_grad_()
    found = []
    for run in (block, lambda x: block.fc2(ACTIVATIONS[act](block.fc1(x)))):
        out = run(x)
        found.append([out, *torch.autograd.grad(out.float().sin().sum(), [x, *block.parameters()])])
    for got, want in zip(*found, strict=True):
        assert got.dtype == dtype
        assert relative_error(got.float().detach(), want.float().detach()) <= BOUND.get(dtype, ACROSS)
    if training:  # with and without gradients to the bit: what is computed again must be what it was
        with torch.no_grad():
            assert block(x).equal(found[0][0])


def swish_block(bias: bool = True) -> tuple[CLIPMLP, torch.Tensor, Any]:
    """A block with quick_gelu, its input, and the plain way."""
    torch.manual_seed(0)
    config = type("Config", (), {"hidden_act": "quick_gelu", "hidden_size": 24, "intermediate_size": 37})
    block = CLIPMLP(config).train()
    if not bias:
        block.fc1.bias = block.fc2.bias = None
    x = torch.randn(3, 5, 24, requires_grad=True)
    return block, x, lambda x: block.fc2(ACTIVATIONS["quick_gelu"](block.fc1(x)))


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wanted", ["x", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "all but x", "all"])
def test_gradients_of_a_part_of_a_block(wanted: str, bias: bool, used: list, taken: set) -> None:
    block, x, plain = swish_block(bias)
    given = {"x": x, **dict(block.named_parameters())}
    for name, tensor in given.items():
        tensor.requires_grad_(wanted in (name, "all") or (wanted == "all but x" and name != "x"))
    chosen = [tensor for tensor in given.values() if tensor.requires_grad]
    if not chosen:
        return  # there is no bias
    ours, theirs = (torch.autograd.grad(run(x).pow(2).sum(), chosen) for run in (block, plain))
    assert bool(used) == bool(taken)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) <= ACROSS and a.is_contiguous()


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_second_derivatives_of_a_block(bias: bool) -> None:
    block, x, plain = swish_block(bias)
    chosen = [x, *block.parameters()]
    seconds = []
    for run in (block, plain):
        firsts = torch.autograd.grad(run(x).pow(3).sum(), chosen, create_graph=True)
        seconds.append([*firsts, *torch.autograd.grad(sum(first.pow(2).sum() for first in firsts), chosen)])
    for a, b in zip(*seconds, strict=True):
        assert relative_error(a.detach(), b.detach()) <= ACROSS


@needs_onednn
def test_a_block_keeps_its_hidden_layer_once_and_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICLIP_SHORT_CUTS", "linear=fast")
    block, x, _ = swish_block()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = block(x).sum()
    (hidden,) = [tensor for tensor in kept if tensor.shape == (3, 5, 37)]
    before = hidden.clone()
    first = torch.autograd.grad(out, x, retain_graph=True)[0]
    assert hidden.equal(before)
    assert torch.autograd.grad(out, x)[0].equal(first)


class Adapter(nn.Module):
    """What adapter libraries put in a linear layer's place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.seen = base, 0
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.base(x)


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"])
@pytest.mark.parametrize("how", ["hook", "pre_hook", "adapter", "forward"])
def test_what_others_put_into_a_model_is_called(name: str, how: str) -> None:
    case = CASES["class.CLIPTextModel"]
    model, inputs = ADAPTOR.build(case), ADAPTOR._inputs(case)
    layer, seen = model.text_model.encoder.layers[0].get_submodule(name), []
    if how == "hook":
        layer.register_forward_hook(lambda *args: seen.append(1))
    elif how == "pre_hook":
        layer.register_forward_pre_hook(lambda *args: seen.append(1))
    elif how == "forward":
        layer.forward = lambda x: seen.append(1) or F.linear(x, layer.weight, layer.bias)
    else:
        block, _, leaf = name.partition(".")
        setattr(model.text_model.encoder.layers[0].get_submodule(block), leaf, Adapter(layer))
    with torch.no_grad():
        model(**inputs)
        model.text_model.pooled(**inputs)
    if how == "adapter":
        seen = [1] * model.text_model.encoder.layers[0].get_submodule(name).seen
    assert len(seen) == 2


def test_another_kind_of_weight_is_left_to_pytorch(used: list) -> None:
    case = CASES["class.CLIPTextModel"]
    model, inputs = ADAPTOR.build(case), ADAPTOR._inputs(case)
    with torch.no_grad():
        want = model(**inputs).pooler_output
        for run in (
            lambda: torch.ao.quantization.quantize_dynamic(model, {nn.Linear})(**inputs),
            lambda: model.double()(**inputs),
            lambda: model.float().half()(**inputs),
        ):
            used.clear()
            assert relative_error(run().pooler_output.float(), want) <= 5e-2  # eight bits, or eleven
            assert not used


def test_the_flag_of_pytorch_is_heeded(used: list) -> None:
    case: Any = CASES["class.CLIPTextModel"]
    model, inputs = ADAPTOR.build(case), ADAPTOR._inputs(case)
    with torch.backends.mkldnn.flags(enabled=False):
        want = model(**inputs).pooler_output
        assert not used
    assert relative_error(model(**inputs).pooler_output.detach(), want.detach()) <= ACROSS
