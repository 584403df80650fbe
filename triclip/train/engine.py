"""What the loop asks of a backend: `training.py` in `triclip.train.engines.torch_`, `tf_` and `flax_` holds a `start`
and an `Engine`. Everything that is not tensors is decided outside of them, once, in this package."""

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
    """How one parameter is optimised. `lr_scale` multiplies the step's rate; a locked one is not touched at all."""

    lr_scale: float
    decay: bool
    trainable: bool


@dataclass
class Job:
    """All an engine needs to begin.

    config: the whole configuration, validated.
    model_config: clip_core.CLIPConfig, image size already the wanted one.
    weights: canonical name -> float32 array, read when asked for; positions already resampled.
    rules: canonical name, "logit_bias" (sigmoid) and "anchors" -> Rule (`rules.parameter_rules`).
    samples: rows of the anchors' table; 0 without anchors.
    logit_bias: what the sigmoid's bias begins at.
    """

    config: TrainConfig
    model_config: Any
    weights: Mapping[str, np.ndarray]
    rules: Mapping[str, Rule]
    samples: int
    logit_bias: float = -10.0


class Engine(Protocol):
    """One process's share of a training run: parameters, optimiser, average; their checkpoints.

    Extra parameters beside the model's: "logit_bias", a scalar that begins at `job.logit_bias`, with kind "sigmoid"
    (whose logit_scale then begins at ln 10 when the weights are fresh); "anchors" [samples, P] with anchors.

    A step: gradients of the mean loss over the global batch; `grad_norm` over all trainable parameters; clipping to
    clip_norm; AdamW (bias-corrected, eps added to the root, decay lr * lr_scale * weight_decay * parameter decoupled);
    logit_scale clamped to [0, max_logit_scale]; average = d * average + (1 - d) * parameters.
    """

    step: int  # optimiser steps done
    devices: int  # of the whole run, over all processes: what MFU is a share of

    def __init__(self, job: Job) -> None: ...

    def train_step(self, batch: Batch, lr: float) -> Mapping[str, Any]:
        """One step at rate `lr`. Returns loss, logit_scale (its exp), grad_norm (and logit_bias): device scalars,
        which the loop turns into floats only when it prints."""

    def save(self, data_state: Mapping[str, Any]) -> None:
        """Begin to write checkpoint number `step` under output/checkpoints, whole or not at all, with the position of
        the data (JSON, equal in every process); returns when training may go on. Keeps `checkpoint.keep`."""

    def restore(self) -> Mapping[str, Any] | None:
        """Load the newest checkpoint that can be read, on whatever devices there are now; sets `step`. Damaged ones are
        named in the log and passed over. Returns its data state, None when there is none. Raises CheckpointError when
        it is another architecture's, naming what differs, or when all are damaged."""

    def wait(self) -> None:
        """Until everything saved is on the disk. Raises OSError, naming the path, when it could not be written."""

    def stopping(self) -> bool:
        """Whether the run was asked to stop (SIGTERM, Ctrl-C): the same answer in every process at the same step.
        Asked after every step, and during an evaluation after every batch, equally often in every process."""

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """This process's rows [b, C, h, w] -> unit rows [b, P] float32, of the averaged weights where there are any.
        Every process calls it equally often; b may differ between processes, and may be 0."""

    def text_features(self, input_ids: np.ndarray) -> np.ndarray:
        """As `image_features`, from [b, S]."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Rows of all processes, in order of the processes, in each of them. Row counts may differ."""

    def weights(self, average: bool) -> Mapping[str, np.ndarray]:
        """Canonical name -> whole float32 array (with `logit_bias`, `anchors`), in every process."""

    def export(self, folder: Path, average: bool) -> None:
        """Write config.json and model.safetensors of the standard layout; the first process writes, all wait."""

    def close(self) -> None:
        """Leave the group of processes. Saves are finished first."""


class TrainingModule(Protocol):
    """What `triclip/train/engines/<backend>_/training.py` holds."""

    Engine: type[Engine]

    def start(self, config: TrainConfig) -> Process:
        """Join the group of processes when the environment describes one (jax.distributed, torchrun, TF_CONFIG),
        choose devices, check `mesh` against them. Raises ConfigError with both numbers."""
        ...
