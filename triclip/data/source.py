"""What every format of image-text data gives: samples, by number."""

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

    name: for logs: its file, and where in it.
    images: encoded pictures, as bytes or as the path of a file (read when it is needed); one is drawn per epoch.
    captions: texts, none of them empty; one is drawn per epoch. May be missing where a label was asked for.
    label: class number or class name; None where none was asked for.
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
    """

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    needs: frozenset[str] = frozenset(PARTS)


class Source(ABC):
    """Random access to samples. Can be pickled, and read from several threads.

    `source[i]` raises DataError for a sample that is broken; whoever asks decides what to do about it.
    `label_names`: the names of label numbers where the data hold them, else None. `damage`: what was lost of files that
    were opened with `salvage`. `skipped_shards`: the shards that were missing or damaged, where that is allowed.
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
        """What to call sample `number` in a message, broken or not."""

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))


def fingerprint(source: Source) -> str:
    """What tells these data from others: a digest of their size and of samples all over them, wherever they lie."""
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
