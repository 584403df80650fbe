"""Rows of a batch: reading samples, drawing one picture and one caption of each, decoding, augmenting, tokenising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_core.errors import ConfigError, DataError, ImageError, InputError

from .order import AUGMENT, CHOICE, PATCHES, Order
from .pictures import PictureReader
from .source import Source

# A sample that raises one of these is replaced; any other exception is a bug and ends the run.
BROKEN = (DataError, ImageError, InputError, OSError)
MOST_BROKEN = 1000  # in a row: then the data count as unusable


@dataclass(frozen=True)
class Broken:
    """A sample that could not be used, and why."""

    number: int
    name: str
    reason: str


class Texts:
    """Captions to ids, padded behind the end token to `length`: int32 [N, length]."""

    def __init__(self, tokenizer: Any, length: int | None = None) -> None:
        length = length or tokenizer.model_max_length
        if length is None or length > 1 << 16:
            raise ConfigError("tokenizer: wanted a model_max_length, or the model's configuration, found neither")
        self.tokenizer, self.length = tokenizer, int(length)

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Ids of captions, truncated to the model's length with the end token kept."""
        if not captions:
            return np.empty((0, self.length), np.int32)
        ids = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            padding_side="right",
            return_attention_mask=False,
            return_tensors="np",
        )["input_ids"]
        return np.asarray(ids, np.int32)


@dataclass
class Patches:
    """The number of patches of a picture to compute (FLIP)."""

    count: int
    kept: int

    @classmethod
    def of(cls, share_dropped: float, model_config: Any) -> Patches | None:
        """None if no patches are dropped. At least one is kept, as in open_clip."""
        if share_dropped <= 0:
            return None
        if model_config is None:
            raise ConfigError("model.patch_dropout: wanted the model's configuration beside it, found none")
        vision = model_config.vision_config
        count = (vision.image_size // vision.patch_size) ** 2
        return cls(count, max(1, math.floor(count * (1 - share_dropped) + 1e-9)))

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """int32 [kept], ascending."""
        return np.sort(random.permutation(self.count)[: self.kept]).astype(np.int32)


class Rows:
    """Makes rows of a step. Pickled to worker processes: it has no open file and no framework."""

    def __init__(
        self,
        source: Source,
        order: Order,
        pictures: PictureReader,
        texts: Texts,
        patches: Patches | None,
        numbered: bool,
    ) -> None:
        self.source, self.order, self.pictures, self.texts = source, order, pictures, texts
        self.patches, self.numbered = patches, numbered
        self._sound: dict[int, bool] = {}  # results of `_is_sound`

    def make(self, step: int, rows: Sequence[int]) -> tuple[dict[str, np.ndarray], list[Broken]]:
        """The batch's arrays for some rows of a step's global batch, and the broken samples found.

        Raises DataError if all samples tried are broken.
        """
        pixels = np.empty((len(rows), *self.pictures.shape), np.float32)
        captions, numbers, broken = [], [], []  # type: list[str], list[int], list[Broken]
        for place, row in enumerate(rows):
            caption, number = self._fill(pixels[place], step, row, broken)
            captions.append(caption)
            numbers.append(number)
        batch = {"pixel_values": pixels, "input_ids": self.texts.encode(captions)}
        if self.patches is not None:
            drawn = [self.patches.draw(self.order.random(step, row, PATCHES)) for row in rows]
            batch["patches"] = np.stack(drawn)
        if self.numbered:
            batch["sample"] = np.array(numbers, np.int32)
        return batch, broken

    def _fill(self, out: np.ndarray, step: int, row: int, broken: list[Broken]) -> tuple[str, int]:
        """Write a picture into `out`; returns its caption and the number of its sample."""
        for failed, number in enumerate(self.order.candidates(step, row)):
            if failed == MOST_BROKEN:
                last = broken[-1].reason
                raise DataError(f"wanted a usable sample, found {failed} broken ones in a row, the last: {last}")
            try:
                return self._read(out, step, row, number), number
            except BROKEN as error:
                broken.append(Broken(number, self.source.name(number), str(error)))
        number = self._spare(step, row, broken[-1])
        return self._read(out, step, row, number), number

    def _read(self, out: np.ndarray, step: int, row: int, number: int) -> str:
        """Write a picture of sample `number` into `out`; returns a caption of it. Raises one of BROKEN."""
        sample = self.source[number]
        random = self.order.random(step, row, CHOICE)
        caption = sample.captions[int(random.integers(len(sample.captions)))]
        picture = sample.images[int(random.integers(len(sample.images)))]
        self.pictures.read(picture, sample.name, out, self.order.random(step, row, AUGMENT))
        return caption

    def _spare(self, step: int, row: int, broken: Broken) -> int:
        """The sample for a row whose candidates are all broken: one that no other row of the batch has.

        This needs every row's first sound candidate, which is quick because the set is small, and equal in all
        processes. Raises DataError if fewer sound samples are left than the batch has rows.
        """
        rows = range(self.order.batch_size)
        first = {r: next((n for n in self.order.candidates(step, r) if self._is_sound(step, r, n)), None) for r in rows}
        taken = set(first.values())
        free = (number for number in self.order.all(step) if number not in taken)
        for other in rows:
            if first[other] is None:
                number = next((n for n in free if self._is_sound(step, other, n)), None)
                if number is None:
                    break
                if other == row:
                    return number
                taken.add(number)
        raise DataError(
            f"data.batch_size: wanted at most the number of usable samples ({len(taken - {None})}), found "
            f"{self.order.batch_size}: a sample twice in a batch would count as its own negative; one of the broken "
            f"ones: {broken.name} ({broken.reason})"
        )

    def _is_sound(self, step: int, row: int, number: int) -> bool:
        """Whether the sample can be read for this row: cached for one picture and caption, tried for several."""
        if number in self._sound:
            return self._sound[number]
        sound, alike = True, True  # whether every draw of it is the same
        try:
            alike = len(self.source[number].images) == 1
            self._read(np.empty(self.pictures.shape, np.float32), step, row, number)
        except BROKEN:
            sound = False
        if alike:
            self._sound[number] = sound
        return sound
