"""`save`: canonical tensors into a folder, in a layout that another library loads, all at once or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..files import replace_folder
from .tensor import FLOATS, Tensor, dtype_name

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
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
        folder: made if needed; files with other names in it stay.
        tensors: canonical name -> tensor (or NumPy array); read one by one.
        config_dict: the content of config.json, in Hugging Face's form.
        to: the target layout, a key of `targets.TARGETS`: "hf", "hf-flat", "hf-bin", "tf", "flax", "openai",
            "open_clip", "kerashub", "orbax". (Single-file checkpoints of Stable Diffusion: see `convert`.)
        dtype: convert floating-point tensors to it, rounding once; None keeps each tensor's own.
        shard_size: the largest weight file, in bytes or as "500MB", "2GiB"; None: one file.
        metadata: added to the weight file's own.
        variant: "fp16" for model.fp16.safetensors.
        files: more files of the same checkpoint, name -> content (tokenizer, preprocessor).
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
        stage.removed |= _superseded(Path(folder), to, variant, set(os.listdir(stage.path)))
        names = sorted(os.listdir(stage.path))
    return Saved(tuple(Path(folder) / name for name in names), tuple(notes))


def prepare(tensors: Mapping[str, Any], dtype: object = None) -> dict[str, Tensor]:
    """Tensors ready to be written: NumPy arrays wrapped, floating-point ones lazily in another dtype."""
    ready = {n: t if isinstance(t, Tensor) else Tensor.from_numpy(t) for n, t in tensors.items()}
    if dtype is None:
        return ready
    name = dtype_name(dtype)
    return {n: t.astype(name) if t.dtype in FLOATS else t for n, t in ready.items()}


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A JSON file as transformers writes it. Raises CheckpointError for what JSON can't hold."""
    try:
        return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config: it can't be written as JSON: {error}") from None


def shard_bytes(size: str | int | None) -> int | None:
    """'5GB' -> 5000000000, as huggingface_hub reads it. Raises ValueError."""
    if size is None or type(size) is int and size > 0:
        return size
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?B)\s*", str(size).upper())
    if match is None or (count := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise ValueError(f"shard_size: wanted bytes or a text such as '2GB' or '500MiB', found {size!r}")
    return count


def shards(tensors: Mapping[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    """Tensors in order, in groups of at most `limit` bytes; a larger tensor has a group of its own."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if limit is not None and groups[-1] and size + tensor.nbytes > limit:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    return groups


def shard_names(count: int, stem: str, ending: str, variant: str | None) -> tuple[list[str], str]:
    """(the names of the weight files, the name of their index) as transformers has them."""
    full = f"{stem}.{variant}" if variant else stem
    index = f"{stem}.{ending}.index.{variant}.json" if variant else f"{stem}.{ending}.index.json"
    if count == 1:
        return [f"{full}.{ending}"], index
    return [f"{full}-{number:05}-of-{count:05}.{ending}" for number in range(1, count + 1)], index


def _superseded(folder: Path, to: str, variant: str | None, written: set[str]) -> set[str]:
    """Old weight files that would be read in place of the new ones, or that belonged to the old ones."""
    if not folder.is_dir():
        return set()
    mark = re.escape(f".{variant}") if variant else ""

    def family(stem: str, ending: str) -> str:
        return rf"{stem}{mark}(-\d{{5}}-of-\d{{5}})?\.{ending}|{stem}\.{ending}\.index{mark}\.json"

    safe = family("model", "safetensors")
    patterns = {"hf": safe, "hf-flat": safe, "hf-bin": f"{safe}|{family('pytorch_model', 'bin')}"}
    patterns |= {"tf": family("tf_model", "h5"), "flax": family("flax_model", "msgpack")}
    patterns["kerashub"] = r"model\.weights\.json|model_\d{5}\.weights\.h5"
    pattern = patterns.get(to)
    if pattern is None:
        return set()
    return {name for name in os.listdir(folder) if re.fullmatch(pattern, name)} - written
