"""Where each sample of tar shards lies, kept so that a shard's headers are read once and not at every start.

A shard's table holds 9 bytes for each member that is used and 4 for each sample; a manifest for each folder of shards
says which tables there are, and of which file (its size and time). Opening 1,000 shards reads the manifest and asks for
1,000 sizes; tables are read a few bytes at a time, when a sample is asked for, through the system's cache, which all
processes share. A set whose tables are not kept (small ones, and where nothing can be written) has them in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_core.files import write_bytes, write_text

from ..locks import locked
from .files import Files, Parts, in_processes

logger = logging.getLogger("triclip")

FORMAT = 1
BLOCK = 512  # a tar's contents begin at multiples of it
KEPT_FROM = 64 << 20  # bytes of shards: a smaller set is scanned in less than the time a cache would save
SAVED_EVERY = 256  # shards: what a scan that is killed may lose
MANIFEST = "manifest.json"
_TOO_LARGE = 2**32 - 1


class Table(NamedTuple):
    """A shard's samples: `first` uint32 [N + 1], their first members; of each member `block` uint32 (where its bytes
    begin, in blocks of 512), `size` uint32 (bytes; 2**32 - 1 stands for more) and `use` uint8 (what it is for)."""

    first: np.ndarray
    block: np.ndarray
    size: np.ndarray
    use: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sequence[tuple[int, int, int]]]) -> Table:
        """The table of samples whose members are (offset, size, use)."""
        members = [member for sample in samples for member in sample]
        columns = list(zip(*members, strict=True)) if members else [(), (), ()]
        return cls(
            np.cumsum([0, *map(len, samples)]).astype("<u4"),
            (np.array(columns[0], np.int64) // BLOCK).astype("<u4"),
            np.minimum(np.array(columns[1], np.int64), _TOO_LARGE).astype("<u4"),
            np.array(columns[2], np.uint8),
        )


class Scan(NamedTuple):
    """What reading a shard's headers gave: its table, what was lost of it, and what the log should say."""

    table: Table
    damage: list[str]
    warning: str


class Entry(NamedTuple):
    """A table that is kept: where, its numbers of samples and members, and its scan's damage and warning."""

    path: str
    samples: int
    members: int
    damage: list[str]
    warning: str


class Tables:
    """The tables of a set of shards, in memory or in files. Can be pickled, and read by several threads."""

    def __init__(self, parts: Sequence[Scan | Entry]) -> None:
        self._parts = [part.table if isinstance(part, Scan) else (part.samples, part.members) for part in parts]
        self._files = Files("" if isinstance(part, Scan) else part.path for part in parts)
        counts = [len(part[0]) - 1 if isinstance(part, Table) else part[0] for part in self._parts]
        self._samples = Parts(counts)

    def __len__(self) -> int:
        return len(self._samples)

    def place(self, number: int) -> tuple[int, list[tuple[int, int, int]]]:
        """(shard, its members as (offset, size, use)) of a sample. Raises IndexError."""
        shard, row = self._samples.place(number)
        part = self._parts[shard]
        if isinstance(part, Table):
            start, end = part.first[row : row + 2].tolist()
            block, size, use = (column[start:end] for column in part[1:])
        else:
            samples, members = part
            start, end = self._column(shard, 0, row, row + 2).tolist()
            at = 4 * (samples + 1)
            block = self._column(shard, at, start, end)
            size = self._column(shard, at + 4 * members, start, end)
            use = np.frombuffer(self._files.read(shard, at + 8 * members + start, end - start), np.uint8)
        offsets = (block.astype(np.int64) * BLOCK).tolist()
        return shard, list(zip(offsets, size.tolist(), use.tolist(), strict=True))

    def _column(self, shard: int, at: int, start: int, end: int) -> np.ndarray:
        return np.frombuffer(self._files.read(shard, at + 4 * start, 4 * (end - start)), "<u4")


