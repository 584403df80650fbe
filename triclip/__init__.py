"""The tools: `Clip`, and embedding, search, serving, training, evaluation and conformance over any backend.

Names are imported on first use, so that `import triclip` is cheap and loads no framework. Tools are modules:
`from triclip.embed import embed`, `from triclip.train import train`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clip_core import __version__

# public name -> the module that defines it
_HOME = {
    "Clip": "triclip.pipeline",
    "ImageEmbeddings": "triclip.pipeline",
    "Index": "triclip.search",
    "convert": "clip_core.checkpoint",
    "inspect": "clip_core.checkpoint",
    "load_encoders": "triclip.encoders",
    "open_index": "triclip.search",
}
_MODULES = ("conform", "data", "embed", "explain", "metrics", "search", "serve", "train", "upkeep", "viz")
__all__ = ["__version__", *sorted(_HOME), *_MODULES]

if TYPE_CHECKING:
    from clip_core.checkpoint import convert, inspect

    from . import conform, data, embed, explain, metrics, search, serve, train, upkeep, viz
    from .encoders import load_encoders
    from .pipeline import Clip, ImageEmbeddings
    from .search import Index, open_index


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOME[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
