"""From a path to the files of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import files
from ..errors import CheckpointError
from ..reading import is_there, read_json_object

# In the order of preference, as transformers prefers them; then the other libraries' names.
WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.weights.h5",
)
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".keras", ".gguf")


class Found(NamedTuple):
    """The files of one checkpoint.

    folder: where the configuration and the processor files are; None when a single file was given.
    weights: the weight files; more than one: shards.
    manifest: the index file of shards. listed: its name -> shard.
    file: name -> the path of another file of the folder (it may be in the middle of being replaced).
    item: the folder of an orbax item, when it is one.
    """

    folder: Path | None
    weights: list[Path]
    manifest: Path | None
    listed: Mapping[str, str]
    file: Callable[[str], Path]
    item: Path | None = None


def locate(
    path: str | os.PathLike[str],
    subfolder: str | None = None,
    variant: str | None = None,
    component: str | None = None,
    prefer: str | None = None,
) -> Found:
    """The files at a path, a folder or a single file. `component` chooses among the items of an orbax folder;
    `prefer` names one of `WEIGHTS` to look for before the others.

    Raises: FileNotFoundError naming what was looked for; CheckpointError for a bad index.
    """
    root = Path(path)
    if subfolder:
        inner = Path(subfolder)
        if inner.is_absolute() or ".." in inner.parts:
            raise CheckpointError(f"subfolder: {subfolder!r} leaves the folder {root}")
        root = root / inner
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder")
    if root.is_dir():
        return _in_folder(root, variant, component, prefer)
    if root.name.endswith(".index.json") or (".index." in root.name and root.suffix == ".json"):
        return _sharded(root.parent, root, lambda name: root.parent / name)
    return Found(None, [root], None, {}, lambda name: root.parent / name)


def _in_folder(folder: Path, variant: str | None, component: str | None, prefer: str | None) -> Found:
    file = files.view(folder)
    looked_for = []
    for name in sorted(WEIGHTS, key=lambda name: name != prefer):
        stem, _, ending = name.rpartition(".")
        plain = f"{stem}.{variant}.{ending}" if variant else name
        index = f"{name}.index.{variant}.json" if variant else f"{name}.index.json"
        if name == "model.weights.h5" and not variant:
            index = "model.weights.json"
        looked_for += [plain, index]
        if is_there(file(plain)):
            return Found(folder, [file(plain)], None, {}, file)
        if is_there(file(index)):
            return _sharded(folder, file(index), file)
    if (item := _orbax_item(folder, component)) is not None:
        config = item.parent / item.name.replace("_state", "_config") / "metadata"
        return Found(folder, [item], None, {}, lambda name: config if name == "config.json" else folder / name, item)
    if not variant:
        others = sorted(p for p in folder.iterdir() if p.suffix in ENDINGS and p.is_file())
        if len(others) == 1:
            return Found(folder, others, None, {}, file)
        if others:
            names = ", ".join(p.name for p in others)
            raise CheckpointError(f"{folder}: which of its files is meant? Give the path of one of: {names}")
    raise FileNotFoundError(f"{folder}: no weights; looked for {', '.join(looked_for)}{_inner(folder)}")


def _inner(folder: Path) -> str:
    """The components of a pipeline's folder, for a message."""
    inner = sorted(p.name for p in folder.iterdir() if p.is_dir() and (p / "config.json").is_file())
    return f". Its folders {', '.join(inner)} are components: say which with component=" if inner else ""


def _orbax_item(folder: Path, component: str | None) -> Path | None:
    from .orbax_file import items

    found = items(folder)
    if not found:
        return None
    wanted = f"{component or 'text_encoder'}_state"
    if wanted not in found and (component not in (None, "text") or len(found) > 1):
        raise CheckpointError(f"{folder}: no item {wanted}; it has {', '.join(found)}")
    return found.get(wanted) or next(iter(found.values()))


def _sharded(folder: Path, index: Path, file: Callable[[str], Path]) -> Found:
    content = read_json_object(index)
    listed = content.get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{index}: no weight_map")
    if index.name.endswith("weights.json"):
        shards = _kerashub_shards(listed, index)
        listed = {}
    else:
        shards = list(dict.fromkeys(s if isinstance(s, str) else None for s in listed.values()))
    paths = [_inside(folder, shard, index, file) for shard in shards]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{index}: it names files that are not there: {', '.join(missing)}")
    return Found(folder, paths, index, listed, file)


def _kerashub_shards(listed: Mapping[str, Any], index: Path) -> list[Any]:
    """Keras lists a shard, or a list of them, for every layer."""
    shards: dict[Any, None] = {}
    for value in listed.values():
        for shard in value if isinstance(value, list) else [value]:
            if not isinstance(shard, str):
                raise CheckpointError(f"{index}: a shard that is no name")
            shards[shard] = None
    return list(shards)


def _inside(folder: Path, shard: Any, index: Path, file: Callable[[str], Path]) -> Path:
    """The path of a shard, which must be in the folder: also when it is a link."""
    if not isinstance(shard, str) or not files.is_plain_name(shard):
        raise CheckpointError(f"{index}: the shard name {str(shard)[:80]!r} is not the name of a file in the folder")
    path = file(shard)
    if path.is_symlink() and path.resolve().parent != path.parent.resolve() and not in_hub_cache(path):
        raise CheckpointError(f"{index}: the shard {shard} is a link that leaves the folder")
    return path


def in_hub_cache(path: Path) -> bool:
    """huggingface_hub keeps `<repo>/snapshots/<revision>/name` as links to `<repo>/blobs/<hash>`."""
    real = path.resolve()
    return any(p.name == "snapshots" and real.parent == p.parent / "blobs" for p in path.parent.resolve().parents)
