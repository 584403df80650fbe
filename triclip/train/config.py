"""The schema of a training run, for every backend, as dataclasses for scripts and files.

`load_config` reads YAML or TOML. Every key is checked: its name, its type, its range; errors name the file and the
dotted key. Defaults are those of open_clip's published recipes (AdamW 0.9/0.98, eps 1e-6, lr 5e-4, decay 0.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..data.config import AugmentSection, DataSection

__all__ = [
    "AnchorSection",
    "AugmentSection",
    "CheckpointSection",
    "DataSection",
    "EvaluateSection",
    "LockSection",
    "LogSection",
    "LossSection",
    "MeshSection",
    "ModelSection",
    "OptimizerSection",
    "TrainConfig",
]


@dataclass
class LockSection:
    """The part of a locked tower that is still trained.

    unlocked_groups: groups from the top, as open_clip counts them: the projection; the last layer with the norm after
        it; each layer below; the embeddings with the norm before the layers. 0 locks the whole tower.
    """

    unlocked_groups: int = 0


@dataclass
class ModelSection:
    """The model to train.

    init: a checkpoint to start from: "emoji", a folder, a file or a hub name. Exactly one of `init` and `config`.
    config: a CLIPConfig as a mapping, or the path of its JSON file: fresh weights, drawn from `seed`, equal in every
    backend.
    tokenizer: folder of the tokenizer; default the checkpoint's own, or OpenAI's vocabulary.
    image_size: pixels; if it differs from the checkpoint's, the position embedding is resampled (bicubic).
        lock: towers that are not trained, projection included, so that an index of their vectors stays valid: "vision",
    "text" (LiT); or, to train the upper part of one, a mapping: {vision: {unlocked_groups: 2}}.
    gradient_checkpointing: "none", "full", or "dots" (Flax: keep the results of matrix products; elsewhere as "full").
    patch_dropout: share of the patches dropped in training, [0, 1) (FLIP).
    """

    init: str | None = None
    config: Any = None
    tokenizer: str | None = None
    image_size: int | None = None
    lock: list[str] | dict[str, LockSection] = field(default_factory=list)
    gradient_checkpointing: str = "none"
    patch_dropout: float = 0.0

    def unlocked_groups(self) -> dict[str, int]:
        """Locked tower -> the number of its groups that are trained."""
        if isinstance(self.lock, dict):
            return {tower: section.unlocked_groups for tower, section in self.lock.items()}
        return dict.fromkeys(self.lock, 0)


@dataclass
class AnchorSection:
    """A learnt vector for each sample of the training set, as a class of its pictures and texts.

    For small sets with many pictures and captions per sample: every step sees all negatives. Not exported.
    """

    image_weight: float = 1.0
    text_weight: float = 0.5
    scale: float = 16.0


@dataclass
class LossSection:
    """The contrastive loss.

    kind: "softmax" (CLIP's InfoNCE, both ways) or "sigmoid" (SigLIP, with a learnt bias).
    mode: "dense" (the matrix of all pairs), "chunked" (streamed in blocks of `chunk` rows), "ring" (chunked, with the
        texts passed around the devices, so that no device holds all). All are equal up to rounding.
    label_smoothing: softmax only, dense only.
    logit_scale: the parameter's initial value (a logarithm); None: the checkpoint's, or for fresh weights the config's,
        and with kind "sigmoid" ln 10.
    logit_bias: the initial bias of kind "sigmoid"; None: from `training.json` beside the initial model, else -10.
    """

    kind: str = "softmax"
    mode: str = "dense"
    chunk: int = 1024
    label_smoothing: float = 0.0
    logit_scale: float | None = None
    logit_bias: float | None = None
    anchors: AnchorSection | None = None


@dataclass
class OptimizerSection:
    """AdamW and its schedule.

    lr: the peak rate, after `warmup` steps of linear rise. schedule: "cosine" to `min_lr`; "constant"; "wsd" (flat,
        then linear to `min_lr` over the last `decay_fraction` of the steps).
    weight_decay: not applied to norms, biases, class embedding, logit scale and bias, of any rank; `no_decay` adds
        regular expressions for canonical names.
    layer_decay: a layer's rate is lr * layer_decay ** (layers above it in its tower, the final norm counted as one);
        1 for none.
    clip_norm: the largest global gradient norm; None for no clipping.
    max_logit_scale: the parameter (a logarithm) is clamped to [0, this] after every step.
    """

    lr: float = 5e-4
    warmup: int = 0
    schedule: str = "cosine"
    min_lr: float = 0.0
    decay_fraction: float = 0.3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    eps: float = 1e-6
    weight_decay: float = 0.2
    no_decay: list[str] = field(default_factory=list)
    layer_decay: float = 1.0
    clip_norm: float | None = None
    max_logit_scale: float = 4.605170185988092


@dataclass
class MeshSection:
    """Devices: data x fsdp x tensor; one may be -1 for "the rest". torch supports data and fsdp, tf only data."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass
class CheckpointSection:
    """every: steps between asynchronous saves; keep: number to keep; resume: from the newest in `output`."""

    every: int = 1000
    keep: int = 2
    resume: bool = True


@dataclass
class EvaluateSection:
    """Evaluation during training, with the averaged weights if there are any.

    every: steps; 0 for only at the end. retrieval: image-text data as in `data.train`. zero_shot: image-label data;
    labels: file of one label per line, in the order of the numbers in the data, or "imagenet" for its 1,000 names, or
    None if the data have names; templates: sentences with {} for the label; default the model's own, with labels
    "imagenet" OpenAI's 80.
    """

    every: int = 0
    batch_size: int = 256
    format: str = "auto"
    image_key: str | None = None
    retrieval: list[str] = field(default_factory=list)
    caption_key: str | None = None
    zero_shot: list[str] = field(default_factory=list)
    label_key: str | None = None
    labels: str | None = None
    templates: list[str] = field(default_factory=list)


@dataclass
class LogSection:
    """every: steps between lines; peak_flops: per device and second, for MFU; None leaves MFU out."""

    every: int = 10
    tensorboard: bool = True
    peak_flops: float | None = None


@dataclass
class TrainConfig:
    """A training run. See the sections.

    output: folder of checkpoints/, metrics.jsonl, tensorboard/, loss.png and model/ (the exported result).
    steps: optimiser steps of the whole run.
    precision: "fp32", "bf16" (computation; parameters stay fp32), or "auto": bf16 on accelerators, fp32 on CPUs.
    accumulate: number of parts of a batch. Exact: embeddings first, the loss over all, then each part's gradients.
    ema: decay of averaged weights, min(ema, (1 + step) / (10 + step)) at a step; None for none.
    compile_cache: folder for compiled programs, kept between runs (Flax).
    """

    output: str = ""
    steps: int = 0
    backend: str = "flax"
    seed: int = 0
    precision: str = "auto"
    accumulate: int = 1
    ema: float | None = None
    compile_cache: str | None = None
    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    loss: LossSection = field(default_factory=LossSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    mesh: MeshSection = field(default_factory=MeshSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    log: LogSection = field(default_factory=LogSection)
