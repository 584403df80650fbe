"""One error with advice for all frameworks' out-of-memory errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .config import TrainConfig

_NAMES = ("OutOfMemoryError", "ResourceExhaustedError")  # names of torch's and TensorFlow's errors
_WORDS = ("RESOURCE_EXHAUSTED", "out of memory", "OOM when allocating", "can't allocate memory", "bad_alloc")


class OutOfMemoryError(ValueError):
    """A device or the host is out of memory. The message names settings that need less."""


@contextmanager
def explained(ways: Sequence[str]) -> Iterator[None]:
    """Turn out-of-memory errors of a framework or of NumPy into OutOfMemoryError; `ways`: what needs less."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not _is_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory: {' or '.join(ways)} ({_first_line(error)})") from error


def ways_in_training(config: TrainConfig) -> list[str]:
    """The settings of a run that reduce its memory."""
    ways = [f"raise accumulate (now {config.accumulate})"]
    if config.model.gradient_checkpointing == "none":
        ways.append("set model.gradient_checkpointing to full")
    if config.loss.mode == "dense":
        ways.append("set loss.mode to chunked")
    ways.append(f"lower data.batch_size (now {config.data.batch_size})")
    if config.evaluate.retrieval or config.evaluate.zero_shot:
        ways.append(f"evaluate.batch_size (now {config.evaluate.batch_size}), where it happened in an evaluation")
    return ways


def _is_of_memory(error: BaseException) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ in _NAMES
    return named or isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
