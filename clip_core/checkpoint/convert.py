"""`convert` and `inspect`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..files import replace_file
from ..reading import read_json_object
from ..weights import Weight, check, weight_table
from . import containers, families, infer, processors, resnet, single_file
from . import scope as scopes
from .loading import Checkpoint, load, opened
from .locate import ENDINGS, locate
from .saving import Saved, prepare, save
from .stated import check_kind

SINGLE_FILE = ("sd1", "sdxl")
Progress = Callable[[int, int], None]


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str = "hf",
    dtype: object = None,
    component: str | None = None,
    shard_size: str | int | None = "5GB",
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    subfolder: str | None = None,
    variant: str | None = None,
    progress: Progress | None = None,
) -> Saved:
    """Any readable checkpoint into another layout, tensor by tensor. Numbers only move, unless `dtype` is given.

    Args:
        src: a folder or a file, as `load` takes it.
        dst: a folder; or a file, when its name ends as a weight file's ("clip.pt"). Replaced in one step.
        to: a layout of `save`, or "sd1", "sdxl": then `dst` is a single-file checkpoint whose text encoder is
            replaced in place, in the file's own dtype, every other byte left as it is.
        dtype: float16, bfloat16 or float32 for all floating-point tensors, rounded once; None: each keeps its own.
        component: which CLIP of the source, and for "sdxl" which of the target; see `load`.
        shard_size: the largest weight file; None: one file.
        config: a config.json's content, or the path of one: what the source doesn't say (heads, activation).
        subfolder, variant: as in `load`.
        progress: called with (bytes written, bytes in all).

    Returns: the files and notes: everything that was assumed, and what the target has no place for.

    Raises: CheckpointError, FileNotFoundError, MissingDependencyError; ValueError for an unknown `to` or `dtype`.
    """
    given = read_json_object(Path(config)) if isinstance(config, str | os.PathLike) else config
    if given is not None:
        check_kind(given, f"config: {config}" if isinstance(config, str | os.PathLike) else "config")
    if to in SINGLE_FILE:
        return _into_single_file(src, Path(dst), to, component, given, subfolder, variant)
    read = load(src, subfolder=subfolder, variant=variant, component=component, config=given)
    notes = list(read.notes)
    made = checked_config(read, notes)
    total = sum(tensor.nbytes for tensor in prepare(read.tensors, dtype).values()) if progress else 0
    options: dict[str, Any] = {"to": to, "dtype": dtype, "advance": _advance(progress, total)}
    if Path(dst).suffix in ENDINGS and not Path(dst).is_dir():
        files = processors.collect(read, made, notes) if to == "gguf" else {}  # its vocabulary goes into the file
        saved = _into_file(Path(dst), read, made, files, **options)
    else:
        files = processors.collect(read, made, notes)
        saved = save(dst, read.tensors, made, shard_size=shard_size, files=files, **options)
    return Saved(saved.files, (*notes, *saved.notes))


def _advance(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return advance if progress else None


def _into_file(
    dst: Path,
    read: Checkpoint,
    config: dict[str, Any],
    files: Mapping[str, bytes],
    to: str,
    dtype: object,
    advance: Any,
) -> Saved:
    from .targets import TARGETS, Job, write_file

    if to not in TARGETS:
        raise ValueError(f"to: unknown layout {to!r}; wanted one of {', '.join((*TARGETS, *SINGLE_FILE))}")
    notes: list[str] = []
    with replace_file(dst) as draft:
        write_file(
            draft, Job(draft.parent, prepare(read.tensors, dtype), config, None, {}, None, advance, notes, files), to
        )
    return Saved((dst,), tuple(notes))


def _into_single_file(
    src: Any, dst: Path, to: str, component: str | None, config: Any, subfolder: str | None, variant: str | None
) -> Saved:
    wanted = [component] if component else _encoders(Path(src), to, subfolder)
    encoders: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    for name in wanted:
        try:
            read = load(
                src, subfolder=subfolder, variant=variant, component=name, scope="text_projection", config=config or {}
            )
        except CheckpointError:
            if not component or component not in single_file.NEW[to]:
                raise
            # the component names the place in the target; the source has a single text tower
            read = load(src, subfolder=subfolder, variant=variant, scope="text_projection", config=config or {})
        known = name in single_file.NEW[to]
        encoders[name if name and known else ""] = read.tensors
        notes += read.notes
    saved = single_file.write(dst, to, encoders)
    return Saved(saved.files, (*notes, *saved.notes))


def _encoders(src: Path, to: str, subfolder: str | None) -> list[str | None]:
    """The text encoders of a source, when it has those of the target by name; else the one that it has."""
    names = list(single_file.NEW[to])
    if src.is_dir() and not subfolder:
        inside = [name for name in names if (src / name).is_dir()]
        if inside:
            return list(inside)
    if src.is_file():
        found = scopes.find(containers.read(src).tensors)
        inside = [name for name in names if any(name in scope.components for scope in found)]
        if len(found) > 1 and inside:
            return list(inside)
    return [None]


def checked_config(read: Checkpoint, notes: list[str]) -> dict[str, Any]:
    """A config that fits the tensors of a checkpoint, every difference noted, and the strict check of the names.

    Raises: CheckpointError listing what is missing and what has no place.
    """
    from ..config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    try:
        config = infer.complete(read.config, read.tensors, notes)
        kind = config["model_type"]
        scope = "text" if kind == "clip_text_model" else "vision" if "vision" in kind else "full"
        classes: dict[str, Any] = {"full": CLIPConfig, "text": CLIPTextConfig, "vision": CLIPVisionConfig}
        made = classes[scope].from_dict(config)
        made.validate()
        if scope != "full" and f"{'visual' if scope == 'vision' else scope}_projection.weight" in read.tensors:
            scope += "_projection"
        table = weight_table(made, scope)
        if infer.is_classifier(read.tensors):
            table = weight_table(made, "vision") | _classifier(made)
    except (ConfigError, CheckpointError) as error:
        raise CheckpointError(f"{read.config_path or read.files[0]}: {error}") from None
    found = {n: t for n, t in read.tensors.items() if not (scope != "full" and n == "logit_scale")}
    try:
        check(found, table, str(read.files[0]))
    except CheckpointError as error:
        family = families.name_of(name for name in found if name not in table)
        raise CheckpointError(f"{error}\nIt is {family}" if family else str(error)) from None
    return config


def _classifier(config: Any) -> dict[str, Weight]:
    """The rows beside the vision tower's of CLIPForImageClassification."""
    labels, width = config.num_labels, config.vision_config.hidden_size
    weight = Weight("linear", "weight", (labels, width))
    return {"classifier.weight": weight, "classifier.bias": Weight("linear", "bias", (labels,))}


