"""The loop's interface to a backend: `training.py` in `triclip.train.engines.torch_`, `tf_` and `flax_` has a `start`
and an `Engine`. Everything except tensors is decided once, outside of them, in this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.config import Batch, Process
from .config import TrainConfig

__all__ = ["Batch", "Engine", "Job", "Process", "Rule", "TrainingModule"]


@dataclass(frozen=True)
class Rule:
    """How one parameter is optimised. `lr_scale` multiplies the step's rate; locked parameters never change."""

    lr_scale: float
    decay: bool
    trainable: bool


@dataclass
class Job:
    """Everything an engine needs to start.

    config: the whole configuration, validated.
    model_config: clip_core.CLIPConfig, with the run's image size.
    weights: canonical name -> float32 array, read on access; positions already resampled.
    rules: canonical name, "logit_bias" (sigmoid) and "anchors" -> Rule (`rules.parameter_rules`).
    samples: rows of the anchors' table; 0 without anchors.
    logit_bias: the sigmoid's initial bias.
    """

    config: TrainConfig
    model_config: Any
    weights: Mapping[str, np.ndarray]
    rules: Mapping[str, Rule]
    samples: int
    logit_bias: float = -10.0


class Engine(Protocol):
    """One process's part of a training run: parameters, optimiser, average, and their checkpoints.

    Parameters beside the model's: "logit_bias", a scalar with the initial value `job.logit_bias`, with kind "sigmoid"
    (whose logit_scale starts at ln 10 for fresh weights); "anchors" [samples, P] with anchors.

    A step: gradients of the mean loss over the global batch; `grad_norm` over all trainable parameters; clipping to
    clip_norm; AdamW (bias-corrected, eps added to the root, decay lr * lr_scale * weight_decay * parameter decoupled);
    logit_scale clamped to [0, max_logit_scale]; average = d * average + (1 - d) * parameters.
    """

    step: int  # optimiser steps done
    devices: int  # of the whole run, over all processes: for MFU

    def __init__(self, job: Job) -> None: ...

    def train_step(self, batch: Batch, lr: float) -> Mapping[str, Any]:
        """One step at rate `lr`. Returns loss, logit_scale (its exp), grad_norm (and logit_bias) as device scalars,
        which the loop converts to floats only for printing."""

    def save(self, data_state: Mapping[str, Any]) -> None:
        """Begin to write checkpoint number `step` under output/checkpoints, whole or not at all, with the data's
        position (JSON, equal in every process); returns when training may continue. Keeps `checkpoint.keep`."""

    def restore(self) -> Mapping[str, Any] | None:
        """Load the newest readable checkpoint, on any number of devices; sets `step`. Damaged ones are named in the log
        and skipped. Returns its data state, or None if there is no checkpoint. Raises CheckpointError for another
        architecture, naming the differences, and if all are damaged."""

    def wait(self) -> None:
        """Wait until all saves are on disk. Raises OSError, naming the path, if one could not be written."""

    def stopping(self) -> bool:
        """Whether a signal (SIGTERM, Ctrl-C) asks the run to stop: the same answer in every process at the same step.
        Called after every step, and during an evaluation after every batch, equally often in every process."""

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """This process's rows [b, C, h, w] -> unit rows [b, P] float32, with the averaged weights if there are any.
        Every process calls it equally often; b may differ between processes, and may be 0."""

    def text_features(self, input_ids: np.ndarray) -> np.ndarray:
        """As `image_features`, from [b, S]."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all processes, in order of the processes, in every process. Row counts may differ."""

    def weights(self, average: bool) -> Mapping[str, np.ndarray]:
        """Canonical name -> whole float32 array (with `logit_bias`, `anchors`), in every process."""

    def export(self, folder: Path, average: bool) -> None:
        """Write config.json and model.safetensors in the standard layout; the first process writes, all wait."""

    def close(self) -> None:
        """Finish all saves and leave the group of processes."""


class TrainingModule(Protocol):
    """The interface of `triclip/train/engines/<backend>_/training.py`."""

    Engine: type[Engine]

    def start(self, config: TrainConfig) -> Process:
        """Join the group of processes if the environment describes one (jax.distributed, torchrun, TF_CONFIG),
        choose devices, check `mesh` against them. Raises ConfigError with both numbers."""
        ...
