"""Checks of a configuration's values: ranges and choices in one table, and contradictions between keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from clip_core.errors import ConfigError

from ..data.config import FORMATS
from .config import TrainConfig

Where = Callable[[str], str]
Test = Callable[[Any], bool]
_LARGEST = 2**31 - 1  # largest integer: steps and sizes are 32-bit in the frameworks


def _whole(lowest: int, highest: int = _LARGEST) -> tuple[str, Test]:
    return f"an integer from {lowest} to {highest}", lambda value: lowest <= value <= highest


def _one_of(*choices: str) -> tuple[str, Test]:
    return f"one of {', '.join(choices)}", lambda value: value in choices


_SHARE = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
_BELOW_ONE = ("a number from 0 to less than 1", lambda value: 0 <= value < 1)
_POSITIVE = ("a number above 0", lambda value: value > 0)
_NOT_NEGATIVE = ("a number from 0", lambda value: value >= 0)
_FORMATS = _one_of(*FORMATS)
_DEVICES = ("an integer from 1, or -1 for the rest", lambda value: value == -1 or 1 <= value <= _LARGEST)
_FILLED = ("a text", lambda value: bool(value.strip()))
_TEXTS = ("texts that are not empty", lambda value: all(item.strip() for item in value))

# key -> (wanted, test); None means a missing key, which the type checks
_RULES: dict[str, tuple[str, Test]] = {
    "output": ("a folder for the results", lambda value: bool(value.strip())),
    "steps": _whole(1),
    "backend": _one_of("torch", "tf", "flax"),
    "seed": _whole(0),
    "precision": _one_of("fp32", "bf16", "auto"),
    "accumulate": _whole(1),
    "ema": _BELOW_ONE,
    "compile_cache": _FILLED,
    "model.init": _FILLED,
    "model.tokenizer": _FILLED,
    "model.image_size": _whole(1, 2**16),
    "model.lock": ('"vision" or "text"', lambda value: set(value) <= {"vision", "text"}),
    "model.gradient_checkpointing": _one_of("none", "full", "dots"),
    "model.patch_dropout": _BELOW_ONE,
    "data.train": ("paths or patterns of the training data", lambda value: bool(value) and _TEXTS[1](value)),
    "data.format": _FORMATS,
    "data.batch_size": _whole(1),
    "data.skip_shards": _whole(0),
    "data.workers": _whole(0, 4096),
    "data.augment.crop_scale": (
        "two shares of the area, [low, high], above 0 and at most 1",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
    ),
    "data.augment.crop_ratio": (
        "two ratios, [low, high], above 0",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1],
    ),
    "data.augment.flip": _SHARE,
    "data.augment.grayscale": _SHARE,
    "data.augment.tint": _SHARE,
    "data.augment.color_jitter": (
        "[brightness, contrast, saturation, hue], from 0 to 1, hue to 0.5",
        lambda value: len(value) == 4 and all(0 <= item <= 1 for item in value) and value[3] <= 0.5,
    ),
    "data.augment.rotate": ("degrees from 0 to 180", lambda value: 0 <= value <= 180),
    "data.augment.background": _one_of("white", "black", "random"),
    "loss.kind": _one_of("softmax", "sigmoid"),
    "loss.mode": _one_of("dense", "chunked", "ring"),
    "loss.chunk": _whole(1),
    "loss.label_smoothing": _BELOW_ONE,
    "loss.logit_scale": _NOT_NEGATIVE,
    "loss.anchors.image_weight": _NOT_NEGATIVE,
    "loss.anchors.text_weight": _NOT_NEGATIVE,
    "loss.anchors.scale": _POSITIVE,
    "optimizer.lr": _NOT_NEGATIVE,
    "optimizer.warmup": _whole(0),
    "optimizer.schedule": _one_of("cosine", "constant", "wsd"),
    "optimizer.min_lr": _NOT_NEGATIVE,
    "optimizer.decay_fraction": _SHARE,
    "optimizer.betas": (
        "two numbers from 0 to less than 1",
        lambda value: len(value) == 2 and all(0 <= item < 1 for item in value),
    ),
    "optimizer.eps": _POSITIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.layer_decay": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "optimizer.clip_norm": _POSITIVE,
    "optimizer.max_logit_scale": _NOT_NEGATIVE,
    "mesh.data": _DEVICES,
    "mesh.fsdp": _DEVICES,
    "mesh.tensor": _DEVICES,
    "checkpoint.every": _whole(1),
    "checkpoint.keep": _whole(1),
    "evaluate.every": _whole(0),
    "evaluate.batch_size": _whole(1),
    "evaluate.format": _FORMATS,
    "evaluate.retrieval": _TEXTS,
    "evaluate.zero_shot": _TEXTS,
    "evaluate.labels": _FILLED,
    "evaluate.templates": ("sentences with {} for the label", lambda value: all("{}" in item for item in value)),
    "log.every": _whole(1),
    "log.peak_flops": _POSITIVE,
}


def check(config: TrainConfig, where: Where) -> None:
    """Raise ConfigError for the first invalid value. `where` adds the file to a dotted key."""
    for key, (wanted, test) in _RULES.items():
        if key.startswith("loss.anchors.") and config.loss.anchors is None:
            continue
        value = attrgetter(key)(config)
        if value is not None and not test(value):
            found = "none" if value == "" or value == [] else repr(value)
            raise ConfigError(f"{where(key)}: wanted {wanted}, found {found}")
    _check_patterns(config, where)
    for key, problem in _contradictions(config):
        raise ConfigError(f"{where(key)}: {problem}")


def _check_patterns(config: TrainConfig, where: Where) -> None:
    for pattern in config.optimizer.no_decay:
        try:
            re.compile(pattern)
        except re.error as error:
            message = f"wanted regular expressions, found {pattern!r}: {error}"
            raise ConfigError(f"{where('optimizer.no_decay')}: {message}") from error


def _contradictions(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """(key, error) for all checks of more than one key."""
    yield from _model_and_data(config)
    yield from _loss_and_optimizer(config)
    yield from _devices(config)
    yield from _evaluation(config)


def _model_and_data(config: TrainConfig) -> Iterator[tuple[str, str]]:
    model, batch = config.model, config.data.batch_size
    if model.init is not None and model.config is not None:
        yield "model.config", f"wanted either model.init or model.config, found both (init {model.init!r})"
    if model.init is None and model.config is None:
        yield "model.init", "wanted model.init (a checkpoint) or model.config (fresh weights), found neither"
    if not (model.config is None or isinstance(model.config, str | dict) or hasattr(model.config, "vision_config")):
        yield "model.config", f"wanted a CLIP config as keys and values, or its file, found {model.config!r}"
    for tower, groups in model.unlocked_groups().items():
        if groups < 0:
            yield f"model.lock.{tower}.unlocked_groups", f"wanted an integer from 0, found {groups}"
    if batch % config.accumulate:
        yield "accumulate", f"wanted a divisor of data.batch_size {batch}, found {config.accumulate}"


def _loss_and_optimizer(config: TrainConfig) -> Iterator[tuple[str, str]]:
    loss, optimizer = config.loss, config.optimizer
    if loss.logit_bias is not None and loss.kind != "sigmoid":
        yield "loss.logit_bias", f"wanted none with loss.kind {loss.kind}, found {loss.logit_bias}"
    if loss.logit_scale is not None and loss.logit_scale > optimizer.max_logit_scale:
        yield (
            "loss.logit_scale",
            (
                f"wanted at most optimizer.max_logit_scale {optimizer.max_logit_scale} (logarithms), "
                f"found {loss.logit_scale}"
            ),
        )
    if loss.label_smoothing > 0 and loss.kind == "sigmoid":
        yield "loss.label_smoothing", f"wanted 0 with loss.kind sigmoid, found {loss.label_smoothing}"
    if loss.label_smoothing > 0 and loss.mode != "dense":
        yield "loss.label_smoothing", f"wanted 0 with loss.mode {loss.mode}, found {loss.label_smoothing}"
    if optimizer.min_lr > optimizer.lr:
        yield "optimizer.min_lr", f"wanted at most optimizer.lr {optimizer.lr}, found {optimizer.min_lr}"
    decaying = round(optimizer.decay_fraction * config.steps) if optimizer.schedule == "wsd" else 0
    if optimizer.warmup + decaying > config.steps:
        rest = f" less the {decaying} of decay" if decaying else ""
        yield "optimizer.warmup", f"wanted at most steps {config.steps}{rest}, found {optimizer.warmup}"


def _devices(config: TrainConfig) -> Iterator[tuple[str, str]]:
    mesh, backend = config.mesh, config.backend
    sizes = [mesh.data, mesh.fsdp, mesh.tensor]
    if sizes.count(-1) > 1:
        yield "mesh", f"wanted -1 at most once, for the rest of the devices, found {sizes} for data, fsdp, tensor"
    if backend == "tf" and mesh.fsdp != 1:
        yield "mesh.fsdp", f"wanted 1 with backend tf, found {mesh.fsdp}"
    if backend != "flax" and mesh.tensor != 1:
        yield "mesh.tensor", f"wanted 1 with backend {backend}, found {mesh.tensor}"


def _evaluation(config: TrainConfig) -> Iterator[tuple[str, str]]:
    section = config.evaluate
    if section.every > 0 and not section.retrieval and not section.zero_shot:
        yield "evaluate.every", f"wanted 0 without evaluate.retrieval and evaluate.zero_shot, found {section.every}"
    if section.labels is not None and not section.zero_shot:
        yield "evaluate.labels", "wanted evaluate.zero_shot, the data that these labels are for, found none"
