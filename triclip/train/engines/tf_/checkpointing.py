"""Checkpoints of a training run: folders output/checkpoints/<step> of state.safetensors and state.json.

They have whole arrays in canonical names and layouts, independent of devices: `parameters.<name>`,
`first.<name>` and `second.<name>` (AdamW's moments), `averages.<name>`. A folder appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clip_core import files
from clip_core.checkpoint import Tensor, safetensors_file
from clip_core.errors import CheckpointError
from clip_core.weights import Difference

from ...newest import DamagedCheckpointError, set_aside

_TENSORS, _STATE = "state.safetensors", "state.json"


class Checkpoints:
    """The checkpoints of one run, written in the background, one at a time.

    Args:
        folder: made at the first save.
        keep: number to keep.
        writes: False in all processes but the first.
    """

    def __init__(self, folder: Path, keep: int, writes: bool) -> None:
        self.folder, self.keep, self.writes = folder, keep, writes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._swept = False

    def save(self, step: int, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Begin to write; the arrays must not change. Waits for the previous save, and raises its error."""
        self.wait()
        if self.writes:
            self._pending = self._thread.submit(self._write, step, arrays, json.dumps(state))

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises OSError, naming the path, if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        self._thread.shutdown()

    def _write(self, step: int, arrays: Mapping[str, np.ndarray], state: str) -> None:
        target = self.folder / str(step)
        try:
            self._sweep()
            for newer in self.steps():
                if newer >= step:  # damaged ones that this run skipped
                    set_aside(self.folder / str(newer))
            with files.replace_folder(target) as stage:
                tensors = {name: Tensor.from_numpy(array) for name, array in arrays.items()}
                safetensors_file.write(stage.path / _TENSORS, tensors)
                (stage.path / _STATE).write_text(state, "utf-8")
            for old in self.steps()[: -self.keep]:
                self._remove(self.folder / str(old))
        except OSError as error:
            raise OSError(error.errno, f"checkpoint {step} was not written: {error.strerror}", str(target)) from error

    def _remove(self, path: Path) -> None:
        hidden = path.with_name(f".{path.name}.removed")  # a half-removed folder must not look like a checkpoint
        path.rename(hidden)
        shutil.rmtree(hidden)

    def _sweep(self) -> None:
        """Remove leftovers of killed processes. Only one process writes, so no hidden folder is in use."""
        if not self._swept:
            for path in self.folder.glob(".*"):
                shutil.rmtree(path, ignore_errors=True)
            self._swept = True

    def steps(self) -> list[int]:
        """The steps of all checkpoints, whole or damaged, ascending."""
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdecimal())

    def read(self, step: int, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(lazy tensors, state). Raises CheckpointError for other names and shapes, DamagedCheckpointError for missing
        or unreadable files."""
        path = self.folder / str(step)
        try:
            state = json.loads((path / _STATE).read_text("utf-8"))
            tensors, _ = safetensors_file.read(path / _TENSORS)
            if not isinstance(state, dict) or state.get("step") != step or not isinstance(state.get("data"), dict):
                raise ValueError(f"wanted step {step} and the data's position in {_STATE}, found {str(state)[:200]}")
        except (ValueError, RecursionError, OSError) as error:
            raise DamagedCheckpointError(f"{path}: a damaged checkpoint: {error}") from error
        missing = [name for name in shapes if name not in tensors]
        unexpected = [name for name in tensors if name not in shapes]
        mismatched = [
            (name, tuple(tensors[name].shape), shape)
            for name, shape in shapes.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
        difference = Difference(missing, unexpected, mismatched)
        if any(difference):
            raise CheckpointError(
                f"{path}: a checkpoint of another model or another configuration than this run's "
                f"(- missing, + unexpected):\n{difference.report()}"
            )
        return tensors, state
