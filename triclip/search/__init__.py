"""Search among vectors: exact from mapped files, or approximate through FAISS or hnswlib (extra `search`).

A small index is one file (.npz, .npy, .parquet), as `triclip embed` writes it. A large one is a folder (see `folder`)
that opens without being read and can be appended to.
"""

from .approximate import KINDS
from .core import Index, sampled_recall
from .filters import parse_filter
from .folder import FolderIndex, append_index, build_folder
from .query import combine
from .single_file import SUFFIXES, check_output

__all__ = [
    "KINDS",
    "SUFFIXES",
    "FolderIndex",
    "Index",
    "append_index",
    "build_folder",
    "check_output",
    "combine",
    "parse_filter",
    "sampled_recall",
]
