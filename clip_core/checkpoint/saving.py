"""`save`: canonical tensors into a folder, in a layout that another library loads, all at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..files import replace_folder
from .shards import shard_bytes
from .superseded import superseded
from .tensor import FLOATS, Tensor, dtype_name

Advance = Callable[[int], None]


class Saved(NamedTuple):
    """What `save` wrote. files: the paths; notes: what could not be kept as it was."""

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def save(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    config_dict: Mapping[str, Any],
    *,
    to: str = "hf",
    dtype: object = None,
    shard_size: str | int | None = "5GB",
    metadata: Mapping[str, str] | None = None,
    variant: str | None = None,
    files: Mapping[str, bytes] | None = None,
    advance: Advance | None = None,
    own: bool = False,
) -> Saved:
    """Write a checkpoint. A process killed at any moment leaves the folder as it was, or wholly new.

    Args:
        folder: made if needed. Afterwards it holds one model: what is replaced is said in `superseded.py`.
        tensors: canonical name -> tensor (or NumPy array); read one by one.
        config_dict: the content of config.json, in Hugging Face's form.
        to: the target layout, a key of `targets.TARGETS`: "hf", "hf-flat", "hf-bin", "tf", "flax", "openai",
            "open_clip", "kerashub", "orbax", "gguf". (Single-file checkpoints of Stable Diffusion: see `convert`.)
        dtype: convert floating-point tensors to it, rounding once; None keeps each tensor's own.
        shard_size: the largest weight file, in bytes or as "500MB", "2GiB"; None: one file.
        metadata: added to the weight file's own.
        variant: "fp16" for model.fp16.safetensors.
        files: the other files of the model, name -> content (tokenizer, preprocessor), in place of the folder's;
            None leaves those as they are.
        advance: called with the number of bytes just written.
        own: it is somebody's own class: "flax" keeps names that no CLIP has as they are ("hf" always does).

    Raises: CheckpointError where the layout can't hold the model; ValueError for an unknown `to`, `dtype` or
        `shard_size`; MissingDependencyError.
    """
    from .targets import TARGETS, Job

    if to not in TARGETS:
        raise ValueError(f"to: unknown layout {to!r}; wanted one of {', '.join(TARGETS)}")
    limit = shard_bytes(shard_size)
    notes: list[str] = []
    with replace_folder(folder) as stage:
        ready = prepare(tensors, dtype)
        job = Job(
            stage.path, ready, dict(config_dict), limit, dict(metadata or {}), variant, advance, notes, files or {}, own
        )
        configs = TARGETS[to](job)
        for name, content in {**(files or {}), **configs}.items():
            (stage.path / name).write_bytes(content)
        written = set(os.listdir(stage.path))
        stage.removed |= superseded(Path(folder), to, variant, written, ready, whole=files is not None)
        names = sorted(os.listdir(stage.path))
    return Saved(tuple(Path(folder) / name for name in names), tuple(notes))


def prepare(tensors: Mapping[str, Any], dtype: object = None) -> dict[str, Tensor]:
    """Tensors ready to be written: NumPy arrays wrapped, floating-point ones lazily in another dtype."""
    ready = {n: t if isinstance(t, Tensor) else Tensor.from_numpy(t) for n, t in tensors.items()}
    if dtype is None:
        return ready
    name = dtype_name(dtype)
    return {n: t.astype(name) if t.dtype in FLOATS else t for n, t in ready.items()}
