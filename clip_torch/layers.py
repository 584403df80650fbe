"""Linear layers and attention on CPUs with other kernels, if they are faster on the machine.

`F.linear` computes float32 products by MKL, which uses only half of an AVX-512 machine's speed on processors that it
does not recognise (AMD's), and not all of it on others. oneDNN, a part of PyTorch too, supports all of them, and fuses
an activation into the product; with only AVX2 it is slower. A processor without arithmetic for bfloat16 or float16
emulates it at a tenth of the speed; there a layer's weights are widened when the layer is computed. Everything except
plain layers on plain tensors uses PyTorch's own kernels: see `shortcuts`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core import machine

from .activations import name_of
from .shortcuts import may_skip

X86 = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()

# name in configs -> oneDNN's (name, algorithm) and a factor c: f(x) = g(c * x) / c with oneDNN's g
FUSED = {
    "quick_gelu": ("swish", "", 1.702),
    "gelu": ("gelu", "none", 1.0),
    "gelu_new": ("gelu", "tanh", 1.0),
    "gelu_pytorch_tanh": ("gelu", "tanh", 1.0),
    "relu": ("relu", "", 1.0),
}
# what oneDNN's g is in PyTorch, written over its argument
IN_PLACE: dict[str, Callable] = {
    "quick_gelu": partial(F.silu, inplace=True),
    "gelu": torch.ops.aten.gelu_,
    "gelu_new": partial(torch.ops.aten.gelu_, approximate="tanh"),
    "gelu_pytorch_tanh": partial(torch.ops.aten.gelu_, approximate="tanh"),
    "relu": torch.relu_,
}


# -- what the machine has ---------------------------------------------------------------------------------------------


def avx512() -> bool:
    """Whether oneDNN computes with AVX-512. Not measured, because the answer might differ between runs, whose results
    would then differ in their last bits."""
    return X86 and "AVX512" in torch.backends.cpu.get_cpu_capability() and not _limited()


def computes(dtype: torch.dtype) -> bool:
    """Whether the processor has arithmetic for a dtype."""
    if dtype not in (torch.bfloat16, torch.float16) or not torch.backends.mkldnn.is_available():
        return True
    supported = torch.ops.mkldnn
    there = supported._is_mkldnn_bf16_supported if dtype == torch.bfloat16 else supported._is_mkldnn_fp16_supported
    return there() and not (X86 and _limited())


def _limited() -> bool:
    """Whether an environment variable keeps oneDNN from using AVX-512."""
    told = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    return told.upper() in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")


def way(layer: nn.Module, x: Tensor, kind: type = nn.Linear) -> str:
    """How a layer's product is computed: "call": by the layer itself; "plain": by PyTorch's own product, "onednn", or
    "float32": widened before."""
    if type(x) is not Tensor or type(layer) is not kind or x.device.type != "cpu" or x.dtype == torch.float64:
        return "call"
    if not may_skip(layer, x=x):
        return "call"
    weight = layer.weight
    plain = type(weight) in (nn.Parameter, Tensor) and weight.device == x.device
    if not plain or x.dim() < 2 or x.numel() == 0 or not torch.backends.mkldnn.enabled:
        return "call"
    if torch.is_autocast_enabled("cpu") or torch._C._functorch.is_functorch_wrapped_tensor(weight):
        return "call"
    if x.dtype in (weight.dtype, torch.float32) and not computes(weight.dtype):
        return "float32"
    if x.dtype != weight.dtype:
        return "call"
    fits = X86 and x.dtype in (torch.float32, torch.bfloat16)
    return "onednn" if fits and _chosen() else "plain"


def _chosen() -> bool:
    return machine.choice("linear", avx512)


def computable(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in float32 if the processor has no arithmetic for their dtype."""
    first = tensors[0]
    if type(first) is not Tensor or first.device.type != "cpu" or torch.compiler.is_compiling():
        return tensors
    if computes(first.dtype) or torch.is_autocast_enabled("cpu"):  # autocast would revert it
        return tensors
    return tuple(None if tensor is None else tensor.float() for tensor in tensors)


# -- layers -----------------------------------------------------------------------------------------------------------


