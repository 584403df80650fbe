"""Tar shards in webdataset's layout: neighbouring members with one key are a sample."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
from .shard_index import BLOCK, Entry, Scan, Table, Tables, index_for, scanned
from .source import PICTURES, Keys, Sample, Source
from .tar import Member, block_name, members

logger = logging.getLogger("triclip")

TEXTS = ("txt", "caption", "text")
CLASSES = ("cls", "label", "class")
JSON = "json"
IMAGE, TEXT, RECORD, LABEL = range(4)  # uses of a member
LARGEST = {IMAGE: 1 << 29, TEXT: 1 << 24, RECORD: 1 << 24, LABEL: 1 << 24}  # bytes of a member


class WebDataset(Source):
    """Samples of tar shards, found by one pass over their headers (cached), and read in any order.

    A member's key is its path up to the first dot of its base name, its suffix what follows. Pictures are members whose
    suffix ends in jpg, jpeg, png or webp (a sample may have several: "7.front.jpg", "7.back.jpg"); captions are in
    members ending in txt, caption or text, else in the fields of a json member (see `fields.CAPTIONS`). Several
    suffixes may be named at once, "jpg;png". Samples without picture or caption are left out and counted in the log.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        keys: Keys,
        salvage: bool,
        missing: MissingShards,
        index: str | os.PathLike | None = None,
        workers: int = 0,
    ) -> None:
        self.keys = keys
        self._wanted = _Wanted(keys)
        self.damage: list[str] = []
        kept: list[Path] = []
        parts: list[Scan | Entry] = []
        reading = (keys.image, keys.caption, keys.label, sorted(keys.needs), salvage)
        scanner = functools.partial(_scan, keys=keys, salvage=salvage)
        tables = scanned(paths, scanner, index_for(paths, index, reading), workers)
        for path, part in zip(paths, tables, strict=True):
            if isinstance(part, (DataError, OSError)):
                missing.skip(path, part)
                continue
            if isinstance(part, Exception):
                raise part
            if part.warning:
                logger.warning("%s: %s", path, part.warning)
            self.damage += [f"{path}: {lost}" for lost in part.damage]
            kept.append(path)
            parts.append(part)
        missing.check_some_left(kept)
        self.files, self.skipped_shards = Files(kept), missing.names
        self._tables = Tables(parts)

    def __len__(self) -> int:
        return len(self._tables)

    def name(self, number: int) -> str:
        shard, found = self._tables.place(number)
        name = block_name(self.files.read(shard, found[0][0] - BLOCK, BLOCK))
        return f"{self.files.paths[shard]}: {_split(name)[0]}"

    def __getitem__(self, number: int) -> Sample:
        shard, found = self._tables.place(number)
        parts: dict[int, list[bytes]] = {use: [] for use in range(4)}
        for offset, size, use in found:
            if size > LARGEST[use]:
                raise DataError(f"{self.name(number)}: wanted members of at most {LARGEST[use]} bytes, found {size}")
            parts[use].append(self.files.read(shard, offset, size))
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
    """The use of a member, by its suffix."""

    def __init__(self, keys: Keys) -> None:
        self.captioned, self.pictured = "captions" in keys.needs, "images" in keys.needs or keys.image is not None
        self.needs = {IMAGE} if "images" in keys.needs else set()
        self.images = keys.image.lower().split(";") if keys.image else [suffix[1:] for suffix in PICTURES]
        self.captions = keys.caption.lower().split(";") if keys.caption else list(TEXTS)
        self.labels = [] if keys.label is None else keys.label.lower().split(";") if keys.label else list(CLASSES)
        self.labelled, self.named = keys.label is not None, keys.image is not None

    def choose(self, group: list[tuple[Member, str]]) -> list[tuple[Member, int]]:
        """The members of a sample to read, with their use. "7.jpg" is the picture even if there is a "7.mask.png"."""
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


def _scan(path: Path, keys: Keys, salvage: bool) -> Scan | Exception:
    """A shard's table, or what is wrong with the shard."""
    try:
        return _scan_whole(path, _Wanted(keys), salvage)
    except (DataError, OSError) as error:
        return error


def _scan_whole(path: Path, wanted: _Wanted, salvage: bool) -> Scan:
    samples: list[list[tuple[int, int, int]]] = []
    suffixes: dict[str, None] = {}
    damage: list[str] = []
    warnings: list[str] = []
    left_out, example = 0, ""
    try:
        for key, group in _samples(path, warnings):
            suffixes |= {suffix: None for _, suffix in group if len(suffixes) < 100}
            uses = wanted.choose(group)
            if wanted.complete({use for _, use in uses}):
                samples.append([(member.offset, member.size, use) for member, use in uses])
            else:
                left_out, example = left_out + 1, example or key
    except DataError as error:
        if not salvage or not samples:
            raise
        damage.append(f"{str(error).removeprefix(f'{path}: ')}; kept the {len(samples)} samples before it")
    if not samples:
        if not suffixes:
            raise DataError(f"{path}: wanted samples, found an empty shard")
        raise DataError(f"{path}: wanted samples with {wanted}, found only the suffixes {', '.join(sorted(suffixes))}")
    if left_out and salvage:
        damage.append(f"left out {left_out} samples without {wanted}, {example} first")
    elif left_out:
        warnings.append(f"left out {left_out} samples without {wanted}, {example} first")
    return Scan(Table.of(samples), damage, "; ".join(warnings))


def _samples(path: Path, warnings: list[str]) -> Iterator[tuple[str, list[tuple[Member, str]]]]:
    """(key, members with suffixes) of neighbouring members with one key. Adds to `warnings`."""
    current, group = "", []  # type: str, list[tuple[Member, str]]
    try:
        for member, no_end in members(path):
            if no_end:
                warnings.append("has no end mark; it may have been cut off after its last whole member")
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
        if group:  # complete, or its remainder
            yield current, group
        raise
    if group:
        yield current, group


def _split(name: str) -> tuple[str, str]:
    """(key, suffix in lower case): the base name is split at its first dot."""
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
