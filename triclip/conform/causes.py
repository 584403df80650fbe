"""Causes of a difference between two traces: hypotheses, each tested by a run with one change.

A hypothesis is reported only if it makes the first differing field agree; the report says whether all later fields
agree too. Embeddings and logits need no run; their relation is examined directly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_core.config import ACTIVATIONS
from clip_core.pretrained import Loaded
from clip_core.weights import is_resnet

from .inputs import preprocessing_variants
from .trace import Trace, in_order, run_changed, tower_of

EPS = (1e-3, 1e-5, 1e-6, 1e-12)
SQUARE = ("q_proj", "k_proj", "v_proj", "out_proj")


def relative_error(got: Any, want: Any) -> float:
    """The largest difference over the largest expected magnitude; infinite for another shape or a NaN."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not (np.isfinite(got).all() and np.isfinite(want).all()):
        return float("inf")
    if not want.size:
        return 0.0
    return float(np.abs(got - want).max() / max(np.abs(want).max(), np.finfo(np.float32).tiny))


class Change(NamedTuple):
    """A hypothesis: the change in words, and the changed inputs of a run."""

    kind: str
    words: str
    loaded: Loaded
    arrays: Mapping[str, np.ndarray]


@dataclass
class Scene:
    """The facts about a break to be explained.

    runner: the backend that runs hypotheses; usual: its unchanged trace; odd: the deviating trace, of `culprit`; field:
    the first that deviates.
    """

    runner: str
    scope: str
    loaded: Loaded
    arrays: Mapping[str, np.ndarray]
    usual: Trace
    odd: Trace
    culprit: str
    field: str
    tolerance: float
    folder: Path
    pictures: Sequence[Any] = ()

    @property
    def tower(self) -> str:
        return tower_of(self.field) or self.scope.split("_")[0]


def explain(scene: Scene) -> list[str]:
    """Likely causes, in words; empty if no hypothesis fits."""
    kind = scene.field.rpartition(".")[2]
    shapes = [np.shape(trace[scene.field]) for trace in (scene.odd, scene.usual)]
    if shapes[0] != shapes[1] and not (kind == "pixel_values" or kind.startswith("logits")):
        return [f"shape: {scene.culprit} has {shapes[0]}, where the model gives {shapes[1]}"]
    if kind in ("image_embeds", "text_embeds"):
        found = list(_of_embeddings(scene))
    elif kind.startswith("logits"):
        found = list(_of_logits(scene))
    elif kind == "pixel_values":
        found = list(_of_pixels(scene))
    else:
        found = list(_tried(scene, _changes(scene)))
    return [f"{kind}: {scene.culprit} agrees with {words}" for kind, words in found]


# -- by running -------------------------------------------------------------------------------------------------------


def _tried(scene: Scene, changes: Iterator[Change]) -> Iterator[tuple[str, str]]:
    """The changes that remove the break; only one if it explains every later field too."""
    partial = []
    tower = scene.tower
    for change in changes:
        trace = _run_tower(scene, change)
        if scene.field not in trace or relative_error(trace[scene.field], scene.odd[scene.field]) > scene.tolerance:
            continue
        shared = [name for name in trace if name in scene.odd]
        later = shared[shared.index(scene.field) :]
        if all(relative_error(trace[name], scene.odd[name]) <= 10 * scene.tolerance for name in later):
            yield change.kind, change.words
            return
        partial.append((change.kind, f"{change.words} (in {scene.field}; not in all that follows, {tower} tower)"))
    yield from partial


def _run_tower(scene: Scene, change: Change) -> Trace:
    """Run only the tower in question, with its fields named as in the full model."""
    if scene.scope != "full":
        return run_changed(scene.runner, scene.scope, change.loaded, change.arrays)
    names = ("pixel_values",) if scene.tower == "vision" else ("input_ids", "attention_mask", "position_ids")
    arrays = {name: array for name, array in change.arrays.items() if name in names}
    config = getattr(change.loaded.config, f"{scene.tower}_config")
    tensors = {n: t for n, t in change.loaded.tensors.items() if n.startswith(f"{scene.tower}_model.")}
    trace = run_changed(scene.runner, scene.tower, change.loaded._replace(config=config, tensors=tensors), arrays)
    return in_order({f"{scene.tower}_model_output.{name}": value for name, value in trace.items()})


def _changes(scene: Scene) -> Iterator[Change]:
    """Hypotheses for a field inside a tower, common ones first."""
    yield from _configs(scene)
    if scene.tower == "text":
        yield from _masks(scene)
        yield from _ends(scene)
    else:
        yield from _patches(scene)
    yield from _transposed(scene)


def _with_config(scene: Scene, **values: Any) -> Loaded:
    config = copy.deepcopy(scene.loaded.config)
    part = getattr(config, f"{scene.tower}_config", config)
    for name, value in values.items():
        setattr(part, name, value)
    return scene.loaded._replace(config=config)


