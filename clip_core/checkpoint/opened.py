"""What opening a checkpoint gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .locate import Found
from .tensor import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """What `load` found. Nothing has been read but headers; `tensors[name].numpy()` reads one.

    Attributes:
        tensors: canonical name -> lazy tensor; names that no CLIP has come along under their own name.
        config: the config.json of the checkpoint, or one made from the weights' shapes, in Hugging Face's form.
        dialect: 'hf', 'hf-flat', 'openai', 'open_clip-custom', 'tf', 'flax' or 'kerashub'.
        files: the weight files.
        ignored: entries of the file that are knowingly not used (`position_ids`, ...).
        metadata: the file's own, e.g. {"format": "pt"}.
        notes: what was assumed.
        container: 'safetensors', 'torch', 'h5', 'msgpack' or 'orbax'.
        prefix: under which the tensors were in the file.
        folder: where the processor files are; None for a single file.
        found: the files, for the processor's sake.
        heads: tower -> number of heads, where the layout states it.
        entries: every entry of the file, under the file's own names.
        config_path: the file that the config is from; None: it was given, or made.
    """

    tensors: Mapping[str, Tensor]
    config: dict[str, Any] | None
    dialect: str
    files: tuple[Path, ...]
    ignored: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    container: str = ""
    prefix: str = ""
    folder: Path | None = None
    found: Found | None = None
    heads: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[str, Tensor] = field(default_factory=dict)
    config_path: Path | None = None
