"""Loading the newest readable checkpoint, the same in all processes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from clip_core.errors import CheckpointError

logger = logging.getLogger("triclip")
Loaded = TypeVar("Loaded")
Gather = Callable[[np.ndarray], np.ndarray]  # `Engine.gather`


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that no run can read; the message names it."""


def load_newest(steps: Iterable[int], load: Callable[[int], Loaded], gather: Gather, is_first: bool) -> Loaded | None:
    """load(step) of the newest step that every process can load; None if there is no checkpoint.

    Skipped ones are named in the log. All processes use the first process's `steps`. Raises DamagedCheckpointError if
    all are damaged, because a new start would overwrite them. Other exceptions of `load` are passed on.
    """
    problem: DamagedCheckpointError | None = None
    passed_over = 0
    for step in _of_first(steps, gather, is_first):
        found, problem = None, None
        try:
            found = load(step)
        except DamagedCheckpointError as error:
            problem = error
        if not gather(np.array([[problem is not None]], np.int32)).any():
            return found
        passed_over += 1
        logger.warning("passed over a damaged checkpoint: %s", problem or f"another process can't read step {step}'s")
    if passed_over:
        raise DamagedCheckpointError(
            f"wanted a checkpoint to go on from, found {passed_over} that are damaged, the oldest: "
            f"{problem or 'in another process'}"
        )
    return None


def _of_first(steps: Iterable[int], gather: Gather, is_first: bool) -> Iterator[int]:
    """The first process's steps, the newest first."""
    own = [-1, *sorted(steps, reverse=True)] if is_first else []  # no process gathers nothing
    return iter(gather(np.array(own, np.int32).reshape(-1, 1))[1:, 0].tolist())


def set_aside(folder: Path) -> None:
    """Rename a skipped checkpoint, "20" to "20.damaged", so that no later run uses it."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
