"""Bringing an index up to date with the pictures that are there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import ImageError
from clip_core.machine import usable_cpus

from ..progress import Progress
from ..search import Index, Origin
from ..search.columns import NAME, VERSION
from ..search.origin import relative_name
from ..walk import Rules, Stamp, Walk, check_some, common_folder_of, find_pictures
from .store import Store, versions

COMMIT = 30.0  # seconds between commits: what a kill at any moment loses
_READ = 256  # pictures whose content is hashed, then embedded, at a time
_FEW = 10  # pictures that may always leave
SIZE, TIME, SHA256 = VERSION


@dataclass
class Changes:
    """What an update did, in pictures.

    new, changed: embedded. moved: of a content that the index had under another name, or has, so nothing was computed;
    the same: touched. gone: their rows have left. kept: whose rows stay although they are gone, because a drive may be
    missing (see `update`). total: rows now. unreadable: (path, reason). walk: what was found and left out.
    seconds: all together.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    touched: int = 0
    gone: int = 0
    kept: int = 0
    total: int = 0
    width: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    walk: Walk = field(default_factory=Walk)
    seconds: float = 0.0

    def __bool__(self) -> bool:
        """Whether the index is another one now."""
        return bool(self.new or self.changed or self.moved or self.touched or self.gone)


def update(
    path: str | os.PathLike,
    inputs: Sequence[str | os.PathLike],
    spec: Any = None,
    *,
    rules: Rules | None = None,
    batch_size: int = 32,
    only_add: bool = False,
    prune: bool = False,
    replace: bool = False,
    progress: bool | None = None,
) -> Changes:
    """Bring the index at `path` up to date with the pictures of `inputs`, or make it.

    A picture whose size and time are the stored ones is not opened. Of another one the content is hashed (SHA-256);
    only if the index doesn't hold it yet, the picture is embedded. Rows of pictures that are gone leave, if they belong
    to `inputs`: others are left alone. The index is changed every half minute, whole each time, so that a run that was
    ended at any moment goes on from there.

    Args:
        path: a folder (ending in .index, or ".triclip"), or a file (.npz, .npy, .parquet), which is written whole.
        inputs: folders, patterns and files.
        spec: an `embed.ClipSpec`: the model. Default: the index's, else "emoji".
        rules: what is left out; default the index's own, else `Rules()`.
        only_add: nothing leaves.
        prune: remove rows even where it looks as if a drive is missing: a folder is empty that held pictures, or more
            than half of what belongs to `inputs` is gone.
        replace: make the index anew; the old one is there until the new one is whole.
        progress: as for `Progress`.

    Raises FileNotFoundError for a folder that is not there or holds no pictures: the index is not touched then.
    InputError for another model, for an index with columns of its own, and while another program updates it; ImageError
    when no picture of a new index can be read.
    """
    started = time.monotonic()
    store = Store(Path(path), replace)
    with store.alone():
        changes = _Run(store, inputs, spec, rules, batch_size).go(only_add, prune, progress)
    changes.seconds = time.monotonic() - started
    return changes


class _Known:
    """What an index says of its pictures: by absolute path the row; sizes, times, and contents by SHA-256."""

    def __init__(self, index: Index | None, origin: Origin) -> None:
        self.index, self.rows = index, {}  # type: Index | None, dict[str, int]
        self.doubled: list[int] = []  # rows of a name that has a later one: an update was ended before it was whole
        if index is None:
            return
        self.sizes, self.times = versions(index)
        for row, name in enumerate(index.columns[NAME]):
            path = os.path.abspath(origin.path_of(name))
            if path in self.rows:
                self.doubled.append(self.rows[path])
            self.rows[path] = row
        self._contents: dict[str, int] | None = None

    def is_same(self, path: str, stamp: Stamp) -> bool:
        row = self.rows.get(path)
        return row is not None and (self.sizes[row], self.times[row]) == stamp

    def row_of_content(self, sha256: str) -> int | None:
        """A row whose picture had this content."""
        if self.index is None or SHA256 not in self.index.columns:
            return None
        if self._contents is None:
            self._contents = {found: row for row, found in enumerate(self.index.columns[SHA256]) if found}
        return self._contents.get(sha256)


@dataclass
class _Batch:
    """Rows that wait for the next commit."""

    paths: list[str] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)

    def add(self, path: str, stamp: Stamp, sha256: str, vector: np.ndarray) -> None:
        self.paths.append(path)
        self.stamps.append(stamp)
        self.hashes.append(sha256)
        self.vectors.append(vector)


