"""Linear layers on x86 CPUs, through oneDNN.

`F.linear` takes float32 products to MKL, which leaves half of an AVX-512 machine's speed unused where it does not know
the processor (AMD's), and some of it elsewhere. oneDNN, a part of the same PyTorch, knows them all, and computes an
activation while it writes the product. Everything that is no plain layer on plain tensors keeps PyTorch's own way:
other devices and dtypes, hooks, adapters, quantised or sharded weights, autocast, tracing, functional transforms.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

X86 = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
DTYPES = {torch.float32}
if X86 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    DTYPES.add(torch.bfloat16)

# name in configs -> oneDNN's (name, algorithm), and a factor c: f(x) = g(c * x) / c for oneDNN's g
FUSED = {
    "quick_gelu": ("swish", "", 1.702),
    "gelu": ("gelu", "none", 1.0),
    "gelu_new": ("gelu", "tanh", 1.0),
    "gelu_pytorch_tanh": ("gelu", "tanh", 1.0),
    "relu": ("relu", "", 1.0),
}


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """What `layer(x)` gives: [..., in] -> [..., out]."""
    if not is_plain(layer, x):
        return layer(x)
    return _Linear.apply(x, layer.weight, layer.bias)


def patch_tokens(layer: nn.Module, pixels: Tensor) -> Tensor:
    """What `layer(pixels)` gives, channels last: [B, C, H, W] -> [B, h, w, D], for a convolution without overlap.

    As one product: a convolution's own way costs up to twice the time.
    """
    if not is_plain(layer, pixels, nn.Conv2d) or layer.kernel_size != layer.stride or layer.bias is not None:
        return layer(pixels).permute(0, 2, 3, 1)
    height, width = (size // patch for size, patch in zip(pixels.shape[2:], layer.stride, strict=True))
    pixels = pixels[:, :, : height * layer.stride[0], : width * layer.stride[1]]  # what is left over is cut off
    squares = pixels.unflatten(3, (width, -1)).unflatten(2, (height, -1))  # [B, C, h, p, w, p]
    squares = squares.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [B, h, w, C * p * p]
    return _Linear.apply(squares, layer.weight.flatten(1), None)


def mlp(fc1: nn.Module, act: str | None, fc2: nn.Module, x: Tensor, training: bool = False) -> Tensor | None:
    """fc2(act(fc1(x))) with the activation inside the first product; None where that can't be had.

    `act` is a name of `FUSED`. Gradients need what the activation is given, so there, and in all of training, it stands
    by itself: in one pass each way for quick_gelu in float32; the others can't be had.
    """
    if act not in FUSED or not (is_plain(fc1, x) and is_plain(fc2, x)):
        return None
    name, algorithm, c = FUSED[act]
    if training or torch.is_grad_enabled():
        if name != "swish" or x.dtype != torch.float32:
            return None
        return _SwishMLP.apply(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, c)
    if c == 1.0:
        return product(product(x, fc1.weight, fc1.bias, name, algorithm), fc2.weight, fc2.bias)
    # The factor goes where the arrays are narrow.
    h = product(x * c, fc1.weight, None if fc1.bias is None else fc1.bias * c, name, algorithm)
    out = product(h, fc2.weight, None).div_(c)
    return out if fc2.bias is None else out.add_(fc2.bias)


def is_plain(layer: nn.Module, x: Tensor, kind: type = nn.Linear) -> bool:
    """Whether nothing but the numbers in `layer.weight` and `x` decides what the layer gives."""
    return (
        type(layer) is kind
        and type(layer.weight) in (nn.Parameter, Tensor)
        and type(x) is Tensor
        and X86
        and x.device.type == "cpu"
        and layer.weight.device.type == "cpu"
        and x.dtype in DTYPES
        and layer.weight.dtype == x.dtype
        and x.dim() > 1
        and x.numel() > 0
        and torch.backends.mkldnn.enabled
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
        and not (layer._backward_pre_hooks or layer._compiled_call_impl or "forward" in layer.__dict__)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"))
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_functorch_wrapped_tensor(layer.weight)
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", algorithm: str = "") -> Tensor:
    """act(x @ weight.T + bias), without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


class _Linear(torch.autograd.Function):
    """`product` with gradients, which are such products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives
            rows, given = gradient.flatten(0, -2), x.flatten(0, -2)
            return gradient @ weight, rows.T @ given, rows.sum(0) if ctx.needs_input_grad[2] else None
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

    The first factor is copied on its way to oneDNN: it is the narrower one, even if the result has to be turned.
    """
    if rows.shape[1] > given.shape[1]:
        return product(given.T, rows.T, None).T.contiguous()
    return product(rows.T, given.T, None)


class _SwishMLP(torch.autograd.Function):
    """swish(c * (x @ w1.T + b1)) / c @ w2.T + b2.

    New memory is slow, and the hidden layer is the largest array there is: the gradients need it before its activation,
    which is cheap to repeat, and they are written over each other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, c: float) -> Tensor:
        hidden = product(x * c, w1, None if b1 is None else b1 * c)
        ctx.save_for_backward(x, w1, b1, w2, hidden)
        ctx.c = c
        out = product(F.silu(hidden), w2, None).div_(c)
        return out if b2 is None else out.add_(b2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2, hidden = ctx.saved_tensors
        c, needed = ctx.c, ctx.needs_input_grad
        if torch.is_grad_enabled():  # second derivatives
            return _swish_mlp_gradients(x, w1, b1, w2, c, gradient, needed)
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


def _swish_mlp_gradients(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, c: float, gradient: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of `_SwishMLP`, which can be differentiated again."""
    hidden = F.linear(x, w1, b1) * c
    share = torch.sigmoid(hidden)
    of_linear = gradient @ w2 * (share * (1 + hidden * (1 - share)))  # the c of the chain and the / c cancel
    rows = of_linear.flatten(0, -2)
    return (
        of_linear @ w1,
        rows.T @ x.flatten(0, -2),
        rows.sum(0) if needed[2] else None,
        gradient.flatten(0, -2).T @ (hidden * share / c).flatten(0, -2),
        gradient.flatten(0, -2).sum(0) if needed[4] else None,
        None,
    )
