"""The conditions for short cuts, that is, for any computation other than layer by layer.

Short cuts are for models as this package builds them, because they would skip a user's layers, hooks and replaced
forwards. Some also use other operators than the plain layers; these also depend on whether operators are observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

# The original forward of each known class. A class with a replaced forward no longer counts as known.
_FORWARDS: dict[type, Callable] = {
    kind: kind.forward for kind in (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d, nn.ModuleList)
}

_IN_ADAPTERS: dict[type, Callable] = {
    kind: kind.forward for kind in (nn.Dropout, nn.Identity, nn.ModuleDict, nn.ParameterDict)
}


def known(cls: type) -> Any:
    """Decorator: unchanged instances of exactly this class may be skipped by short cuts."""
    _FORWARDS[cls] = cls.forward
    return cls


def may_skip(*modules: nn.Module, x: Tensor | None = None) -> bool:
    """Whether a short cut may replace calls of these modules. For the modules inside them see `below`.

    x: the input, for a short cut with other operators, or with ones hidden from PyTorch: it must be a plain tensor,
    without tracing, compiling, transforms, operator counters, or forward-mode differentiation.
    """
    if x is not None and (type(x) is not Tensor or watched(x)):
        return False
    return not any(map(_is_changed, modules))


def below(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all modules in it, for `may_skip`. (`Module.modules` takes five times as long.)"""
    waiting = [module]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(child for child in part._modules.values() if child is not None)


def may_pool(tower: nn.Module) -> bool:
    """Whether `pooled` may replace a tower's call: the modules whose calls it skips (the tower, its encoder, the last
    layer, the norm after it) are unchanged, except for peft's LoRA, which computes each row by itself."""
    if not may_skip(tower):
        return False
    encoder, norm = tower.encoder, getattr(tower, "final_layer_norm", None) or tower.post_layernorm
    if not may_skip(encoder, encoder.layers, norm):
        return False
    return all(not _is_changed(part) or _is_adapter(part) for layer in encoder.layers[-1:] for part in below(layer))


def watched(x: Tensor) -> bool:
    """Whether operators on x are observed: by tracing, compiling, functional transforms, forward-mode derivatives,
    dispatch modes (FLOP counters), or global module hooks."""
    return (
        isinstance(x, torch.fx.Proxy)
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or _has_any_global_hook()
    )


def _is_adapter(module: nn.Module) -> bool:
    """A LoRA layer around a linear one, or what such a layer holds; not where it draws at random, for that depends on
    how many rows there are."""
    kind = type(module)
    if kind in _IN_ADAPTERS:
        draws = module.training and getattr(module, "p", 0)
        return kind.forward is _IN_ADAPTERS[kind] and _is_plain(module) and not draws
    name = "peft.tuners.lora.layer"
    return (kind.__module__, kind.__name__, kind.forward.__module__) == (name, "Linear", name) and _is_plain(module)


def _is_changed(module: nn.Module) -> bool:
    kind = type(module)
    return kind not in _FORWARDS or kind.forward is not _FORWARDS[kind] or not _is_plain(module)


def _is_plain(module: nn.Module) -> bool:
    """Whether nothing was hung on this object."""
    own = module.__dict__
    return not (
        "forward" in own
        or own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or module._compiled_call_impl is not None
    )
