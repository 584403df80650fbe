"""The interface of all formats of image-text data: samples, by number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clip_core.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
PARTS = ("images", "captions")  # of a sample
FINGERPRINTED = 64  # samples


@dataclass(frozen=True)
class Sample:
    """One record.

    name: for logs: its file, and the place in it.
    images: encoded pictures, as bytes or as the path of a file (read when needed); each epoch draws one.
    captions: non-empty texts; each epoch draws one. May be missing if labels were asked for.
    label: class number or class name; None unless asked for.
    """

    name: str
    images: Sequence[bytes | str]
    captions: Sequence[str] = field(default_factory=list)
    label: int | str | None = None


@dataclass(frozen=True)
class Keys:
    """What to read of every sample, and the names (of columns, suffixes or features) it is kept under.

    image, caption: None for the usual names.
    label: None for no labels, "" for the usual names.
    needs: the parts that every sample must have, of "images" and "captions".
    separator: between the fields of a CSV; None: a tab in a .tsv, else the one that the header shows.
    """

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    needs: frozenset[str] = frozenset(PARTS)
    separator: str | None = None


class Source(ABC):
    """Random access to samples. Can be pickled, and is thread-safe.

    `source[i]` raises DataError for a broken sample; the caller decides how to handle it. `label_names`: the names of
    label numbers if the data have them, else None. `damage`: losses in files opened with `salvage`. `skipped_shards`:
    missing or damaged shards, if they are allowed.
    """

    label_names: list[str] | None = None
    damage: Sequence[str] = ()
    skipped_shards: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> Sample: ...

    @abstractmethod
    def name(self, number: int) -> str:
        """The name of sample `number` in messages, broken or not."""

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))


def fingerprint(source: Source) -> str:
    """A digest of the data's size and of samples spread over them, independent of their path."""
    digest = hashlib.blake2b(str(len(source)).encode(), digest_size=12)
    for place in range(min(FINGERPRINTED, len(source))):
        try:
            sample = source[place * len(source) // min(FINGERPRINTED, len(source))]
            parts = [image if isinstance(image, bytes) else Path(image).read_bytes() for image in sample.images]
            parts += [caption.encode() for caption in sample.captions]
        except (DataError, OSError):
            parts = [b"broken"]
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
