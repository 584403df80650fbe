"""Writing files of an index: replaced whole, with errors that name them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clip_core.files import replace_file


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """`replace_file`, with errors that name the file, which the error of a full disk does not."""
    with naming(path), replace_file(path) as draft:
        yield draft


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """A small JSON file, replaced whole."""
    with replaced(path) as draft:
        draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8", newline="\n")


def save_array(path: Path, array: np.ndarray) -> None:
    """As `np.save`, but raises OSError for a disk that is full when the file is closed."""
    with open(path, "wb") as file:
        np.lib.format.write_array(_Plain(file), array, allow_pickle=False)
        _onto_disk(file)


def save_rows(path: Path, blocks: Iterator[np.ndarray], dtype: str, shape: tuple[int, int]) -> None:
    """A .npy file [N, P] from blocks of its rows; numbers too large for the dtype become infinite."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        for block in blocks:
            with np.errstate(over="ignore"):
                file.write(block.astype(dtype).tobytes())
        _onto_disk(file)


def _onto_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Plain:
    """Wraps a file so that NumPy writes through Python, which reports errors."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write