def inspect(
    path: str | os.PathLike[str],
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    component: str | None = None,
) -> dict[str, Any]:
    """What a checkpoint is, read from its headers: format, dialect, components, config, parameters, dtypes, processor.

    Raises: FileNotFoundError, CheckpointError for files that are no checkpoint.
    """
    found = locate(path, subfolder, variant, component)
    facts: dict[str, Any] = {"path": str(path), "files": [p.name for p in found.weights]}
    read, activation = opened(path, subfolder, variant, component)
    try:
        read = infer.config_of(read, None, activation)
    except (CheckpointError, FileNotFoundError) as error:  # what it is can be told all the same
        read = replace(read, notes=[*read.notes, str(error)])
    notes = list(read.notes)
    sizes = {"total": sum(t.size for t in read.tensors.values())}
    for tower in scopes.TOWERS:
        sizes[tower] = sum(t.size for n, t in read.tensors.items() if n.startswith(f"{tower}_model."))
    dtypes: dict[str, int] = {}
    for tensor in read.tensors.values():
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + 1
    if resnet.is_in(read.tensors):
        shapes = {name: tensor.shape for name, tensor in read.tensors.items()}
        facts["architecture"] = resnet.architecture(resnet.sizes(shapes)["layers"])
    return {
        **facts,
        "format": read.container,
        "dialect": read.dialect,
        "prefix": read.prefix,
        "components": _components(read),
        "parameters": sizes,
        "bytes": sum(t.nbytes for t in read.tensors.values()),
        "dtypes": dtypes,
        "config": _config_or_note(read, notes),
        "processor": sorted(processors.present(read)),
        "ignored": list(read.ignored),
        "metadata": {key: value for key, value in read.metadata.items() if key != "config"},
        "notes": notes,
    }


def _config_or_note(read: Checkpoint, notes: list[str]) -> dict[str, Any] | None:
    if read.config is None:
        return None
    try:
        return checked_config(read, notes)
    except CheckpointError as error:
        notes.append(str(error))
        return read.config


def _components(read: Checkpoint) -> list[str]:
    if read.container not in ("safetensors", "torch") or len(read.files) != 1:
        return []
    return [str(scope) for scope in scopes.find(containers.read(read.files[0]).tensors)]
