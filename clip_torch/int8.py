"""Models whose dense layers hold int8 weights, for CPUs: `quantize(model)`.

Products are oneDNN's, of unsigned 8-bit inputs and signed 8-bit weights; everything between them stays float32. Weights
are rounded once, a scale for each row; a layer's input is rounded as it comes, over the range of its values. oneDNN
computes the activation of an MLP while it writes the first product.

The first layer of pixels, the projections into the shared space and the embeddings keep float32: they are a few per
cent of the work. There are no derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clip_core.errors import InputError

from .activations import name_of
from .layers import FUSED
from .modeling import CLIPEncoderLayer
from .shortcuts import known

# Weights are whole numbers up to this. A processor without instructions for 8-bit products adds two of them in 16 bits:
# up to 64 two always fit, and at 90 it takes two inputs in the upper third of their range against two weights near the
# largest of their row. At 127, cosines of the embedded model to float32 fell to 0.90 there (0.994 at 90).
LARGEST = 90
STEPS = 254  # between the least and the largest input; the one left over is for rounding zero's place


@known
class Int8Linear(nn.Module):
    """What a layer computes, [..., in] -> [..., out], with an activation if one is named.

    activation: a name in `layers.FUSED`, or None. factor: what inputs were multiplied with before they come here.
    """

    def __init__(self, layer: nn.Linear, activation: str | None = None, factor: float = 1.0) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        name, algorithm, c = FUSED[activation] if activation else ("none", "", 1.0)
        self.activation = (name, algorithm)
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(1) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        self.packed = _packed(torch.round(weight / scale[:, None]).to(torch.int8))
        self.scale = scale * (c / factor)  # [out]; c: oneDNN's activation is g where ours is g(c * x) / c
        self.bias = None if layer.bias is None else layer.bias.detach().float() * c
        self.zeros = torch.zeros(self.out_features, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError("int8 layers have no derivatives: load the model in float32 for gradients")
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        values, scale, zero = rounded(x)
        return torch.ops.onednn.qlinear_pointwise(
            values, scale, zero, self.packed, self.scale, self.zeros, self.bias, 1.0, 0, torch.float32,
            self.activation[0], [], self.activation[1],
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    # What is packed belongs to this processor, and can't be copied or written.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": self.packed.to_dense().T.contiguous()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "packed": _packed(state["packed"])})

    def get_extra_state(self) -> dict[str, Any]:
        return {"weight": self.packed.to_dense().T.contiguous(), "scale": self.scale, "bias": self.bias}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.packed, self.scale, self.bias = _packed(state["weight"]), state["scale"], state["bias"]


@known
class Int8MLP(nn.Module):
    """fc2(activation(fc1(x))) of a CLIPMLP."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.config = mlp.config
        name = name_of(mlp.activation_fn)
        fused = name if name in FUSED else None
        self.activation_fn = nn.Identity() if fused else mlp.activation_fn
        self.fc1 = Int8Linear(mlp.fc1, fused)
        self.fc2 = Int8Linear(mlp.fc2, factor=FUSED[fused][2] if fused else 1.0)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


def rounded(x: Tensor) -> tuple[Tensor, float, int]:
    """(uint8 values, scale, zero) with x ~ (values - zero) * scale: the range of x and 0 in equal steps."""
    low, high = (bound.item() for bound in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / STEPS, torch.finfo(torch.float32).tiny)
    zero = round(-low / scale)
    # Cutting off after a half is added rounds; nothing lies outside of 0 to 255, so that nothing has to be clamped.
    values = torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale).to(torch.uint8)
    return values.contiguous(), scale, zero


def _packed(weight: Tensor) -> Tensor:
    """int8 [out, in] as oneDNN wants it on this processor."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def quantize(model: Any) -> Any:
    """Put int8 layers into a model's towers, in place, and freeze it; returns the model.

    Raises InputError off the CPU, where PyTorch has no such kernels, and for layers that are not as CLIP has them.
    """
    if model.device.type != "cpu":
        raise InputError(f"dtype: int8 is computed on CPUs, found a model on {model.device}")
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_prepack")):
        raise InputError("dtype: int8 needs a PyTorch with oneDNN, which this build is without: use float32")
    model.eval().requires_grad_(False)
    for block in [part for part in model.modules() if isinstance(part, CLIPEncoderLayer)]:
        _quantize_block(block)
    return model


def _quantize_block(block: nn.Module) -> None:
    attention = block.self_attn
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer = getattr(attention, name)
        if type(layer) is not nn.Linear:
            raise InputError(f"dtype: int8 takes the place of plain layers, found {name}: {type(layer).__name__}")
        setattr(attention, name, Int8Linear(layer))
    block.mlp = Int8MLP(block.mlp)
