"""Training and evaluation, over any backend. Nothing here imports a framework; names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {
    "DivergedError": "loop",
    "OutOfMemoryError": "memory",
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
    from .memory import OutOfMemoryError

__getattr__, __dir__ = lazy_names(__name__, _HOME)