def linear(layer: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`layer(x)`: [..., in] -> [..., out]. dtype: of x before it was made `computable`."""
    how = way(layer, x)
    if how in ("call", "plain"):
        return layer(x if dtype is None else x.to(dtype))
    return _product(how, x, layer.weight, layer.bias)


def patch_tokens(layer: nn.Module, pixels: Tensor) -> Tensor:
    """`layer(pixels)`, channels last: [B, C, H, W] -> [B, h, w, D], for a convolution without overlap.

    Computed as one matrix product; a convolution takes up to twice the time.
    """
    how = way(layer, pixels, nn.Conv2d)
    if how in ("call", "plain") or layer.kernel_size != layer.stride or layer.bias is not None:
        return layer(pixels).permute(0, 2, 3, 1)
    height, width = (size // patch for size, patch in zip(pixels.shape[2:], layer.stride, strict=True))
    pixels = pixels[:, :, : height * layer.stride[0], : width * layer.stride[1]]  # remainders are cut off
    squares = pixels.unflatten(3, (width, -1)).unflatten(2, (height, -1))  # [B, C, h, p, w, p]
    squares = squares.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [B, h, w, C * p * p]
    return _product(how, squares, layer.weight.flatten(1), None)


def mlp(fc1: nn.Module, act: Callable, fc2: nn.Module, x: Tensor, training: bool = False) -> Tensor:
    """fc2(act(fc1(x))), with the activation fused into the first product if oneDNN has it.

    Gradients need the activation's input, so with gradients, and in all of training, the activation is computed
    separately; quick_gelu in float32 has a fused forward and backward pass of its own.
    """
    how, name = {way(fc1, x), way(fc2, x)}, name_of(act)
    gradients = training or torch.is_grad_enabled()
    wide = how == {"float32"} or (how == {"plain"} and x.dtype == torch.float32)
    if wide and name in IN_PLACE and not gradients and fc1.bias is not None and fc2.bias is not None:
        return _mlp_in_place(fc1, name, fc2, x)
    if how == {"float32"}:  # the hidden layer needs no rounding either
        hidden = act(F.linear(x.float(), fc1.weight.float(), _wide(fc1.bias)))
        return F.linear(hidden, fc2.weight.float(), _wide(fc2.bias)).to(x.dtype)
    if how == {"onednn"} and name in FUSED and not (gradients and (name != "quick_gelu" or x.dtype != torch.float32)):
        fused, algorithm, c = FUSED[name]
        if gradients:
            return _SwishMLP.apply(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, c)
        if c == 1.0:
            return product(product(x, fc1.weight, fc1.bias, fused, algorithm), fc2.weight, fc2.bias)
        # The factor is applied to the narrow arrays.
        h = product(x * c, fc1.weight, None if fc1.bias is None else fc1.bias * c, fused, algorithm)
        return product(h, fc2.weight, None if fc2.bias is None else fc2.bias * c).mul_(1 / c)
    return linear(fc2, act(linear(fc1, x)))


def _mlp_in_place(fc1: nn.Module, name: str, fc2: nn.Module, x: Tensor) -> Tensor:
    """In float32, the activation over its argument: new memory is slow, and the hidden layer is the largest array."""
    c = FUSED[name][2]  # inside the products
    bias = fc1.bias.float() if c == 1.0 else fc1.bias.float() * c
    h = torch.addmm(bias, x.flatten(0, -2).float(), fc1.weight.float().T, alpha=c)
    out = torch.addmm(fc2.bias.float(), IN_PLACE[name](h), fc2.weight.float().T, alpha=1 / c)
    return out.unflatten(0, x.shape[:-1]).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, scale: float) -> Tensor:
    """F.scaled_dot_product_attention, with second derivatives: [B, H, S, d] each."""
    needed = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    fused = needed and dropout == 0.0 and q.device.type == "cpu" and may_skip(x=q)
    if fused and torch.backends.cuda.flash_sdp_enabled():  # also the switch for CPUs
        return _Attention.apply(q, k, v, bias, scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


# -- how they are computed --------------------------------------------------------------------------------------------


def product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", algorithm: str = "") -> Tensor:
    """act(x @ weight.T + bias), without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


def _product(how: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if how == "onednn":
        return _Linear.apply(x, weight, bias)
    return F.linear(x.float(), weight.float(), _wide(bias)).to(x.dtype)


def _wide(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()


def _again(
    plain: Callable, given: tuple[Tensor | None, ...], gradient: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of plain(*given), which can be differentiated again, for second derivatives."""
    chosen = [tensor for tensor, wanted in zip(given, needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(plain(*given), chosen, gradient, create_graph=True))
    return tuple(next(found) if wanted else None for wanted in needed)


class _Linear(torch.autograd.Function):
    """`product` with gradients, which are also computed by `product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.set_materialize_grads(False)  # unused outputs have None instead of zeros
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None
        if torch.is_grad_enabled():
            return _again(F.linear, ctx.saved_tensors, gradient, ctx.needs_input_grad)
        x, weight, _ = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        rows = gradient.flatten(0, -2)  # [M, out]
        if ctx.needs_input_grad[0]:
            of_x = product(gradient, weight.T, None)
        if ctx.needs_input_grad[1]:
            of_weight = _weights_gradient(rows, x.flatten(0, -2))
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias


def _weights_gradient(rows: Tensor, given: Tensor) -> Tensor:
    """rows.T @ given: [M, out], [M, in] -> [out, in].

    oneDNN copies the first factor, so that is the narrower one, even if the result has to be transposed.
    """
    if rows.shape[1] > given.shape[1]:
        return product(given.T, rows.T, None).T.contiguous()
    return product(rows.T, given.T, None)


class _SwishMLP(torch.autograd.Function):
    """swish(c * (x @ w1.T + b1)) / c @ w2.T + b2.

    New memory is slow, and the hidden layer is the largest array. Only its pre-activation is kept, from which the
    activation is cheap to recompute, and gradients are written in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, c: float) -> Tensor:
        hidden = product(x * c, w1, None if b1 is None else b1 * c)
        ctx.save_for_backward(x, w1, b1, w2, b2, hidden)
        ctx.set_materialize_grads(False)
        ctx.c = c
        out = product(F.silu(hidden), w2, None).div_(c)
        return out if b2 is None else out.add_(b2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 6
        *given, hidden = ctx.saved_tensors
        x, w1, b1, w2, b2 = given
        c, needed = ctx.c, ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():
            return *_again(_swish_mlp(c), (x, w1, b1, w2, b2), gradient, needed), None
        of_b2 = gradient.flatten(0, -2).sum(0) if needed[4] else None
        gradient = gradient / c
        of_w2 = _weights_gradient(gradient.flatten(0, -2), F.silu(hidden).flatten(0, -2)) if needed[3] else None
        if not any(needed[:3]):
            return None, None, None, of_w2, of_b2, None
        of_hidden = product(gradient, w2.T, None)
        torch.ops.aten.silu_backward.grad_input(of_hidden, hidden, grad_input=of_hidden)
        rows = of_hidden.flatten(0, -2)
        of_x = product(of_hidden, w1.T, None).mul_(c) if needed[0] else None
        of_w1 = _weights_gradient(rows, x.flatten(0, -2)).mul_(c) if needed[1] else None
        of_b1 = rows.sum(0).mul_(c) if needed[2] else None
        return of_x, of_w1, of_b1, of_w2, of_b2, None


def _swish_mlp(c: float) -> Callable:
    return lambda x, w1, b1, w2, b2: F.linear(F.silu(c * F.linear(x, w1, b1)) / c, w2, b2)


class _Attention(torch.autograd.Function):
    """PyTorch's fused attention on CPUs, with second derivatives by the plain formula, which the fused one lacks."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, logsumexp = fused(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
        ctx.save_for_backward(q, k, v, bias, out, logsumexp)
        ctx.set_materialize_grads(False)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 5
        q, k, v, bias, out, logsumexp = ctx.saved_tensors
        if torch.is_grad_enabled():
            plain = _attention(bias, ctx.scale)
            return *_again(plain, (q, k, v), gradient, ctx.needs_input_grad[:3]), None, None
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = fused(gradient, q, k, v, out, logsumexp, 0.0, False, attn_mask=bias, scale=ctx.scale)
        return *found, None, None


def _attention(bias: Tensor | None, scale: float) -> Callable:
    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * scale) @ k.transpose(-1, -2)
        return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ v

    return plain
