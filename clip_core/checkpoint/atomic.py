"""Replacing a checkpoint so that a process killed at any moment leaves the old one or the new one, whole.

A checkpoint is several files (config, shards, index), so renaming files one by one is not enough. In order:

1. A folder that doesn't exist yet, or is empty: everything is written into a hidden folder beside it, flushed to the
   disk, and renamed into place.
2. A folder that exists: the hidden folder also gets hard links to the files that stay, and the two folders are
   exchanged in one step (renameat2 with RENAME_EXCHANGE); the old one is then removed. Every reader sees only one.
3. Where that can't be (no such system call, no hard links, no right to write beside the folder, folders inside it, a
   mount point, another owner, or the folder is the working directory): the new files are written into a hidden folder
   inside it, a journal is renamed into place, which is the moment of commitment, and then the files are moved.
   `view` reads a folder through an unfinished journal, and the next save finishes it.

A hidden folder belongs to a living process while that process holds its lock; the next save removes all others.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import CheckpointError

_TAG = ".triclip-"
JOURNAL = ".triclip-journal.json"


class Stage:
    """Where the new files are written.

    Attributes:
        path: the folder to write into.
        removed: names of old files that the new checkpoint replaces by other names (e.g. surplus shards).
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path, self._lock = path, lock
        self.removed: set[str] = set()

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


@contextlib.contextmanager
def replace_folder(folder: str | os.PathLike[str]) -> Iterator[Stage]:
    """Write files into `stage.path`; at the end of the block they appear in `folder` all at once.

    Files of `folder` with other names stay, except `stage.removed`. When the block raises, nothing has changed.
    """
    target = Path(folder).resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target}: a folder was wanted, this is a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        finish(target)
    _sweep(target.parent, f".{target.name}{_TAG}")
    stage = _stage_beside(target) if not target.is_dir() or _can_exchange(target) else None
    inside = stage is None
    if stage is None:
        target.mkdir(exist_ok=True)
        stage = _new_stage(target, _TAG)
    try:
        yield stage
        _flush(stage.path)
        if inside or not _swap(stage, target):
            _commit_by_journal(stage, target)
    finally:
        stage.close()


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write the file that is yielded; at the end of the block it takes the place of `path` in one step."""
    target = Path(path).resolve()
    if target.is_dir():
        raise CheckpointError(f"{target}: a file was wanted, this is a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent, f".{target.name}{_TAG}")
    stage = _new_stage(target.parent, f".{target.name}{_TAG}")
    try:
        yield stage.path / target.name
        if target.exists():
            shutil.copymode(target, stage.path / target.name)
        _flush(stage.path)
        os.replace(stage.path / target.name, target)
        _sync(target.parent)
    finally:
        stage.close()


def view(folder: Path) -> Callable[[str], Path]:
    """name -> the path where that file of the folder is now, also in the middle of an unfinished commit."""
    journal = _journal(folder)
    if journal is None:
        return lambda name: folder / name
    stage, moved, removed = journal

    def locate(name: str) -> Path:
        if name in moved and (folder / stage / name).exists():
            return folder / stage / name
        return folder / stage / "removed" / name if name in removed else folder / name

    return locate


def finish(folder: Path) -> None:
    """Complete a commit that was interrupted, and remove what interrupted saves left inside the folder."""
    journal = _journal(folder)
    if journal is not None:
        _apply(folder, *journal)
        shutil.rmtree(folder / journal[0], ignore_errors=True)
    _sweep(folder, _TAG)


def _journal(folder: Path) -> tuple[str, list[str], list[str]] | None:
    path = folder / JOURNAL
    try:
        content = json.loads(path.read_text("utf-8"))
        stage, moved, removed = content["stage"], content["moved"], content["removed"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: a damaged journal: {error}") from None
    names = [stage, *moved, *removed] if isinstance(moved, list) and isinstance(removed, list) else [None]
    if not all(isinstance(name, str) and is_plain_name(name) for name in names) or not stage.startswith(_TAG):
        raise CheckpointError(f"{path}: a damaged journal: it names files outside the folder")
    return stage, moved, removed


def is_plain_name(name: str) -> bool:
    """Whether a name read from a file names something directly inside a folder, and nothing else."""
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\\0:") and len(name) < 256


def _stage_beside(target: Path) -> Stage | None:
    try:
        return _new_stage(target.parent, f".{target.name}{_TAG}")
    except OSError:  # no right to write there
        return None


def _new_stage(parent: Path, prefix: str) -> Stage:
    path = parent / f"{prefix}{secrets.token_hex(6)}"
    path.mkdir()
    return Stage(path, _try_lock(path))


def _try_lock(path: Path) -> int | None:
    """A lock on a folder that the system drops when this process ends, however it ends. None: not available."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where hidden folders of killed processes therefore stay
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(parent: Path, prefix: str) -> None:
    """Remove hidden folders whose process has ended."""
    for path in parent.glob(f"{_escape(prefix)}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or not path.is_dir():
                continue
            lock = _try_lock(path)
            if lock is None:
                continue
            # An empty, fresh one may belong to a process that is about to lock it.
            if any(path.iterdir()) or time.time() - path.stat().st_mtime > 5:
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _escape(text: str) -> str:
    import glob

    return glob.escape(text)


def _can_exchange(target: Path) -> bool:
    if sys.platform != "linux" or os.path.ismount(target):
        return False
    here = Path.cwd()
    if here == target or target in here.parents:  # the working directory would vanish under its user
        return False
    if target.stat().st_uid != os.geteuid():
        return False
    return not any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(target))