class _Run:
    def __init__(self, store: Store, inputs: Any, spec: Any, rules: Rules | None, batch_size: int) -> None:
        from ..embed.encoder import ClipSpec

        self.store, self.batch_size = store, batch_size
        index = store.index
        known = Origin("emoji") if index is None else index.origin
        self.spec = spec or ClipSpec(known.model, background=known.colour)
        self.rules = rules or read_rules(known.rules)
        self.walk = find_pictures(inputs, self.rules)
        root = common_folder_of(inputs) if index is None else known.root
        self.origin = known._replace(root=root, rules=write_rules(self.rules))
        self.known = _Known(index, self.origin)
        self.unreadable = store.unreadable()
        self.changes = Changes(walk=self.walk)
        self._clip: Any = None
        if index is not None:
            index.origin.check_background(_stored(self.spec.background))
            if self.spec.name != index.origin.model:
                self._check_model(index.origin)

    def go(self, only_add: bool, prune: bool, progress: bool | None) -> Changes:
        found = {os.path.abspath(path): stamp for path, stamp in self.walk.files.items()}
        if not found:
            self._check_there()
        todo = [path for path, stamp in found.items() if not self.known.is_same(path, stamp)]
        waiting = [path for path in todo if not self._is_unreadable(path, found[path])]
        waiting.sort(key=self.known.rows.__contains__)  # new ones first: rows of changed ones leave at the end
        dropped = self._embed([(path, found[path]) for path in waiting], progress)
        gone = [] if only_add else self._gone(found, prune)
        self._commit(sorted({*dropped, *gone, *self.known.doubled}))
        self._finish(found)
        return self.changes

    # -- what is there -------------------------------------------------------------------------------------------------

    def _check_there(self) -> None:
        """Raises FileNotFoundError: nothing is there, now or at all."""
        count = sum(map(self.walk.asked_for, self.known.rows))
        if not count:
            check_some(self.walk)
        where = (self.walk.folders or self.walk.patterns)[0]
        raise FileNotFoundError(
            f"{where}: wanted pictures, found none, but {self.store.path} has {count} of them: is a drive missing? "
            "Nothing was removed"
        )

    def _is_unreadable(self, path: str, stamp: Stamp) -> bool:
        """Whether this version of a picture is known as one that can't be read."""
        kept = self.unreadable.get(self._name(path))
        if kept is None or kept[0] != stamp:
            return False
        self.changes.unreadable.append((path, kept[1]))
        return True

    def _gone(self, found: dict[str, Stamp], prune: bool) -> list[int]:
        """Rows of pictures that are gone; those that may be back, when a drive is, stay unless `prune`."""
        asked = [path for path in self.known.rows if self.walk.asked_for(path)]
        gone = [path for path in asked if path not in found]
        moved = self._moved_from(gone)
        if not prune:
            empty = _Empty()
            kept = [path for path in gone if path not in moved and empty.is_in_one(path)]
            if len(gone) - len(moved) > max(_FEW, len(asked) // 2):
                kept = [path for path in gone if path not in moved]
            self.changes.kept = len(kept)
            gone = sorted({*gone} - {*kept})
        self.changes.gone = len(gone) - len({*gone} & moved)
        return [self.known.rows[path] for path in gone]

    def _moved_from(self, gone: list[str]) -> set[str]:
        return {path for path in gone if self.known.rows[path] in self._reused}

    # -- what is new ---------------------------------------------------------------------------------------------------

    def _embed(self, waiting: list[tuple[str, Stamp]], progress: bool | None) -> set[int]:
        """Add the pictures' rows; returns those that they take the place of."""
        self.batch, self.dropped, self._reused = _Batch(), set(), set()  # type: _Batch, set[int], set[int]
        last = time.monotonic()
        with Progress("pictures", len(waiting), progress) as bar, ThreadPoolExecutor(usable_cpus()) as pool:
            for some in _chunks(waiting, _READ):
                self._add(some, list(pool.map(lambda one: _sha256(one[0]), some)))
                bar.advance(len(some))
                if time.monotonic() - last > COMMIT and not self.store.replaces:
                    self._commit([])
                    last = time.monotonic()
        return self.dropped

    def _add(self, some: list[tuple[str, Stamp]], hashes: list[str | OSError]) -> None:
        """Rows of some pictures: with the vector of the same content where the index has it, else computed."""
        unknown = []
        for (path, stamp), sha256 in zip(some, hashes, strict=True):
            if isinstance(sha256, OSError):  # tried again next time
                self.changes.unreadable.append((path, sha256.strerror or str(sha256)))
                continue
            row = self.known.row_of_content(sha256)
            if row is None:
                unknown.append((path, stamp, sha256))
                continue
            assert self.known.index is not None
            self._count(path, row)
            self.batch.add(path, stamp, sha256, self.known.index.vector(row))
        if unknown:
            self._compute(unknown)

    def _count(self, path: str, row: int) -> None:
        own = self.known.rows.get(path)
        if own is not None:
            self.dropped.add(own)
        if own == row:
            self.changes.touched += 1
        else:
            self.changes.moved += 1
            self._reused.add(row)

    def _compute(self, unknown: list[tuple[str, Stamp, str]]) -> None:
        found = self.clip.embed([path for path, _, _ in unknown], self.batch_size, progress=False)
        vectors = dict(zip(map(str, found.sources), found.vectors, strict=True))
        reasons = {str(source): reason for source, reason in found.skipped}
        for path, stamp, sha256 in unknown:
            own = self.known.rows.get(path)
            if own is not None:
                self.dropped.add(own)
            if path in vectors:
                self.batch.add(path, stamp, sha256, vectors[path])
                self.changes.changed += own is not None
                self.changes.new += own is None
            else:
                self.changes.unreadable.append((path, reasons[path]))
                self.unreadable[self._name(path)] = stamp, reasons[path]

    @property
    def clip(self) -> Any:
        """The model, loaded when there is something to compute; then it has to be the index's."""
        if self._clip is None:
            from ..fingerprint import fingerprint

            print_of_model = fingerprint(self.spec.name)
            if self.store.index is None:
                known = {"model": self.spec.name, "fingerprint": print_of_model}
                self.origin = self.origin._replace(**known, background=_stored(self.spec.background))
            else:
                self._check_model(self.store.index.origin, print_of_model)
            self._clip = self.spec.load_clip()
        return self._clip

    def _check_model(self, origin: Origin, print_of_model: str = "") -> None:
        from ..fingerprint import fingerprint

        name = self.spec.name
        origin.check_model(name, print_of_model or (fingerprint(name) if origin.fingerprint else ""))

    # -- the index -----------------------------------------------------------------------------------------------------

    def _name(self, path: str) -> str:
        return relative_name(path, self.origin.root) if self.origin.root else path

    def _commit(self, dropped: list[int]) -> None:
        batch, self.batch = self.batch, _Batch()
        same_rules = self.store.index is None or self.store.index.origin.rules == self.origin.rules
        if same_rules and not (batch.paths or dropped):
            return
        added = []
        if batch.paths:
            version = {SIZE: [stamp.size for stamp in batch.stamps], TIME: [stamp.time for stamp in batch.stamps]}
            names = [self._name(path) for path in batch.paths]
            columns: dict[str, Any] = {**version, SHA256: batch.hashes}
            added = [Index(np.stack(batch.vectors), names, self.origin.model, columns, *self.origin[1:])]
        self.store.commit(self.origin, np.array(dropped, np.int64), added)

    def _finish(self, found: dict[str, Stamp]) -> None:
        if self.store.index is None:
            raise ImageError(f"none of the {len(self.changes.unreadable)} pictures could be read")
        names = {self._name(path) for path in found}
        self.store.keep_unreadable({name: one for name, one in self.unreadable.items() if name in names})
        self.changes.total, self.changes.width = len(self.store.index), self.store.index.width


class _Empty:
    """Which folders are there and hold nothing, as one does whose drive is not mounted."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}

    def is_in_one(self, path: str) -> bool:
        folder = os.path.dirname(path)
        if folder not in self._known:
            try:
                self._known[folder] = not os.listdir(folder)
            except FileNotFoundError:
                self._known[folder] = folder != os.path.dirname(folder) and self.is_in_one(folder)
            except OSError:
                self._known[folder] = True
        return self._known[folder]


def _stored(background: Any) -> str:
    """A background as `Origin` has it."""
    return "none" if background is None else str(background)


def _sha256(path: str) -> str | OSError:
    try:
        with open(path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def read_rules(text: str) -> Rules:
    """What `write_rules` wrote."""
    known = json.loads(text) if text else {}
    return Rules(tuple(known.get("exclude", ())), bool(known.get("hidden")), bool(known.get("links")))


def write_rules(rules: Rules) -> str:
    """Rules as an index keeps them; "" for the usual ones."""
    if rules == Rules():
        return ""
    return json.dumps({"exclude": rules.exclude, "hidden": rules.hidden, "links": rules.links})
