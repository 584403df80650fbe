"""Traces: every field of a model's outputs on given inputs, as NumPy arrays, in the order of computation."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from clip_core.errors import CheckpointError, InputError, MissingDependencyError
from clip_core.pretrained import Loaded, Pretrained, load_checked

# backend -> (package, class prefix, the framework that must be installed)
BACKENDS = {
    "torch": ("clip_torch", "", "torch"),
    "tf": ("clip_tf", "TF", "tensorflow"),
    "flax": ("clip_flax", "Flax", "flax"),
}
CLASSES = {
    "full": "CLIPModel",
    "text": "CLIPTextModel",
    "text_projection": "CLIPTextModelWithProjection",
    "vision": "CLIPVisionModel",
    "vision_projection": "CLIPVisionModelWithProjection",
}
INPUTS = ("pixel_values", "input_ids", "attention_mask", "position_ids")
Trace = dict[str, np.ndarray]


def installed() -> list[str]:
    """Names of the installed backends."""
    return [name for name, (_, _, needed) in BACKENDS.items() if importlib.util.find_spec(needed) is not None]


def check_backends(names: Sequence[str] | None) -> list[str]:
    """The backends to run: all installed ones, or those asked for, which must be installed."""
    here = installed()
    if names is None:
        if not here:
            raise MissingDependencyError("no backend is installed: pip install 'triclip[torch]' (or tf, or flax)")
        return here
    for name in names:
        if name not in BACKENDS:
            raise InputError(f"backends: wanted some of {', '.join(BACKENDS)}, found {name!r}")
        if name not in here:
            needed = BACKENDS[name][2]
            raise MissingDependencyError(f"backend {name!r} needs {needed}: pip install 'triclip[{name}]'")
    if not names:
        raise InputError("backends: wanted at least one, found none")
    return list(dict.fromkeys(names))


def model_class(backend: str, scope: str) -> Any:
    package, prefix, _ = BACKENDS[backend]
    return getattr(importlib.import_module(package), prefix + CLASSES[scope])


# -- the checkpoint ---------------------------------------------------------------------------------------------------


def scope_of(folder: Path) -> str:
    """The scope of a checkpoint: the full model, or one tower with or without its projection."""
    from clip_core import checkpoint

    names = checkpoint.load(folder).tensors
    text, vision = (any(name.startswith(f"{tower}_model.") for name in names) for tower in ("text", "vision"))
    if text and vision and "logit_scale" in names:
        return "full"
    if text and vision:
        raise CheckpointError(f"{folder}: has both towers but no logit_scale: neither a full model nor one tower")
    tower, projection = ("text", "text_projection") if text else ("vision", "visual_projection")
    return f"{tower}_projection" if f"{projection}.weight" in names else tower


def load_once(folder: Path, scope: str) -> Loaded:
    """The checked config and lazy weights, without any backend."""
    from clip_core.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    kind = CLIPConfig if scope == "full" else CLIPTextConfig if scope.startswith("text") else CLIPVisionConfig
    stub = type(CLASSES[scope], (Pretrained,), {"config_class": kind, "weight_scope": scope})
    return load_checked(stub, folder, {})


# -- running ----------------------------------------------------------------------------------------------------------


def run_checkpoint(backend: str, folder: Path, scope: str, arrays: Mapping[str, np.ndarray], dtype: str) -> Trace:
    """A backend's own from_pretrained, then `run_model`."""
    kwargs = {"torch_dtype": dtype}
    if backend == "flax":
        kwargs["dtype"] = dtype
    return run_model(backend, model_class(backend, scope).from_pretrained(folder, **kwargs), arrays)


def run_changed(backend: str, scope: str, loaded: Loaded, arrays: Mapping[str, np.ndarray]) -> Trace:
    """A run of the checkpoint with changed weights or another config."""
    changed = loaded._replace(config=copy.deepcopy(loaded.config))
    model = model_class(backend, scope)._from_weights(changed)
    if backend == "flax":
        model.jit = False  # many models, each run once: eager operations are shared, a compiled program would not be
    return run_model(backend, model, arrays)


def run_model(backend: str, model: Any, arrays: Mapping[str, np.ndarray]) -> Trace:
    """All fields of a call. Attentions come from a second call, because they need another code path."""
    call = {"torch": _call_torch, "tf": _call_native, "flax": _call_native}[backend]
    fields = flatten(call(model, arrays, {"output_hidden_states": True, "return_dict": True}))
    with_attentions = flatten(call(model, arrays, {"output_attentions": True, "return_dict": True}))
    fields |= {name: value for name, value in with_attentions.items() if "attentions" in name}
    return in_order(fields)


def _call_torch(model: Any, arrays: Mapping[str, np.ndarray], flags: Mapping[str, Any]) -> Any:
    import torch

    with torch.inference_mode():
        output = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}, **flags)
    return _map(output, lambda leaf: leaf.float().cpu().numpy())


