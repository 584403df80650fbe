"""Common to all tables: choosing columns by name, and making a row a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .fields import CAPTIONS, IMAGES, LABELS, as_captions, as_images, as_label, captions_if_any, choose, first_present
from .files import Parts
from .source import Keys, Sample, Source


class TableRows(Source):
    """A table in parts (files, row groups). Subclasses set `_parts` and call `choose_columns` with the columns found,
    then `sample` with each row that is asked for."""

    _parts: Parts

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.images: list[str] = []
        self.captions: list[str] = []
        self.label: str | None = None

    def __len__(self) -> int:
        return len(self._parts)

    def choose_columns(self, found: Sequence[str], where: Any) -> None:
        """Choose the columns to read. Raises DataError, which lists the existing columns."""
        if "images" in self.keys.needs or self.keys.image:
            self.images = choose("image", self.keys.image, IMAGES, found, where)
        if self.keys.label is not None:
            self.label = choose("label", self.keys.label or None, LABELS, found, where)[0]
        others = [column for column in found if column not in (*self.images, self.label)]
        self.captions = first_present(CAPTIONS, others)
        if self.keys.caption or (self.keys.label is None and "captions" in self.keys.needs):
            others = [column for column in found if column not in self.images] or list(found)
            self.captions = choose("caption", self.keys.caption, CAPTIONS, others, where)

    def sample(self, row: dict[str, Any], folder: str, name: str) -> Sample:
        """A row's values as a sample. Raises DataError for values of a wrong type."""
        label = None
        if self.label is not None:
            label = as_label(row.get(self.label), name)
        captions: list[str] = []
        texts = [row.get(key) for key in self.captions]
        if label is None and "captions" in self.keys.needs:
            captions = as_captions(texts, name)
        elif any(texts):
            captions = as_captions(texts, name) if "captions" in self.keys.needs else captions_if_any(texts, name)
        pictures = [row.get(key) for key in self.images]
        images = as_images(pictures, folder, name) if "images" in self.keys.needs or any(pictures) else []
        return Sample(name, images, captions, label)
