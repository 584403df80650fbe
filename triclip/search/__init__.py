"""Search among vectors: exact from mapped files, or approximate through FAISS (extra `search`).

A small index is one file (.npz, .npy, .parquet), as `triclip embed` writes it. A large one is a folder (see `folder`)
that opens without being read and can be appended to.
"""

from .approximate import KINDS
from .core import Index, sampled_recall
from .filters import parse_filter
from .folder import FolderIndex, append_index, build_folder
from .opening import open_each, open_index
from .origin import Origin
from .query import combine
from .single_file import SUFFIXES, check_output

__all__ = [
    "KINDS",
    "SUFFIXES",
    "FolderIndex",
    "Index",
    "Origin",
    "append_index",
    "build_folder",
    "check_output",
    "combine",
    "open_each",
    "open_index",
    "parse_filter",
    "sampled_recall",
]
