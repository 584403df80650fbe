"""May a short cut be taken? One question, asked by every short cut of this backend.

The short cuts are the wrappers' compiled calls, and a tower's last layer computed for the pooled token alone. Both are
for CLIP's own modules as they are here: whoever intercepts or captures calls, replaces a method or a class, or brings
modules of their own, gets the plain calls that transformers v4.37 makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

from flax import linen as nn
from flax.linen import module as linen

_KNOWN: list[tuple[Mapping[str, Any], type, dict[str, Any]]] = []  # namespace, class, its methods


def remember(namespace: Mapping[str, Any]) -> None:
    """Keep the Linen classes that a module of this package defines, with their methods, as they are now."""
    for cls in list(namespace.values()):
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == namespace["__name__"]:
            _KNOWN.append((namespace, cls, _methods(cls)))


def _methods(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if isinstance(value, FunctionType)}


_KNOWN += [(vars(nn), cls, _methods(cls)) for cls in (nn.Dense, nn.Embed)]


def is_own(module: nn.Module) -> bool:
    """Whether `module` is of one of this package's classes, and not of a subclass."""
    return any(type(module) is cls for _, cls, _ in _KNOWN)


def allowed(module: nn.Module) -> bool:
    """Whether `module` is one of CLIP's own, nothing of them was replaced, and nobody looks at their calls."""
    return is_own(module) and not _watched() and all(_unchanged(*known) for known in _KNOWN)


def _unchanged(namespace: Mapping[str, Any], cls: type, methods: dict[str, Any]) -> bool:
    now = vars(cls)
    return namespace.get(cls.__name__) is cls and all(now.get(name) is method for name, method in methods.items())


def _watched() -> bool:
    """Interceptors or `capture_intermediates`. Flax has no public question; where its answer is not found: yes."""
    interceptors = getattr(linen, "_global_interceptor_stack", True)
    captures = getattr(getattr(linen, "_context", None), "capture_stack", [True])
    return bool(interceptors) or any(captures)
