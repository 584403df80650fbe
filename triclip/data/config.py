"""The data's part of a run's configuration: the sections `data` and `data.augment`, a process, a batch.

`triclip.train.config` holds the rest of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("auto", "webdataset", "table", "datasets", "arrayrecord", "coco")

# One process's rows of a step, NumPy, the same bytes for every backend:
#   pixel_values  float32 [b, C, h, w]
#   input_ids     int32 [b, S], padded behind the end token to the model's length; no mask, the tower is causal
#   patches       int32 [b, K], only with patch_dropout: the patches to compute, ascending, from 0
#   sample        int32 [b], only with anchors: the number of the sample in the training set
Batch: TypeAlias = "Mapping[str, np.ndarray]"


@dataclass(frozen=True)
class Process:
    """This process's index and the number of processes. Each has an equal share of a global batch's rows."""

    index: int
    count: int


@dataclass
class AugmentSection:
    """Augmentation of training pictures, besides resizing to the model's size. Random draws depend only on the seed.

    crop_scale: area of the random crop as a share of the picture's, from and to; [1, 1] is the plain centre crop.
    crop_ratio: width over height of the crop, from and to.
    flip, grayscale: probabilities.
    color_jitter: [brightness, contrast, saturation, hue], each the largest change; hue in turns, at most 0.5.
    rotate: the largest angle in degrees, in both directions.
    background: the colour behind transparent pixels: "white", "black", or "random" (white for half of the pictures, a
        random colour for the others).
    tint: probability that a drawing of one colour on transparent ground, as most icons are, gets a random one. Above 0,
        such a drawing also turns black or white where its colour would be lost in the background.
    """

    crop_scale: list[float] = field(default_factory=lambda: [0.9, 1.0])
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333333333333333])
    flip: float = 0.0
    grayscale: float = 0.0
    color_jitter: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    rotate: float = 0.0
    background: str = "white"
    tint: float = 0.0


@dataclass
class DataSection:
    """The source of image-text pairs.

    train: paths or patterns; one format for all. Relative to the config file.
    format: "webdataset" (.tar), "table" (CSV, TSV, JSONL, parquet beside the pictures, or a folder of pictures with a
        .txt beside each), "datasets" (a folder written by Hugging Face `save_to_disk`), "arrayrecord" (tf.train.Example
        records), "coco" (captions_<split>.json beside the pictures), or "auto" (by suffix and contents).
    image_key, caption_key: column, suffix or feature; None: the usual ones. Either may hold several per sample, of
        which each epoch draws one.
    separator: between the fields of a CSV: "" for what the header shows (comma, semicolon, tab or bar).
    batch_size: pairs per step over all processes and devices; also the size of the contrastive loss.
    skip_shards: how many shards (.tar, .array_record, .parquet) may be missing or damaged: they are skipped and named
        in the log. A resumed run needs the same ones.
    index: where the places of samples in tar shards are cached, so that only the first start reads all headers: a
        folder, "auto" (the user's cache, for sets of 64 MB and more), "" for no cache. Processes may share it.
    workers: processes that decode, tokenise and augment; 0 for threads of this one. A script with workers needs the
        `if __name__ == "__main__":` of Python's multiprocessing.
    shuffle: a new order per epoch, cut into whole batches; false: cyclically in the order of the data.
    """

    train: list[str] = field(default_factory=list)
    format: str = "auto"
    image_key: str | None = None
    caption_key: str | None = None
    separator: str = ""
    batch_size: int = 256
    skip_shards: int = 10
    index: str = "auto"
    workers: int = 0
    shuffle: bool = True
    augment: AugmentSection = field(default_factory=AugmentSection)


class PipelineConfig(Protocol):
    """The part of a run's configuration that `open_pipeline` reads, as in a `triclip.train.TrainConfig`.

    model: its `patch_dropout`. loss: its `anchors`.
    """

    seed: int
    data: DataSection
    model: Any
    loss: Any
