"""Orbax checkpoints (MaxDiffusion's): read with tensorstore, written with orbax.

`<folder>/<step>/<item>/` holds `_METADATA`, which names the arrays, and a key-value store of zarr arrays. Reading
needs tensorstore alone; writing needs orbax-checkpoint (and so jax).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, MissingDependencyError
from ..reading import read_json_object
from .tensor import STORAGE, Tensor

MAX_RATIO = 64  # zarr compresses; weights hardly shrink, freshly initialised biases do
ITEMS = ("text_encoder_state", "text_encoder_2_state")
_SLACK = 1 << 20


def items(folder: Path) -> dict[str, Path]:
    """Item -> its folder, of the latest step under a folder, of a step, or of an item itself."""
    if (folder / "_METADATA").is_file():
        return {folder.name: folder}
    steps = [p for p in folder.iterdir() if p.is_dir() and p.name.isdecimal() and not p.is_symlink()]
    roots = [max(steps, key=lambda p: int(p.name[:18]))] if steps else [folder]
    return {p.name: p for p in sorted(roots[0].iterdir()) if p.is_dir() and (p / "_METADATA").is_file()}


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(names joined by dots -> Tensor, {}) of one item. Raises CheckpointError, MissingDependencyError."""
    metadata = read_json_object(folder / "_METADATA")
    tree = metadata.get("tree_metadata")
    if not isinstance(tree, dict):
        raise CheckpointError(f"{folder}: no tree_metadata in _METADATA")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    found = {}
    for entry in tree.values():
        try:
            name = ".".join(str(key["key"]) for key in entry["key_metadata"])
            skipped = entry["value_metadata"].get("skip_deserialize", False)
        except (TypeError, KeyError, AttributeError):
            raise CheckpointError(f"{folder}: damaged _METADATA") from None
        if not skipped and name.startswith("params."):
            found[name] = _tensor(folder, name, driver, bool(metadata.get("use_ocdbt", True)), size)
    return found, {}


def _tensor(folder: Path, name: str, driver: str, ocdbt: bool, size: int) -> Tensor:
    try:
        import tensorstore
    except ImportError:
        raise MissingDependencyError(
            f"{folder}: orbax checkpoints need tensorstore: pip install 'triclip[flax]' or tensorstore"
        ) from None
    base = f"{folder.resolve()}/"
    store: dict[str, Any] = {"driver": "file", "path": f"{base}{name}/"}
    if ocdbt:
        store = {"driver": "ocdbt", "base": f"file://{base}", "path": f"{name}/"}
    try:
        array = tensorstore.open({"driver": driver, "kvstore": store}, open=True, read=True).result()
    except (ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: {name}: {str(error)[:300]}") from None
    dtype = array.dtype.name
    shape = tuple(int(n) for n in array.shape)
    if dtype not in STORAGE:
        raise CheckpointError(f"{folder}: {name}: unknown dtype {dtype}")
    if math.prod(shape) * STORAGE[dtype].itemsize > MAX_RATIO * size + _SLACK:
        raise CheckpointError(f"{folder}: {name}: {dtype} {shape} is too large for the folder's {size} bytes")

    def load() -> np.ndarray:
        try:
            values = np.asarray(array.read().result())
        except (ValueError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: {name}: {str(error)[:300]}") from None
        return np.ascontiguousarray(values).view(STORAGE[dtype]).reshape(shape)

    return Tensor(dtype, shape, load)


def write(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], item: str = ITEMS[0]) -> None:
    """Step 0 with one item and its config, as MaxDiffusion lays it out."""
    try:
        import ml_dtypes
        import orbax.checkpoint as ocp
    except ImportError:
        raise MissingDependencyError(
            "writing orbax checkpoints needs orbax-checkpoint: pip install 'triclip[flax]' or orbax-checkpoint"
        ) from None
    params: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        array = tensor.numpy()
        node[leaf] = array.view(ml_dtypes.bfloat16) if tensor.dtype == "bfloat16" else array
    named = {item: ocp.args.StandardSave({"params": params, "step": np.zeros((), np.int32), "opt_state": {}})}
    named[item.replace("_state", "_config")] = ocp.args.JsonSave(dict(config))
    with ocp.CheckpointManager(os.fspath(folder.resolve()), item_names=tuple(named)) as manager:
        manager.save(0, args=ocp.args.Composite(**named))
        manager.wait_until_finished()
