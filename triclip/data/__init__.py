"""Image-text pairs for training and evaluation: sources of many formats, one deterministic pipeline over them.

    source = open_source(["shards/{000..127}.tar"])           # len(source), source[i] -> Sample
    pipeline = open_pipeline(config, processor, process)      # next(pipeline) -> a batch for an Engine

No framework is imported here or in worker processes. Names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {
    "Evaluation": "evaluation",
    "EvaluationBatch": "evaluation",
    "Pipeline": "pipeline",
    "Sample": "source",
    "Source": "source",
    "open_evaluation": "evaluation",
    "open_pipeline": "pipeline",
    "open_source": "sources",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .evaluation import Evaluation, EvaluationBatch, open_evaluation
    from .pipeline import Pipeline, open_pipeline
    from .source import Sample, Source
    from .sources import open_source

__getattr__, __dir__ = lazy_names(__name__, _HOME)
