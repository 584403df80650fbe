"""`triclip conform`: one checkpoint through every installed backend, compared field by field.

    report = conform("openai/clip-vit-base-patch32")
    print(report.table())

No framework is imported before a backend runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import InputError
from clip_core.hub import resolve_folder
from clip_core.pretrained import Loaded

from . import inputs as made
from .causes import Scene, explain, relative_error
from .report import Break, Report, Row
from .trace import (
    INPUTS,
    Reference,
    Trace,
    check_backends,
    in_order,
    layer_of,
    load_once,
    position,
    read_reference,
    run_checkpoint,
    run_transformers,
    scope_of,
    tower_of,
)

# Between backends, float32: one rounding is 6e-8, and a layer has some hundred of them in another order. Twelve layers
# stay below 1e-5; deeper towers are allowed proportionally more. The half types have 11 and 8 bits.
ACROSS = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
# A reference has its own order of operations.
REFERENCE = 2.0
USUAL_LAYERS = 12
# Softmax turns an absolute error of a score into a relative error of a weight, and trained towers' scores reach 100.
ATTENTIONS = 10.0
SIDES = {"pixel_values": "vision", "input_ids": "text"}


def conform(
    checkpoint: str | os.PathLike,
    backends: Sequence[str] | None = None,
    reference: str | os.PathLike | Mapping[str, Any] | None = None,
    images: Sequence[Any] | None = None,
    texts: Sequence[str] | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
) -> Report:
    """Run a checkpoint through backends on the same inputs and compare everything they compute.

    Args:
        checkpoint: a folder, file, bundled or hub name; a full model or one tower.
        backends: "torch", "tf", "flax"; default all that are installed.
        reference: "transformers" (the installed library), the path of a .npz (see `save_reference`) or a mapping, with
            fields such as "image_embeds" or "text_model_output.hidden_states.3"; it may include the inputs
            ("pixel_values", "input_ids", "attention_mask"), which are used if no others are given. Default: the first
            backend is the reference for the others.
        images, texts: the inputs; default four synthetic pictures and four sentences, or random ids without a
            tokenizer.
        dtype: "float32", "float16" or "bfloat16".
        tolerance: the largest allowed relative error, in place of the documented ones.

    Raises the errors of loading, MissingDependencyError for a backend that isn't installed, and InputError if there is
    nothing to compare.
    """
    if dtype not in ACROSS:
        raise InputError(f"dtype: wanted one of {', '.join(ACROSS)}, found {dtype!r}")
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise InputError(f"tolerance: wanted a positive number, found {tolerance!r}")
    names = check_backends(backends)
    known = _given_reference(reference)
    if reference is None and len(names) < 2:
        raise InputError(f"nothing to compare {names[0]} with: install another backend, or give a reference")
    folder = resolve_folder(checkpoint, weights=True)
    scope = scope_of(folder)
    loaded = load_once(folder, scope)
    arrays, pictures, notes = _inputs(folder, scope, loaded, known, images, texts)
    traces = {name: {**arrays, **run_checkpoint(name, folder, scope, arrays, dtype)} for name in names}
    if reference == "transformers":
        known = Reference("transformers", run_transformers(folder, scope, arrays))
    base_name, base = (known.name, known.trace()) if known else (names[0], traces[names[0]])
    bound = tolerance or ACROSS[dtype] * max(1.0, _layers(loaded) / USUAL_LAYERS) * (REFERENCE if known else 1)
    rows = _compare(base, {name: traces[name] for name in names if known or name != names[0]}, bound)
    if not rows:
        raise InputError(f"{base_name}: no field in common: it has {', '.join(base)}")
    breaks = []
    for row in _first_breaks(rows, scope):
        # Hypotheses run in the first backend; the side with which it disagrees is explained.
        usual = traces[names[0]]
        base_is_odd = relative_error(base[row.field], usual[row.field]) > row.tolerance
        odd, culprit = (base, base_name) if base_is_odd else (traces[row.backend], row.backend)
        scene = Scene(names[0], scope, loaded, arrays, usual, odd, culprit, row.field, row.tolerance, folder, pictures)
        tower = tower_of(row.field) or scope.partition("_")[0]
        breaks.append(Break(tower, row.field, row.layer, row.backend, row.error, row.tolerance, explain(scene)))
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    return Report(str(checkpoint), scope, base_name, names, dtype, rows, breaks, shapes, notes)


def save_reference(
    file: str | os.PathLike,
    checkpoint: str | os.PathLike,
    backend: str | None = None,
    images: Sequence[Any] | None = None,
    texts: Sequence[str] | None = None,
) -> None:
    """Write a .npz for `conform(reference=...)`: inputs and fields of a checkpoint in one backend."""
    name = check_backends(None if backend is None else [backend])[0]
    folder = resolve_folder(checkpoint, weights=True)
    scope = scope_of(folder)
    arrays, _, _ = made.make_inputs(folder, load_once(folder, scope).config, scope, images, texts)
    everything: dict[str, Any] = {**arrays, **run_checkpoint(name, folder, scope, arrays, "float32")}
    np.savez_compressed(file, **everything)


def _given_reference(reference: Any) -> Reference | None:
    if reference is None or isinstance(reference, str) and reference == "transformers":
        return None
    if isinstance(reference, Mapping):
        arrays = {name: np.asarray(array) for name, array in reference.items()}
        inputs = {name: array for name, array in arrays.items() if name in INPUTS}
        return Reference("the reference", in_order({n: a for n, a in arrays.items() if n not in inputs}), inputs)
    return read_reference(reference)


def _inputs(
    folder: Path, scope: str, loaded: Loaded, known: Reference | None, images: Any, texts: Any
) -> tuple[Trace, list[Any], list[str]]:
    """The inputs to run: the reference's, unless pictures or sentences are given; these are processed, run, and
    compared with the reference's inputs as the first field."""
    if known is None or not known.inputs:
        return made.make_inputs(folder, loaded.config, scope, images, texts)
    sides = [side for side, tower in SIDES.items() if scope == "full" or scope.startswith(tower)]
    own: Trace = {}
    pictures: list[Any] = []
    notes: list[str] = []
    if images is not None or texts is not None or any(side not in known.inputs for side in sides):
        own, pictures, notes = made.make_inputs(folder, loaded.config, scope, images, texts)
    arrays: Trace = {}
    for side, given in (("pixel_values", images), ("input_ids", texts)):
        if side in sides:
            source = own if given is not None or side not in known.inputs else known.inputs
            names = [side] if side == "pixel_values" else ["input_ids", "attention_mask", "position_ids"]
            arrays |= {name: source[name] for name in names if name in source}
    kinds = {name: np.float32 if name == "pixel_values" else np.int64 for name in arrays}
    return {name: np.ascontiguousarray(array, kinds[name]) for name, array in arrays.items()}, pictures, notes


def _layers(loaded: Loaded) -> int:
    config = loaded.config
    parts = [getattr(config, name) for name in config._sub_configs] or [config]
    return max(part.num_hidden_layers for part in parts)


def _compare(base: Trace, others: Mapping[str, Trace], bound: float) -> list[Row]:
    rows = []
    for name, trace in others.items():
        for field in base:
            if field in trace:
                own = bound * (ATTENTIONS if "attentions" in field else 1)
                rows.append(Row(field, layer_of(field), name, relative_error(trace[field], base[field]), own))
    return rows


def _first_breaks(rows: list[Row], scope: str) -> list[Row]:
    """The first row out of tolerance of every tower of every backend; logits only if no tower broke before."""
    found: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: position(row.field)):
        tower = tower_of(row.field) or scope.partition("_")[0]
        broken = {side for name, side in found if name == row.backend}
        if not row.ok and tower not in broken and not (tower == "both" and broken):
            found[row.backend, tower] = row
    return list(found.values())
