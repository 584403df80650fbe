"""Tar shards as webdataset writes them: neighbouring members with one key are a sample."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import DataError

from .fields import (
    CAPTIONS,
    LABELS,
    as_captions,
    as_label,
    captions_if_any,
    decode_text,
    first_present,
    json_object,
    split_keys,
)
from .files import Files, MissingShards
from .source import PICTURES, Keys, Sample, Source
from .tar import BLOCK, Member, block_name, members

logger = logging.getLogger("triclip")

TEXTS = ("txt", "caption", "text")
CLASSES = ("cls", "label", "class")
JSON = "json"
IMAGE, TEXT, RECORD, LABEL = range(4)  # what a member is for
LARGEST = {IMAGE: 1 << 29, TEXT: 1 << 24, RECORD: 1 << 24, LABEL: 1 << 24}  # bytes of a member


class WebDataset(Source):
    """Samples of tar shards, found by one pass over their headers and read from there in any order.

    A member's key is its path up to the first dot of its base name, its suffix what follows. Pictures are members whose
    suffix ends in jpg, jpeg, png or webp (a sample may have several: "7.front.jpg", "7.back.jpg"); captions are in
    members ending in txt, caption or text, else in the fields of a json member (see `fields.CAPTIONS`). Several
    suffixes may be named at once, "jpg;png". Samples without picture or caption are left out and counted in the log.
    """

    def __init__(self, paths: Sequence[Path], keys: Keys, salvage: bool, missing: MissingShards) -> None:
        self.keys = keys
        self.damage: list[str] = []
        self._wanted, self._salvage = _Wanted(keys), salvage
        # Per member that is used: where it is, and what for. Per sample: its first member. Per shard: its first sample.
        self._offset, self._size, self._use = array("q"), array("q"), array("b")
        first, shard = array("q"), array("q")
        kept: list[Path] = []
        for path in paths:
            start, used = len(first), len(self._use)
            try:
                self._index(path, first)
                if len(first) == start:
                    raise DataError(self._no_samples(path))
            except (DataError, OSError) as error:
                missing.skip(path, error)
                for column, length in ((first, start), *((own, used) for own in (self._offset, self._size, self._use))):
                    del column[length:]
                continue
            shard.append(start)
            kept.append(path)
        missing.check_some_left(kept)
        self.files, self.skipped_shards = Files(kept), missing.names
        first.append(len(self._use))
        self._first = np.frombuffer(first, np.int64)
        self._shard = np.frombuffer(shard, np.int64)

    def _index(self, path: Path, first: array) -> None:
        """Add a shard's samples."""
        left_out, example = 0, ""
        self._seen: dict[str, int] = {}
        start = len(first)
        try:
            for key, group in _samples(path):
                for _, suffix in group:
                    if len(self._seen) < 100:
                        self._seen.setdefault(suffix, 0)
                uses = self._wanted.choose(group)
                if not self._wanted.complete({use for _, use in uses}):
                    left_out, example = left_out + 1, example or key
                    continue
                first.append(len(self._use))
                for member, use in uses:
                    self._offset.append(member.offset)
                    self._size.append(member.size)
                    self._use.append(use)
        except DataError as error:
            if not self._salvage or len(first) == start:
                raise
            self.damage.append(f"{error}; kept the {len(first) - start} samples before it")
        if left_out and self._salvage:
            self.damage.append(f"{path}: left out {left_out} samples without {self._wanted}, {example} first")
        elif left_out:
            logger.warning("%s: left out %d samples without %s, %s first", path, left_out, self._wanted, example)

    def _no_samples(self, path: Path) -> str:
        if not self._seen:
            return f"{path}: wanted samples, found an empty shard"
        return f"{path}: wanted samples with {self._wanted}, found only the suffixes {', '.join(sorted(self._seen))}"

    def __len__(self) -> int:
        return len(self._first) - 1

    def _place(self, number: int) -> tuple[int, range]:
        """(shard, members) of a sample."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        shard = int(np.searchsorted(self._shard, number, "right")) - 1
        return shard, range(int(self._first[number]), int(self._first[number + 1]))

    def name(self, number: int) -> str:
        shard, found = self._place(number)
        name = block_name(self.files.read(shard, self._offset[found[0]] - BLOCK, BLOCK))
        return f"{self.files.paths[shard]}: {_split(name)[0]}"

    def __getitem__(self, number: int) -> Sample:
        shard, found = self._place(number)
        parts: dict[int, list[bytes]] = {use: [] for use in range(4)}
        for member in found:
            use, size = self._use[member], self._size[member]
            if size > LARGEST[use]:
                raise DataError(f"{self.name(number)}: wanted members of at most {LARGEST[use]} bytes, found {size}")
            parts[use].append(self.files.read(shard, self._offset[member], size))
        name = self.name(number)
        record = _record(parts[RECORD], name, self._wanted.captioned)
        if not self._wanted.captioned:
            keys = split_keys(self.keys.caption, record) or first_present(CAPTIONS, record)
            captions = captions_if_any(parts[TEXT] or [record[key] for key in keys], name)
        else:
            captions = as_captions([decode_text(text, name) for text in parts[TEXT]], name) if parts[TEXT] else []
            if not captions and (self.keys.label is None or record):
                captions = self._captions(record, name)
        label = None
        if self.keys.label is not None:
            label = self._label(parts[LABEL], record, name)
        return Sample(name, parts[IMAGE], captions, label)

    def _captions(self, record: dict[str, Any], name: str) -> list[str]:
        named = None if self.keys.caption == JSON else self.keys.caption
        keys = split_keys(named, record) if named else first_present(CAPTIONS, record)
        if not keys and self.keys.label is None:
            wanted = repr(named) if named else "a caption"
            raise DataError(f"{name}: wanted {wanted} in the JSON record, found {', '.join(map(repr, record))}")
        return as_captions([record[key] for key in keys], name) if keys else []

    def _label(self, texts: list[bytes], record: dict[str, Any], name: str) -> int | str:
        if texts:
            return as_label(decode_text(texts[0], name).strip(), name)
        for key in [self.keys.label] if self.keys.label else first_present(LABELS, record):
            if key in record:
                return as_label(record[key], name)
        raise DataError(f"{name}: wanted a label in the JSON record, found {', '.join(map(repr, record))}")


class _Wanted:
    """What a member is for, by its suffix."""

    def __init__(self, keys: Keys) -> None:
        self.captioned, self.pictured = "captions" in keys.needs, "images" in keys.needs or keys.image is not None
        self.needs = {IMAGE} if "images" in keys.needs else set()
        self.images = keys.image.lower().split(";") if keys.image else [suffix[1:] for suffix in PICTURES]
        self.captions = keys.caption.lower().split(";") if keys.caption else list(TEXTS)
        self.labels = [] if keys.label is None else keys.label.lower().split(";") if keys.label else list(CLASSES)
        self.labelled, self.named = keys.label is not None, keys.image is not None

    def choose(self, group: list[tuple[Member, str]]) -> list[tuple[Member, int]]:
        """The members of a sample to read, and what for. "7.jpg" is the picture even if "7.mask.png" is there too."""
        found = [
            (member, use, "." not in suffix)
            for member, suffix in group
            if (use := self.use(suffix)) is not None and (use != IMAGE or self.pictured)
        ]
        plain = {use for _, use, is_plain in found if is_plain}
        needless = {RECORD} if TEXT in {use for _, use, _ in found} and not self.labelled else set()
        return [
            (member, use)
            for member, use, is_plain in found
            if (is_plain or use not in plain or (use == IMAGE and self.named)) and use not in needless
        ]

    def use(self, suffix: str) -> int | None:
        for use, wanted in ((IMAGE, self.images), (LABEL, self.labels), (TEXT, self.captions)):
            if any(suffix == one or suffix.endswith("." + one) for one in wanted) and suffix != JSON:
                return use
        return RECORD if suffix == JSON else None

    def complete(self, uses: set[int]) -> bool:
        if not self.captioned and not self.labelled:
            return self.needs <= uses
        return self.needs <= uses and (RECORD in uses or (LABEL if self.labelled else TEXT) in uses)

    def __str__(self) -> str:
        parts = [f"a picture ({', '.join(self.images)})"] if self.needs else []
        if self.captioned or self.labelled:
            parts.append(" or ".join((self.labels or self.captions) + [JSON]))
        return " and ".join(parts)


def _samples(path: Path) -> Iterator[tuple[str, list[tuple[Member, str]]]]:
    """(key, members with suffixes) of neighbouring members with one key."""
    current, group = "", []  # type: str, list[tuple[Member, str]]
    try:
        for member, no_end in members(path):
            if no_end:
                logger.warning("%s: has no end mark; it may have been cut off after its last whole member", path)
                break
            key, suffix = _split(member.name)
            if not suffix or key.rpartition("/")[2].startswith("__"):  # webdataset's notes, "__url__" and the like
                continue
            if group and key != current:
                yield current, group
                group = []
            current = key
            group.append((member, suffix))
    except DataError:
        if group:  # whole, or what is left of it
            yield current, group
        raise
    if group:
        yield current, group


def _split(name: str) -> tuple[str, str]:
    """(key, suffix in lower case): the base name is cut at its first dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _record(parts: list[bytes], name: str, needed: bool = True) -> dict[str, Any]:
    if not parts:
        return {}
    if not needed:
        try:
            return _record(parts, name)
        except DataError:
            return {}
    return json_object(decode_text(parts[0], name), name)
