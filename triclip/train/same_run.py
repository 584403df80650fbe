"""Checking by run.json whether a folder's checkpoints belong to the configured run."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_core.errors import ConfigError

from ..data.source import Source, fingerprint
from ..nested import flatten
from . import start
from .config import TrainConfig
from .engine import Job
from .load import to_dict

logger = logging.getLogger("triclip")

RUN, CHECKPOINTS = "run.json", "checkpoints"

# Keys that can't change when a run is resumed: its parameters, and the data of each step.
_FIXED = (
    "backend",
    "seed",
    "ema",
    "model.lock",
    "model.patch_dropout",
    "data.train",
    "data.format",
    "data.image_key",
    "data.caption_key",
    "data.batch_size",
    "data.shuffle",
    "data.augment",
    "loss.kind",
    "loss.anchors",
)
_FREE = ("output", "steps", "compile_cache", "model", "data", "log", "evaluate", "checkpoint", "mesh", "accumulate")


# Keys of a tower's config that determine its function, without additions of other libraries that save the file.
_TOWER = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "pruned_heads",
    "vocab_size",
    "max_position_embeddings",
    "eos_token_id",
    "image_size",
    "patch_size",
    "num_channels",
)


def describe(config: TrainConfig, job: Job, source: Source) -> dict[str, Any]:
    """The contents of run.json: the configuration, the model's, the number of samples, and the initial weights."""
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, config=None))
    values = job.model_config.to_dict()
    model = {"projection_dim": values["projection_dim"]}
    for tower in ("text_config", "vision_config"):
        model[tower] = {key: values[tower][key] for key in _TOWER if key in values[tower]}
    described = {
        "config": to_dict(plain),
        "model_config": model,
        "samples": job.samples,
        "weights": start.fingerprint(job),
        "data": fingerprint(source),
    }
    return json.loads(json.dumps(described))


def read_run(output: Path) -> dict[str, Any]:
    """run.json of an earlier part of this run; {} if it is missing or unreadable."""
    try:
        found = json.loads((output / RUN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_same_run(output: Path, config: TrainConfig, described: Mapping[str, Any]) -> list[str]:
    """Raise ConfigError if the checkpoints in `output` are another run's; returns other changes since."""
    folder = output / CHECKPOINTS
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    if not config.checkpoint.resume:
        raise ConfigError(
            f"checkpoint.resume: false, but {folder} holds the checkpoints of an earlier run: wanted another output, "
            "or true to go on with it"
        )
    known = read_run(output)
    if not known:
        logger.warning("%s: no run description that can be read: whether this is the same run is unknown", output / RUN)
        return []
    before, now = _comparable(known), _comparable(described)
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        lines = [f"{key}: {_short(before.get(key))}, now {_short(now[key])}" for key in differing]
        raise ConfigError(f"{output}: holds another run: wanted a new output, or its values of\n" + "\n".join(lines))
    old, new = flatten(known.get("config", {}), "."), flatten(described["config"], ".")
    return [
        f"{key}: {old[key]!r}, now {new[key]!r}"
        for key in new
        if key in old and old[key] != new[key] and not key.startswith(_FREE)
    ]


def _comparable(described: Mapping[str, Any]) -> dict[str, Any]:
    config = described.get("config", {})
    values: dict[str, Any] = {}
    for key in _FIXED:
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        values[key] = value
    values["data.train"] = [Path(path).name for path in values["data.train"] or ()]  # the data may have been moved
    values["ema"], values["loss.anchors"] = values["ema"] is not None, values["loss.anchors"] is not None
    values["samples"], values["data.train, its content"] = described.get("samples"), described.get("data")
    values["model.init, its weights"] = described.get("weights")
    return values | {f"model: {key}": value for key, value in flatten(described.get("model_config", {}), ".").items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
