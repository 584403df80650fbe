"""The activations in configs, as modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shortcuts import known, may_skip


@known
class QuickGELUActivation(nn.Module):
    """OpenAI's sigmoid approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@known
class GELUActivation(nn.Module):
    """GELU: exact, or (`gelu_new`) by its tanh approximation."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)


known(nn.ReLU)
known(nn.SELU)
known(nn.SiLU)

# name in configs -> the module's class and arguments
_CLASSES: dict[str, tuple[Any, ...]] = {
    "quick_gelu": (QuickGELUActivation,),
    "gelu": (GELUActivation,),
    "gelu_new": (GELUActivation, "tanh"),
    "gelu_pytorch_tanh": (GELUActivation, "tanh"),
    "relu": (nn.ReLU,),
    "selu": (nn.SELU,),
    "silu": (nn.SiLU,),
    "swish": (nn.SiLU,),
}
ACT2FN = {name: cls(*args) for name, (cls, *args) in _CLASSES.items()}


def activation(act: Any) -> Any:
    """A new module for a config's `hidden_act`: a name, or a callable, which is returned unchanged."""
    if callable(act):
        return act
    cls, *args = _CLASSES[act]
    return cls(*args)


def name_of(act: Any) -> str | None:
    """The config name of an unchanged activation module; None for other modules."""
    if not isinstance(act, nn.Module) or not may_skip(act):
        return None
    if isinstance(act, GELUActivation):
        return "gelu" if act.approximate == "none" else "gelu_new"
    return next((name for name, (cls, *_) in _CLASSES.items() if type(act) is cls), None)
