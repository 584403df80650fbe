"""The condition for every short cut of this backend.

Short cuts are the wrappers' compiled calls, and a tower's last layer computed only for the pooled token. They are for
this package's unchanged modules: with interceptors, captured intermediates, replaced methods or classes, or a user's
own modules, the plain calls of transformers v4.37 are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

from flax import linen as nn
from flax.linen import module as linen

_KNOWN: list[tuple[Mapping[str, Any], type, dict[str, Any]]] = []  # namespace, class, its methods


def remember(namespace: Mapping[str, Any]) -> None:
    """Record the Linen classes that a module of this package defines, with their current methods."""
    for cls in list(namespace.values()):
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == namespace["__name__"]:
            _KNOWN.append((namespace, cls, _methods(cls)))


def _methods(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if isinstance(value, FunctionType)}


_KNOWN += [(vars(nn), cls, _methods(cls)) for cls in (nn.Dense, nn.Embed)]


def is_own(module: nn.Module) -> bool:
    """Whether `module` is an instance of one of this package's classes, not of a subclass."""
    return any(type(module) is cls for _, cls, _ in _KNOWN)


def allowed(module: nn.Module) -> bool:
    """Whether `module` is one of this package's, none of whose methods was replaced, and calls are not observed."""
    return is_own(module) and not _watched() and all(_unchanged(*known) for known in _KNOWN)


def _unchanged(namespace: Mapping[str, Any], cls: type, methods: dict[str, Any]) -> bool:
    now = vars(cls)
    return namespace.get(cls.__name__) is cls and all(now.get(name) is method for name, method in methods.items())


def _watched() -> bool:
    """Whether there are interceptors or `capture_intermediates`. Flax has no public query; True if unknown."""
    interceptors = getattr(linen, "_global_interceptor_stack", True)
    captures = getattr(getattr(linen, "_context", None), "capture_stack", [True])
    return bool(interceptors) or any(captures)