def _configs(scene: Scene) -> Iterator[Change]:
    config = getattr(scene.loaded.config, f"{scene.tower}_config", scene.loaded.config)
    for name in ACTIVATIONS:
        if name != config.hidden_act:
            words = f"hidden_act {name!r}, where the config says {config.hidden_act!r}"
            yield Change("activation", words, _with_config(scene, hidden_act=name), scene.arrays)
    for eps in EPS:
        if eps != config.layer_norm_eps:
            words = f"layer_norm_eps {eps:g}, where the config says {config.layer_norm_eps:g}"
            yield Change("eps", words, _with_config(scene, layer_norm_eps=eps), scene.arrays)


def _masks(scene: Scene) -> Iterator[Change]:
    ids, mask = scene.arrays["input_ids"], scene.arrays.get("attention_mask")
    config = getattr(scene.loaded.config, "text_config", scene.loaded.config)
    usual = np.ones_like(ids) if mask is None else mask
    others = {"no attention_mask": np.ones_like(ids), "an attention_mask of 1 for hidden and 0 for kept": 1 - usual}
    for name, token in (("pad_token_id", config.pad_token_id), ("eos_token_id", config.eos_token_id), ("0", 0)):
        if token is not None:
            others[f"a mask that hides every {name}"] = (ids != token).astype(np.int64)
    others["a mask that hides what follows the first end token"] = _until_end(ids, config.eos_token_id)
    for words, other in others.items():
        if not np.array_equal(other, usual):
            yield Change("mask", words, scene.loaded, {**scene.arrays, "attention_mask": other})


def _until_end(ids: np.ndarray, end: int) -> np.ndarray:
    seen = np.cumsum(ids == end, axis=1)
    return ((seen - (ids == end)) == 0).astype(np.int64)


def _ends(scene: Scene) -> Iterator[Change]:
    """Hypotheses about the pooled token."""
    ids = scene.arrays["input_ids"]
    config = getattr(scene.loaded.config, "text_config", scene.loaded.config)
    if config.eos_token_id != 2:
        yield Change("pooling", "pooling at the highest id", _with_config(scene, eos_token_id=2), scene.arrays)
    for token in dict.fromkeys(int(i) for i in (ids.max(), ids[0, -1], config.vocab_size - 1)):
        if token not in (config.eos_token_id, 2):
            words = f"pooling at the first token {token}, where the config says {config.eos_token_id}"
            yield Change("pooling", words, _with_config(scene, eos_token_id=token), scene.arrays)


def _patches(scene: Scene) -> Iterator[Change]:
    pixels = scene.arrays["pixel_values"]
    flipped = {"blue and red exchanged": pixels[:, ::-1], "height and width exchanged": pixels.transpose(0, 1, 3, 2)}
    for words, changed in flipped.items():
        if changed.shape == pixels.shape:
            yield Change("pixels", words, scene.loaded, {**scene.arrays, "pixel_values": np.ascontiguousarray(changed)})
    resnet = is_resnet(scene.loaded.config)
    name = f"vision_model.{'conv1' if resnet else 'embeddings.patch_embedding'}.weight"
    words = f"{name.split('.')[-2]} with height and width exchanged"
    yield Change("transposed weight", words, _with_axes(scene, {name: (0, 1, 3, 2)}), scene.arrays)


def _transposed(scene: Scene) -> Iterator[Change]:
    """Hypotheses of transposed weights, in the broken layer and in all layers: only square ones fit both ways."""
    start = f"{scene.tower}_model.encoder.layers."
    square = [
        name
        for name, tensor in scene.loaded.tensors.items()
        if name.startswith(start) and len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]
    ]
    kinds = list(dict.fromkeys(name.removeprefix(start).partition(".")[2] for name in square))
    layer = _layer(scene.field)
    for kind in kinds:
        if (name := f"{start}{layer}.{kind}") in square:
            yield Change("transposed weight", f"{name} transposed", _with_axes(scene, {name: (1, 0)}), scene.arrays)
    for words, chosen in [(f"every {kind}", [n for n in square if n.endswith(kind)]) for kind in kinds] + [
        ("every square weight", square)
    ]:
        axes = dict.fromkeys(chosen, (1, 0))
        yield Change("transposed weight", f"{words} transposed", _with_axes(scene, axes), scene.arrays)


def _layer(name: str) -> int:
    parts = name.split(".")
    if not parts[-1].isdigit():
        return -1
    return int(parts[-1]) - (parts[-2] == "hidden_states")


def _with_axes(scene: Scene, axes: Mapping[str, tuple[int, ...]]) -> Loaded:
    tensors = {n: t.permute(*axes[n]) if n in axes else t for n, t in scene.loaded.tensors.items()}
    return scene.loaded._replace(tensors=tensors)


