"""What tables of every kind have in common: columns chosen by name, and a row made a sample."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from .fields import CAPTIONS, IMAGES, LABELS, as_captions, as_images, as_label, captions_if_any, choose, first_present
from .source import PARTS, Sample, Source


class TableRows(Source):
    """A table. Whoever derives from it calls `choose_columns` with the columns found, then `sample` with a row."""

    def __init__(
        self,
        image_key: str | None,
        caption_key: str | None,
        label_key: str | None,
        needs: Collection[str] = PARTS,
    ) -> None:
        self.image_key, self.caption_key, self.label_key = image_key, caption_key, label_key
        self.needs = frozenset(needs)
        self.images: list[str] = []
        self.captions: list[str] = []
        self.label: str | None = None

    def choose_columns(self, found: Sequence[str], where: Any) -> None:
        """Fix the columns to read. Raises DataError that lists those there are."""
        if "images" in self.needs or self.image_key:
            self.images = choose("image", self.image_key, IMAGES, found, where)
        if self.label_key is not None:
            self.label = choose("label", self.label_key or None, LABELS, found, where)[0]
        others = [column for column in found if column not in (*self.images, self.label)]
        self.captions = first_present(CAPTIONS, others)
        if self.caption_key or (self.label_key is None and "captions" in self.needs):
            others = [column for column in found if column not in self.images] or list(found)
            self.captions = choose("caption", self.caption_key, CAPTIONS, others, where)

    def sample(self, row: dict[str, Any], folder: str, name: str) -> Sample:
        """A row's values as a sample. Raises DataError when they can't be."""
        label = None
        if self.label is not None:
            label = as_label(row.get(self.label), name)
        captions: list[str] = []
        texts = [row.get(key) for key in self.captions]
        if label is None and "captions" in self.needs:
            captions = as_captions(texts, name)
        elif any(texts):
            captions = as_captions(texts, name) if "captions" in self.needs else captions_if_any(texts, name)
        pictures = [row.get(key) for key in self.images]
        images = as_images(pictures, folder, name) if "images" in self.needs or any(pictures) else []
        return Sample(name, images, captions, label)
