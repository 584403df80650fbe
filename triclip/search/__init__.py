"""Vector search: exact in mapped files, or approximate through FAISS (extra `search`).

A small index is one file (.npz, .npy, .parquet), as `triclip embed` writes it. A large one is a folder (see `folder`)
that is mapped when it is opened, and can be appended to.
"""

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {
    "KINDS": "approximate",
    "SUFFIXES": "single_file",
    "FolderIndex": "folder",
    "Index": "core",
    "Origin": "origin",
    "append_index": "folder",
    "build_folder": "folder",
    "check_output": "single_file",
    "combine": "query",
    "open_each": "opening",
    "open_index": "opening",
    "open_searchable": "opening",
    "parse_filter": "filters",
    "sampled_recall": "core",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .approximate import KINDS
    from .core import Index, sampled_recall
    from .filters import parse_filter
    from .folder import FolderIndex, append_index, build_folder
    from .opening import open_each, open_index, open_searchable
    from .origin import Origin
    from .query import combine
    from .single_file import SUFFIXES, check_output

__getattr__, __dir__ = lazy_names(__name__, _HOME)