def _swap(stage: Stage, target: Path) -> bool:
    """Put the stage in the target's place. False: it can't be done here, and nothing has changed."""
    new = set(os.listdir(stage.path))
    try:
        if not target.exists() or not any(target.iterdir()):
            os.rename(stage.path, target)  # an empty folder is replaced in one step
            done = True
        else:
            _link_rest(stage, target, new)
            shutil.copystat(target, stage.path)
            done = _exchange(stage.path, target)
    except OSError:
        done = False
    if done:
        _sync(target.parent)
    else:
        for name in set(os.listdir(stage.path)) - new:
            (stage.path / name).unlink()
    return done


def _link_rest(stage: Stage, target: Path, new: set[str]) -> None:
    for name in set(os.listdir(target)) - new - stage.removed:
        if (target / name).is_symlink():
            os.symlink(os.readlink(target / name), stage.path / name)
        else:
            os.link(target / name, stage.path / name)


def _exchange(a: Path, b: Path) -> bool:
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _commit_by_journal(stage: Stage, target: Path) -> None:
    inner = stage
    if stage.path.parent != target:  # the exchange failed late: carry the files into the folder
        target.mkdir(exist_ok=True)
        inner = _new_stage(target, _TAG)
        for name in os.listdir(stage.path):
            shutil.move(stage.path / name, inner.path / name)
        _flush(inner.path)
    try:
        moved = sorted(os.listdir(inner.path))
        removed = sorted(name for name in stage.removed - set(moved) if (target / name).exists())
        content = {"stage": inner.path.name, "moved": moved, "removed": removed}
        draft = inner.path / "journal"
        draft.write_text(json.dumps(content), "utf-8")
        _flush(inner.path)
        os.replace(draft, target / JOURNAL)
        _sync(target)
        _apply(target, inner.path.name, moved, removed)
    finally:
        if inner is not stage:
            inner.close()


def _apply(folder: Path, stage: str, moved: Iterable[str], removed: Iterable[str]) -> None:
    for name in moved:
        with contextlib.suppress(FileNotFoundError):  # moved before the interruption
            os.replace(folder / stage / name, folder / name)
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    _sync(folder)
    (folder / JOURNAL).unlink(missing_ok=True)
    _sync(folder)


def _flush(folder: Path) -> None:
    """Onto the disk: a rename must never be there before the contents are."""
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems have no way to flush a folder
        pass
    finally:
        os.close(descriptor)
