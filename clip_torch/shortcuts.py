"""May a short cut be taken? Everything that computes another way than layer by layer asks here.

A short cut is for models as this package builds them: where somebody has put a layer, a hook or a forward of his own,
it would pass them by. Some also compute by other operators than the plain layers; those ask about who looks on as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

# What a module of each kind computes with. A class whose forward was exchanged since is no longer of the kind.
_FORWARDS: dict[type, Callable] = {
    kind: kind.forward for kind in (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d, nn.ModuleList)
}

_IN_ADAPTERS: dict[type, Callable] = {
    kind: kind.forward for kind in (nn.Dropout, nn.Identity, nn.ModuleDict, nn.ParameterDict)
}


def known(cls: type) -> Any:
    """Decorator: instances of exactly this class compute what it says, as long as nobody changes them."""
    _FORWARDS[cls] = cls.forward
    return cls


def may_skip(*modules: nn.Module, x: Tensor | None = None) -> bool:
    """Whether a short cut may take the place of calling these modules; what is below them is asked by `below`.

    x: the input, for a short cut of other operators or of none that PyTorch can see: it is a plain tensor, and nobody
    traces, compiles, transforms, counts, or differentiates forward.
    """
    if x is not None and (type(x) is not Tensor or watched(x)):
        return False
    return not any(map(_is_changed, modules))


def below(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all in it, for `may_skip`. (`Module.modules` takes five times as long.)"""
    waiting = [module]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(child for child in part._modules.values() if child is not None)


def may_pool(tower: nn.Module) -> bool:
    """Whether `pooled` may take the place of calling a tower: what it leaves out (the tower's own call, its encoder's,
    the last layer, the norm behind it) is as this package made it, but for peft's LoRA, which computes each row by
    itself."""
    if not may_skip(tower):
        return False
    encoder, norm = tower.encoder, getattr(tower, "final_layer_norm", None) or tower.post_layernorm
    if not may_skip(encoder, encoder.layers, norm):
        return False
    return all(not _is_changed(part) or _is_adapter(part) for layer in encoder.layers[-1:] for part in below(layer))


def watched(x: Tensor) -> bool:
    """Whether anything but the numbers is wanted of a computation with x: tracing, compiling, functional transforms,
    forward-mode derivatives, modes that see every operator (FLOP counters), hooks on all modules."""
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
