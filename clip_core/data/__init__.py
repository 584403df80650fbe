"""Image-text pairs for training and evaluation: sources of many formats, one deterministic pipeline over them.

    source = open_source(["shards/{000..127}.tar"])           # len(source), source[i] -> Sample
    pipeline = open_pipeline(config, processor, process)      # next(pipeline) -> the batch an Engine takes

No framework is imported here, in worker processes neither. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# public name -> the module that defines it
_HOME = {
    "Evaluation": "evaluation",
    "EvaluationBatch": "evaluation",
    "Pipeline": "pipeline",
    "Sample": "sources",
    "Source": "sources",
    "open_evaluation": "evaluation",
    "open_pipeline": "pipeline",
    "open_source": "sources",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .evaluation import Evaluation, EvaluationBatch, open_evaluation
    from .pipeline import Pipeline, open_pipeline
    from .sources import Sample, Source, open_source


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clip_core.data' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
