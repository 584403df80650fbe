"""embed.json: the inputs with their sizes, and the settings. A run is resumed only with the same ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_core.errors import DataError, InputError

from ..data.sources import PROBED, separate
from ..nested import flatten
from ..progress import Progress
from ..search.runs import FORMAT, RUN, VERSION, Input, read_run
from ..search.writing import write_json
from ..walk import common_folder_of
from .engines import Engine
from .settings import Job
from .work import Worker


def make_plan(job: Job, engine: Engine, progress: bool | None = None) -> Job:
    """The job with its counted inputs; results of an earlier part of the run are taken from embed.json.

    Raises InputError if embed.json is another run's, naming the differences; DataError if no input can be used.
    """
    settings = job.settings
    kind, files = separate(settings.inputs, settings.format)
    found = [Input(os.fspath(path), _size(path)) for path in files]
    path = settings.output / RUN
    asked = {"settings": settings.fixed, "model": job.spec.identity(), "kind": kind}
    root = common_folder_of([one.path for one in found])
    if path.exists():
        relative = read_run(path).get("relative_names", False)  # runs of before have absolute names
        return job._replace(inputs=_same_run(path, asked, found), root=root if relative else "")
    strangers = [entry.name for entry in settings.output.iterdir() if not entry.name.startswith(".")]
    if strangers:
        raise InputError(
            f"{settings.output}: wanted a new folder, or one of an earlier run, found {strangers[0]} in it"
        )
    inputs: list[Input] = list(found)
    job = job._replace(inputs=found, root=root)
    with Progress("inputs", len(found), progress) as bar:
        for number, counted in engine.count(job, range(len(found))):
            inputs[number] = counted
            bar.advance()
    _check(job, inputs)
    listed = [[one.path, one.size, one.samples, one.damage] for one in inputs]
    write_json(path, {"format": FORMAT, "version": VERSION, **asked, "relative_names": True, "inputs": listed})
    return job._replace(inputs=inputs)


def _check(job: Job, inputs: list[Input]) -> None:
    """Check, before anything is computed, that there is a usable input with a sample."""
    usable = [number for number, one in enumerate(inputs) if one.samples]
    if not usable:
        raise DataError(inputs[0].damage[0] if inputs[0].damage else f"{inputs[0].path}: wanted samples, found none")
    Worker(job).check_input(usable[0], PROBED)


def _size(path: Path) -> str:
    """The size of a file, or of a folder's contents, by which a changed input is recognised."""
    if not path.is_dir():
        return str(path.stat().st_size)
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(parent, name)
            size = os.path.getsize(file) if os.path.exists(file) else -1
            digest.update(os.fsencode(f"{os.path.relpath(file, path)}\0{size}\0"))
    return digest.hexdigest()


def _same_run(path: Path, asked: Mapping[str, Any], found: list[Input]) -> list[Input]:
    known = read_run(path)
    before = flatten({key: known[key] for key in asked}, ".")
    now = flatten(json.loads(json.dumps(asked)), ".")
    lines = [
        f"{key}: {_short(before.get(key))}, now {_short(now.get(key))}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    inputs = [Input(*one) for one in known["inputs"]]
    lines += _other_inputs(inputs, found)
    if lines:
        raise InputError(
            f"{path.parent}: holds another run: wanted a new output, or its values of\n" + "\n".join(lines)
        )
    # The inputs may have been moved.
    return [Input(new.path, old.size, old.samples, old.damage) for old, new in zip(inputs, found, strict=True)]


def _other_inputs(before: list[Input], now: list[Input]) -> list[str]:
    if len(before) != len(now):
        return [f"inputs: {len(before)} files, now {len(now)}"]
    for old, new in zip(before, now, strict=True):
        if Path(old.path).name != Path(new.path).name:
            return [f"inputs: {old.path}, now {new.path}"]
        if old.size != new.size:
            what = "of another content" if os.path.isdir(new.path) else f"of {old.size} bytes, now {new.size}"
            return [f"inputs: {new.path} {what}"]
    return []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