class ShardIndex:
    """Tables kept under a folder, for shards of any folder, for one way to read them.

    Args:
        root: the folder; made when something is kept.
        reading: what a table depends on besides its shard: the keys, and whether damaged shards are salvaged.
    """

    def __init__(self, root: Path, reading: Any) -> None:
        self.root = root
        self._reading = _digest(FORMAT, reading)
        self._manifests: dict[Path, dict[str, Any]] = {}

    def find(self, path: Path) -> Entry | None:
        """What is kept of a shard, unless the shard has changed since."""
        home = self._home(path)
        if home not in self._manifests:
            self._manifests[home] = _manifest(home)
        kept = self._manifests[home].get(path.name)
        if kept is None or kept["of"] != _identity(path):
            return None
        entry = Entry(str(home / f"{path.name}.table"), *(kept[name] for name in Entry._fields[1:]))
        wanted = 4 * (entry.samples + 1) + 9 * entry.members
        return entry if os.path.exists(entry.path) and os.path.getsize(entry.path) == wanted else None

    def forget(self) -> None:
        """Read manifests again: another process may have written them."""
        self._manifests.clear()

    def keep(self, found: Sequence[tuple[Path, list[int], Scan]]) -> None:
        """Keep the scans of shards whose identity was as given before they were scanned."""
        for path, identity, scan in found:
            home = self._home(path)
            home.mkdir(parents=True, exist_ok=True)
            table = scan.table
            write_bytes(home / f"{path.name}.table", b"".join(column.tobytes() for column in table))
            numbers = {"samples": len(table.first) - 1, "members": len(table.use)}
            described = {"of": identity, **numbers, "damage": scan.damage, "warning": scan.warning}
            self._manifests.setdefault(home, _manifest(home))[path.name] = described
        for home in {self._home(path) for path, _, _ in found}:
            write_text(home / MANIFEST, json.dumps(self._manifests[home]))

    def _home(self, path: Path) -> Path:
        return self.root / _digest(os.path.abspath(path.parent)) / self._reading


def index_for(paths: Sequence[Path], where: str | os.PathLike | None, reading: Any) -> ShardIndex | None:
    """The index for a set of shards. where: a folder; "auto": the user's cache, for sets of 64 MB and more; None."""
    if where is None:
        return None
    if where != "auto":
        return ShardIndex(Path(where), reading)
    total = 0
    for path in paths:
        total += path.stat().st_size if path.exists() else 0
        if total >= KEPT_FROM:
            return ShardIndex(cache_folder(), reading)
    return None


def cache_folder() -> Path:
    """Where tables are kept: `TRICLIP_CACHE`, else `triclip` in the user's cache."""
    own = os.environ.get("TRICLIP_CACHE")
    if own:
        return Path(own) / "shards"
    user = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return Path(user or Path.home() / ".cache") / "triclip" / "shards"


Scanner = Callable[[Path], "Scan | Exception"]


def scanned(
    paths: Sequence[Path], scanner: Scanner, index: ShardIndex | None, workers: int
) -> list[Scan | Entry | Exception]:
    """Each shard's table: the one that is kept, or by `scanner`, which must be picklable when workers are asked for.

    workers: processes that scan; 0: this one. One process at a time scans for an index; others wait, and find it.
    """
    if index is None:
        return _scan(paths, scanner, workers)
    found: dict[Path, Scan | Entry | Exception | None] = {path: _looked_up(index, path) for path in paths}
    if any(one is None for one in found.values()):
        try:
            index.root.mkdir(parents=True, exist_ok=True)
            with locked(index.root / "lock"):
                index.forget()
                found |= {path: _looked_up(index, path) for path, one in found.items() if one is None}
                wanted = [path for path, one in found.items() if one is None]
                for start in range(0, len(wanted), SAVED_EVERY):
                    _scan_and_keep(wanted[start : start + SAVED_EVERY], scanner, index, workers, found)
        except OSError as error:
            logger.warning("%s: can't keep shards' tables (%s): every start reads all headers", index.root, error)
            left = [path for path, one in found.items() if one is None]
            found |= dict(zip(left, _scan(left, scanner, workers), strict=True))
    return [one for path in paths if (one := found[path]) is not None]


def _looked_up(index: ShardIndex, path: Path) -> Entry | Exception | None:
    try:
        return index.find(path)
    except OSError as error:  # of the shard itself: it is gone
        return error


def _scan_and_keep(
    paths: Sequence[Path], scanner: Scanner, index: ShardIndex, workers: int, found: dict[Path, Any]
) -> None:
    """Scan shards, keep what is whole, and put all into `found`."""
    identities = [_identity(path) for path in paths]
    scans = _scan(paths, scanner, workers)
    index.keep([(p, i, s) for p, i, s in zip(paths, identities, scans, strict=True) if isinstance(s, Scan)])
    for path, scan in zip(paths, scans, strict=True):
        found[path] = index.find(path) or scan if isinstance(scan, Scan) else scan


def _scan(paths: Sequence[Path], scanner: Scanner, workers: int) -> list[Any]:
    return list(in_processes(scanner, paths, workers, max(1, len(paths) // (4 * max(1, workers)))))


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _manifest(home: Path) -> dict[str, Any]:
    """What the folder says it holds; nothing, when it can't be read: then it is made again."""
    try:
        found = json.loads((home / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
