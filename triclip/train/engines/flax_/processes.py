"""The processes of a run: joining the group, stopping together, exchanging rows."""

from __future__ import annotations

import functools
import logging
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from clip_core.errors import ConfigError

from ...engine import Process
from ...stop import StopSignals

# Seconds that JAX waits for the other processes when it leaves the group at the end. After a failure the others notice
# no earlier, for which the default of 300 is long.
LEAVING = 60


@functools.cache  # a later run in this process uses the same group
def join() -> Process:
    """Join the group of processes if the environment describes one; nothing may have been computed before.

    It does if JAX itself detects a cluster (TPU pods, Slurm, Open MPI, Kubernetes), or if JAX_COORDINATOR_ADDRESS
    (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID are set. Otherwise there is a single process.

    Raises ConfigError if a variable is missing or not a number.
    """
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        count, index = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
        try:
            jax.distributed.initialize(num_processes=count, process_id=index, shutdown_timeout_seconds=LEAVING)
        except ValueError as error:
            raise ConfigError(f"JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID: {error}") from error
    elif not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(shutdown_timeout_seconds=LEAVING)
        except ValueError:
            pass  # "coordinator_address should be defined": no cluster
        except RuntimeError as error:  # JAX has computed already, e.g. in a notebook
            logging.getLogger("triclip").warning("training in this process alone: %s", error)
    return Process(jax.process_index(), jax.process_count())


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name}: wanted a number, found {text!r}") from error


class StopRequest:
    """Whether a signal to any process asks the run to stop: the same answer everywhere at the same step."""

    def __init__(self) -> None:
        # In a group, jax.distributed handles SIGTERM itself and agrees on a call that no process has passed yet.
        self._alone = jax.process_count() == 1
        self._signals = StopSignals(forward=not self._alone)
        self._asked, self._calls = False, 0

    def seen(self) -> bool:
        """To be called equally often in every process: they agree on one of these calls, not on a moment."""
        if not self._alone and not self._asked:
            self._calls += 1
            self._asked = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._signals.asked if self._alone else self._asked

    def close(self) -> None:
        self._signals.close()


def gather_counts(count: int) -> list[int]:
    """One number of every process."""
    if jax.process_count() == 1:
        return [count]
    return [int(n) for n in np.ravel(multihost_utils.process_allgather(np.int32(count)))]


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of all processes, in their order; row counts may differ."""
    counts = gather_counts(len(rows))
    if len(counts) == 1:
        return rows
    padded = np.zeros((max(counts), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    # As bytes, because JAX would truncate 64-bit numbers to 32.
    raw = padded.reshape(padded.shape[0], -1).view(np.uint8)
    everywhere = np.asarray(multihost_utils.process_allgather(raw)).reshape(len(counts), *raw.shape)
    parts = [
        everywhere[i, :count].copy().view(rows.dtype).reshape(count, *rows.shape[1:]) for i, count in enumerate(counts)
    ]
    return np.concatenate(parts)
