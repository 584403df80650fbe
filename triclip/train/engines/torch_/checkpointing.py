"""Checkpoints of a training run, written in the background by torch.distributed.checkpoint, whole or not at all.

output/checkpoints/step-00001000/ has one safetensors file per process (no pickles) and state.json with the sizes of
those files and the data's position. A checkpoint is written under a hidden name beside its place, and renamed when
every process's file is on disk; any number of processes can read it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from clip_core.errors import CheckpointError, MissingDependencyError
from clip_core.files import sync
from clip_core.weights import Difference

from ...newest import DamagedCheckpointError, set_aside
from .parallel import Topology, index, world

STATE = "state.json"
# Errors of json, safetensors and DCP on damaged files.
_DAMAGE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError)
if not hasattr(dcp, "HuggingFaceStorageWriter"):
    raise MissingDependencyError(
        f"training with backend 'torch' needs a torch whose distributed checkpoints can be safetensors files, found "
        f"{torch.__version__}: pip install --upgrade torch"
    )
_NAME = re.compile(r"step-(\d{8,})")
# A warning for every checkpoint of a single process, in a thread that no narrower filter reaches.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class Found(NamedTuple):
    """A complete checkpoint: its folder and the contents of its state.json."""

    folder: Path
    step: int
    processes: int
    data: Mapping[str, Any]


class Writer(dcp.HuggingFaceStorageWriter):
    """Calls `commit` in the first process after all have written."""

    def __init__(self, stage: Path, commit: Callable[[], None]) -> None:
        super().__init__(str(stage), save_distributed=True)
        self._commit = commit

    def finish(self, metadata: Any, results: Any) -> None:
        self._commit()


class Checkpoints:
    """The checkpoints in a folder, of which the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int, topology: Topology) -> None:
        self.folder, self.keep, self.topology = folder, keep, topology
        self._pending: tuple[Future, Path] | None = None
        # One name for all processes, different from leftovers of earlier runs.
        self._token = f"{topology.most(secrets.randbits(32) if index() == 0 else 0):08x}"

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], data: Mapping[str, Any]) -> None:
        """Copy the tensors, and begin to write them. The previous save is finished first, and its errors are raised."""
        self.wait()
        target = self.folder / f"step-{step:08d}"
        stage = self.folder / f".{target.name}.{self._token}.partial"
        state = {"format": 1, "step": step, "processes": world(), "data": dict(data)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            pending = dcp.async_save(
                dict(tensors),
                storage_writer=Writer(stage, lambda: self._commit(stage, target, state)),
                process_group=self.topology.saving,
                no_dist=self.topology.saving is None,
            )
        except OSError as error:
            raise OSError(error.errno, f"the checkpoint could not be written: {error.strerror}", str(target)) from error
        self._pending = pending, target

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises OSError, naming the path, if it could not be written."""
        if self._pending is None:
            return
        (pending, target), self._pending = self._pending, None
        try:
            pending.result()
        except (CheckpointException, OSError) as error:
            causes = [cause for cause, _ in getattr(error, "failures", {0: (error, None)}).values()]
            cause = next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
            if index() == 0:
                self._sweep(own=True)
            number, why = getattr(cause, "errno", None), getattr(cause, "strerror", None) or str(cause)
            raise OSError(number, f"the checkpoint could not be written: {why}", str(target)) from error

    def _commit(self, stage: Path, target: Path, state: dict[str, Any]) -> None:
        files = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        with open(stage / STATE, "w", encoding="utf-8") as file:
            json.dump({**state, "files": files}, file)
            file.flush()
            os.fsync(file.fileno())
        sync(stage)
        for step, path in self._numbered():
            if step >= state["step"]:  # damaged ones that this run skipped
                set_aside(path)
        os.rename(stage, target)
        sync(self.folder)
        for _, old in sorted(self._numbered())[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        self._sweep(own=False)

    def _numbered(self) -> list[tuple[int, Path]]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return [(int(match[1]), path) for path in found if (match := _NAME.fullmatch(path.name)) and path.is_dir()]

    def _sweep(self, own: bool) -> None:
        """Remove leftovers of killed processes and of this one's failed saves."""
        for path in self.folder.glob(".step-*.partial"):
            if own or self._token not in path.name:
                shutil.rmtree(path, ignore_errors=True)

    # -- reading ------------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps of all checkpoints, whole or damaged."""
        self.wait()
        return [step for step, _ in self._numbered()]

    def open(self, step: int) -> Found:
        """The state of a checkpoint. Raises DamagedCheckpointError in all processes if one finds it damaged."""
        found, problem = None, None
        try:
            found = self._described(self.folder / f"step-{step:08d}")
        except DamagedCheckpointError as error:
            problem = error
        if self.topology.most(int(problem is not None)):  # before all read together
            raise problem or DamagedCheckpointError(f"{self.folder}: another process can't read the one of step {step}")
        assert found is not None
        return found

    def _described(self, folder: Path) -> Found:
        try:
            state = json.loads((folder / STATE).read_text("utf-8"))
            found = Found(folder, int(state["step"]), int(state["processes"]), state["data"])
            wrong = [name for name, size in state["files"].items() if (folder / name).stat().st_size != size]
            if wrong or folder.name != f"step-{found.step:08d}":
                raise ValueError(f"{wrong[0]} has another size" if wrong else f"it says step {found.step}")
            dcp.HuggingFaceStorageReader(str(folder)).read_metadata()
        except _DAMAGE as error:
            raise DamagedCheckpointError(f"{folder}: a damaged checkpoint: {error}") from error
        return found

    def load(self, found: Found, tensors: Mapping[str, torch.Tensor], optional: Mapping[str, torch.Tensor]) -> set[str]:
        """Read in place into `tensors`, and into those of `optional` that exist. Returns the names of the latter.

        Raises CheckpointError for a checkpoint with other tensors, naming the differences; DamagedCheckpointError for
        unreadable ones, possibly after overwriting some of `tensors`.
        """
        reader = dcp.HuggingFaceStorageReader(str(found.folder))
        saved = reader.read_metadata().state_dict_metadata
        _check(saved, tensors, found.folder)
        wanted = {**tensors, **{name: tensor for name, tensor in optional.items() if name in saved}}
        try:
            group = self.topology.saving
            dcp.load(wanted, storage_reader=reader, process_group=group, no_dist=group is None)
        except (CheckpointException, *_DAMAGE) as error:
            raise DamagedCheckpointError(f"{found.folder}: a damaged checkpoint: {error}") from error
        return set(wanted) - set(tensors)


def _check(saved: Mapping[str, TensorStorageMetadata], tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Compare names and shapes both ways; parameters first, because the rest follows from them."""
    for prefix in ("parameters/", ""):
        there = {name: tuple(entry.size) for name, entry in saved.items() if name.startswith(prefix)}
        here = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(prefix)}
        difference = Difference(
            [name for name in here if name not in there],
            [name for name in there if name not in here and not name.startswith("random/")],
            [(name, there[name], shape) for name, shape in here.items() if there.get(name, shape) != shape],
        )
        if any(difference):
            report = difference.report().replace("parameters/", "")
            raise CheckpointError(
                f"{folder}: this checkpoint is of another run (- missing, + unexpected; change `output`, or the "
                f"configuration back):\n{report}"
            )


def barrier(topology: Topology) -> None:
    if topology.control is not None:
        dist.barrier(group=topology.control)