def _call_native(model: Any, arrays: Mapping[str, np.ndarray], flags: Mapping[str, Any]) -> Any:
    return _map(model(**arrays, **flags), lambda leaf: np.asarray(leaf).astype(np.float32))


def _map(output: Any, function: Any) -> Any:
    if isinstance(output, Mapping):
        return {name: _map(value, function) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return [_map(value, function) for value in output]
    return function(output)


def flatten(output: Any, prefix: str = "") -> Trace:
    """A nested output as "text_model_output.hidden_states.0" -> array."""
    if isinstance(output, Mapping):
        items: Any = output.items()
    elif isinstance(output, tuple | list):
        items = enumerate(output)
    else:
        return {prefix: output}
    out: Trace = {}
    for key, value in items:
        out |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return out


# -- the order of computation -----------------------------------------------------------------------------------------

_LAST = 10**6  # beyond the layers
_STAGES = {"last_hidden_state": 0, "pooler_output": 1, "image_embeds": 2, "text_embeds": 2}


def tower_of(name: str) -> str:
    """ "vision", "text", "both" (logits), or "" for a field of a model that is one tower."""
    if name.startswith("logits"):
        return "both"
    if name in ("pixel_values", "image_embeds") or name.startswith("vision_model"):
        return "vision"
    if name in ("input_ids", "text_embeds") or name.startswith("text_model"):
        return "text"
    return ""


def position(name: str) -> tuple[int, int, int]:
    """A sort key for fields in the order of computation."""
    rank = {"vision": 0, "text": 1, "": 0, "both": 2}[tower_of(name)]
    parts = name.split(".")
    kind = parts[-2] if parts[-1].isdigit() else parts[-1]
    if kind in INPUTS:
        return 0, -1, INPUTS.index(kind)
    if kind == "hidden_states":
        return rank, int(parts[-1]), 0
    if kind == "attentions":
        return rank, int(parts[-1]), 1
    return rank, _LAST, _STAGES.get(kind, 3)


def in_order(fields: Mapping[str, np.ndarray]) -> Trace:
    return {name: fields[name] for name in sorted(fields, key=position)}


def layer_of(name: str) -> str:
    """The part of the model that computes a field, in words."""
    parts = name.split(".")
    if "hidden_states" in parts:
        number = int(parts[-1])
        return "embeddings" if number == 0 else f"layer {number - 1}"
    if "attentions" in parts:
        return f"layer {parts[-1]}, attention"
    names = {"last_hidden_state": "after the layers", "pooler_output": "pooling", "pixel_values": "preprocessing"}
    names |= dict.fromkeys(("image_embeds", "text_embeds"), "projection")
    names |= dict.fromkeys(("input_ids", "attention_mask", "position_ids"), "tokenizer")
    return names.get(parts[-1], "logits")


# -- references -------------------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """A reference: fields, and the inputs they were computed on if included."""

    name: str
    fields: Trace
    inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def trace(self) -> Trace:
        return in_order({**self.inputs, **self.fields})


def read_reference(path: str | os.PathLike) -> Reference:
    """A .npz of fields and, optionally, inputs, under the names of `Report.rows` and of the model's arguments."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such reference file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: wanted a .npz of arrays, found a file that does not open as one: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise InputError(f"{path}: {name}: wanted numbers, found {array.dtype}")
    inputs = {name: array for name, array in arrays.items() if name in INPUTS}
    return Reference(str(path), in_order({n: a for n, a in arrays.items() if n not in INPUTS}), inputs)


def run_transformers(folder: Path, scope: str, arrays: Mapping[str, np.ndarray]) -> Trace:
    """The same checkpoint through the installed transformers library (PyTorch)."""
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("reference 'transformers' needs transformers and torch: pip install transformers")
    import tempfile

    transformers = importlib.import_module("transformers")
    from clip_core import checkpoint

    cls = getattr(transformers, CLASSES[scope])
    with tempfile.TemporaryDirectory() as scratch:
        if folder.is_file() or not (folder / "config.json").is_file():  # a layout that only this package reads
            loaded = load_once(folder, scope)
            checkpoint.save(scratch, loaded.tensors, loaded.config.to_diff_dict())
            folder = Path(scratch)
        model = cls.from_pretrained(folder).float().eval()
        fields = flatten(_call_torch(model, arrays, {"output_hidden_states": True}))
        model = cls.from_pretrained(folder, attn_implementation="eager").float().eval()
        with_attentions = flatten(_call_torch(model, arrays, {"output_attentions": True}))
    fields |= {name: value for name, value in with_attentions.items() if "attentions" in name}
    if int(transformers.__version__.partition(".")[0]) >= 5 and scope == "full":
        # Since version 5 a full model's towers hold their projected embedding in the place of the pooled output.
        fields = {name: value for name, value in fields.items() if not name.endswith("pooler_output")}
    return in_order(fields)
