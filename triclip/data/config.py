"""What the data ask of a run's configuration: its sections `data` and `data.augment`, a process, a batch.

`triclip.train.config` holds the rest of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("auto", "webdataset", "table", "datasets", "arrayrecord")

# One process's rows of a step, NumPy, the same bytes whichever backend asks:
#   pixel_values  float32 [b, C, h, w]
#   input_ids     int32 [b, S], padded behind the end token to the model's length; no mask, the tower is causal
#   patches       int32 [b, K], only with patch_dropout: which patches are looked at, ascending, from 0
#   sample        int32 [b], only with anchors: the number of the sample in the training set
Batch: TypeAlias = "Mapping[str, np.ndarray]"


@dataclass(frozen=True)
class Process:
    """This process among those of the run. Rows of a global batch belong to processes in equal shares."""

    index: int
    count: int


@dataclass
class AugmentSection:
    """What is done to a training picture, besides resizing to the model's size. All draws depend on the seed alone.

    crop_scale: area of the random crop, as shares of the picture; [1, 1] is the plain centre crop.
    crop_ratio: its width over height.
    flip, grayscale: probabilities.
    color_jitter: [brightness, contrast, saturation, hue], each the largest change; hue in turns, at most 0.5.
    rotate: degrees, at most, either way.
    background: what shows through transparent pixels: "white", "black", or "random" (white for half of the
        pictures, any colour for the others).
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
    """Where image-text pairs come from.

    train: paths or patterns; one format for all. Relative to the config file.
    format: "webdataset" (.tar), "table" (CSV, TSV, JSONL, parquet beside the pictures, or a folder of pictures with a
        .txt beside each), "datasets" (a folder written by Hugging Face `save_to_disk`), "arrayrecord" (tf.train.Example
        records), or "auto" (by suffix and contents).
    image_key, caption_key: column, suffix or feature; None: the usual ones. Either may hold several per sample, of
        which each epoch draws one.
    batch_size: pairs per step over all processes and devices; also the size of the contrastive loss.
    skip_shards: how many shards (.tar, .array_record, .parquet) may be missing or damaged: they are passed over and
        named in the log. A run goes on only with the same ones.
    workers: processes that decode, tokenise and augment; 0 for threads of this one. A script that asks for them needs
        the `if __name__ == "__main__":` of Python's multiprocessing.
    shuffle: a fresh order per epoch, cut into whole batches; false: round and round in the order of the data.
    """

    train: list[str] = field(default_factory=list)
    format: str = "auto"
    image_key: str | None = None
    caption_key: str | None = None
    batch_size: int = 256
    skip_shards: int = 10
    workers: int = 0
    shuffle: bool = True
    augment: AugmentSection = field(default_factory=AugmentSection)


class PipelineConfig(Protocol):
    """What `open_pipeline` reads of a run's configuration: a `triclip.train.TrainConfig` is one.

    model: its `patch_dropout`. loss: its `anchors`.
    """

    seed: int
    data: DataSection
    model: Any
    loss: Any