# -- by looking -------------------------------------------------------------------------------------------------------


def _of_embeddings(scene: Scene) -> Iterator[tuple[str, str]]:
    odd, usual = (np.asarray(trace[scene.field], np.float64) for trace in (scene.odd, scene.usual))
    if odd.shape == usual.shape and relative_error(_unit(odd), _unit(usual)) <= scene.tolerance:
        lengths = [np.linalg.norm(x, axis=-1) for x in (odd, usual)]
        words = [("of unit length" if np.allclose(x, 1, atol=1e-3) else "not normalised") for x in lengths]
        yield "normalisation", f"the same directions in other lengths ({words[0]}, where the model gives {words[1]})"
    name = "visual_projection.weight" if scene.field == "image_embeds" else "text_projection.weight"
    pooled = scene.odd.get(_pooled(scene))
    if name not in scene.loaded.tensors:  # a ResNet's embedding is what it pools
        return
    weight = scene.loaded.tensors[name].astype("float32").numpy()
    if pooled is not None and weight.shape[0] == weight.shape[1]:
        turned = np.asarray(pooled, np.float64) @ weight
        if relative_error(_unit(turned), _unit(odd)) <= scene.tolerance:
            yield "transposed weight", f"{name} transposed"


def _pooled(scene: Scene) -> str:
    return "pooler_output" if scene.scope != "full" else f"{scene.tower}_model_output.pooler_output"


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def _of_logits(scene: Scene) -> Iterator[tuple[str, str]]:
    odd, usual = (np.asarray(trace[scene.field], np.float64) for trace in (scene.odd, scene.usual))
    if odd.shape == usual.T.shape and relative_error(odd.T, usual) <= scene.tolerance:
        yield "transposed output", "logits_per_image and logits_per_text exchanged"
    if odd.shape != usual.shape:
        return
    ratio = float((odd * usual).sum() / (usual * usual).sum())
    if relative_error(odd, ratio * usual) <= scene.tolerance:
        stored = float(scene.loaded.tensors["logit_scale"].astype("float32").numpy())
        meaning = {
            "the stored logit_scale without its exponential": stored / np.exp(stored),
            "no logit_scale": 1 / np.exp(stored),
            "logit_scale clipped at 100": min(np.exp(stored), 100.0) / np.exp(stored),
        }
        words = next((w for w, r in meaning.items() if abs(ratio / r - 1) <= scene.tolerance), None)
        yield "scale", words or f"the same logits times {ratio:.6g}"


def _of_pixels(scene: Scene) -> Iterator[tuple[str, str]]:
    """Other preprocessings of the same pictures; without pictures, one side's values against the other's."""
    config = getattr(scene.loaded.config, "vision_config", scene.loaded.config)
    if scene.pictures:
        for kind, words, pixels in preprocessing_variants(scene.folder, config, scene.pictures):
            if relative_error(pixels, scene.odd["pixel_values"]) <= 10 * scene.tolerance:
                yield kind, words
                return
    odd, usual = (np.asarray(trace["pixel_values"], np.float64) for trace in (scene.odd, scene.usual))
    if odd.shape != usual.shape:
        yield "crop", f"pictures of the shape {odd.shape[1:]}, where the model is given {usual.shape[1:]}"
        return
    if relative_error(odd[:, ::-1], usual) <= scene.tolerance:
        yield "pixels", "blue and red exchanged"
        return
    fits = [_line(usual[:, c], odd[:, c]) for c in range(usual.shape[1])]
    if all(left <= 10 * scene.tolerance for _, _, left in fits):
        words = "; ".join(f"channel {c}: x {a:.4f} {b:+.4f}" for c, (a, b, _) in enumerate(fits))
        yield "normalisation", f"the same pictures with another mean and deviation ({words})"
        return
    for rows in (-1, 0, 1):
        for columns in (-1, 0, 1):
            if (rows or columns) and _shifted(odd, usual, rows, columns) <= 10 * scene.tolerance:
                yield "crop", f"the same pictures, cropped {rows} rows and {columns} columns away"


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """The least-squares line y = a x + b, and its residual relative to the largest y."""
    a, b = np.polyfit(x.ravel(), y.ravel(), 1) if np.ptp(x) else (0.0, float(y.mean()))
    return float(a), float(b), relative_error(a * x + b, y)


def _shifted(odd: np.ndarray, usual: np.ndarray, rows: int, columns: int) -> float:
    height, width = usual.shape[2:]
    here = usual[:, :, max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)]
    there = odd[:, :, max(-rows, 0) : height + min(-rows, 0), max(-columns, 0) : width + min(-columns, 0)]
    return relative_error(there, here)
