"""Checkpoints of a training run by Orbax: asynchronous, atomic, restorable on any number of devices."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from clip_core.errors import CheckpointError
from clip_core.weights import compare

from ...newest import DamagedCheckpointError, load_newest, set_aside
from . import processes

# Errors of Orbax and TensorStore on damaged files.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


class Checkpoints:
    """Numbered by step under a folder. A save appears whole, by a rename, or not at all."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._swept = folder, False
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        with self._naming():
            folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)

    def save(self, step: int, state: Any, data: Mapping[str, Any]) -> None:
        """Copy the state off the devices and return; writing continues in the background."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(dict(data)))
        with self._naming():
            self._sweep()
            self._set_aside(step)
            self._manager.save(step, args=args, force=True)

    def _sweep(self) -> None:
        """Remove leftovers of interrupted saves. Not when the folder is opened, as Orbax does: an export may read it
        while a run is saving, and only that run writes here."""
        if not self._swept and jax.process_index() == 0:
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left)
        self._swept = True

    def _set_aside(self, step: int) -> None:
        """Rename damaged checkpoints that this run skipped, because their numbers are used again."""
        newer = [number for number in self._manager.all_steps() if number >= step]
        if not newer:
            return
        if jax.process_index() == 0:
            for number in newer:
                set_aside(self.folder / str(number))
        processes.gather_counts(0)  # the other processes wait
        self._manager.reload()

    def wait(self) -> None:
        with self._naming():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def restore(self, like: Any) -> tuple[int, Any, Mapping[str, Any]] | None:
        """(step, state, data) of the newest readable checkpoint, laid out as `like`: jax.ShapeDtypeStructs with
        shardings."""
        steps = self._manager.all_steps()
        return load_newest(steps, lambda step: self._load(step, like), processes.gather_rows, jax.process_index() == 0)

    def _load(self, step: int, like: Any) -> tuple[int, Any, Mapping[str, Any]]:
        path = self.folder / str(step)
        try:
            self._check(path, step, like)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=args)
            return step, restored["state"], dict(restored["data"])
        except _DAMAGE as error:
            if isinstance(error, CheckpointError):
                raise
            raise DamagedCheckpointError(f"{path}: a damaged checkpoint: {error}") from error

    def _check(self, path: Path, step: int, like: Any) -> None:
        """Raise CheckpointError naming the checkpoint's differences."""
        found, wanted = _named(self._manager.item_metadata(step)["state"]), _named(like)
        if not found:
            raise DamagedCheckpointError(f"{path}: a damaged checkpoint: it holds no description of its arrays")
        for part in ("params", ""):  # another model's moments and average differ too, which adds nothing
            difference = compare(
                {name: leaf for name, leaf in found.items() if name.startswith(part)},
                {name: leaf for name, leaf in wanted.items() if name.startswith(part)},
            )
            if any(difference):
                raise CheckpointError(
                    f"{path}: not a checkpoint of this run's model and optimiser (- missing, + unexpected):\n"
                    f"{difference.report()}"
                )

    def close(self) -> None:
        with self._naming():
            self._manager.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Failed writes as OSErrors that name the folder; TensorStore raises ValueError or RuntimeError."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise OSError(f"{self.folder}: the checkpoint could not be written: {error}") from error


def _named(tree: Any) -> dict[str, Any]:
    """Path -> leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_key(part) for part in path): leaf for path, leaf in flat}


def _key(part: Any) -> str:
    return str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part))))
