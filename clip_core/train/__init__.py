"""Training and evaluation, over any backend. Nothing here imports a framework; names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# public name -> the module that defines it
_HOME = {
    "DivergedError": "loop",
    "TrainConfig": "config",
    "evaluate_clip": "evaluate",
    "export": "loop",
    "load_config": "load",
    "train": "loop",
    "validate": "load",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .config import TrainConfig
    from .evaluate import evaluate_clip
    from .load import load_config, validate
    from .loop import DivergedError, export, train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clip_core.train' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
