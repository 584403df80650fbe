"""The one way to write a file or a folder: a process killed at any moment leaves the old one or the new one, whole.

`write_text` and `write_bytes` replace a small file, `replace_file` any file, `replace_folder` a folder of several
files that belong together (weights, shards, index, config). Threads and processes may write to one place at the same
time: one of them wins, none fails. In order, a folder is replaced so:

1. A folder that doesn't exist yet, or is empty: everything is written into a hidden folder beside it, flushed to the
   disk, and renamed into place.
2. A folder that exists: the hidden folder also gets hard links to the files that stay, and the two folders are
   exchanged in one step (renameat2 with RENAME_EXCHANGE); the old one is then removed. Every reader sees only one.
3. Without an exchange (no such system call, no hard links, no right to write beside the folder, folders inside it, a
   mount point, another owner, or the folder is the working directory): the new files are written into a hidden folder
   inside it, a journal is renamed into place, which commits the save, and then the files are moved.
   `view` reads a folder through an unfinished journal, and the next save finishes it.

A hidden folder belongs to a living process while that process holds its lock; the next save removes all others.

On Windows a file that a program has open or mapped can't be replaced: the rename is tried again for a moment, and then
PermissionError names the file. A journal that is in place by then is kept, and the next save finishes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import CheckpointError

_TAG = ".triclip-"
JOURNAL = ".triclip-journal.json"


class Stage:
    """The hidden folder for the new files.

    Attributes:
        path: the folder to write into.
        removed: names of old files that the new checkpoint replaces by other names (e.g. surplus shards).
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path, self._lock = path, lock
        self.removed: set[str] = set()
        self.committed = False  # a committed journal needs the files in the folder

    def close(self) -> None:
        if not self.committed:
            shutil.rmtree(self.path, ignore_errors=True)
        _STAGES.discard(self.path)
        if self._lock is not None:
            os.close(self._lock)


@contextlib.contextmanager
def replace_folder(folder: str | os.PathLike[str], keep: bool = True) -> Iterator[Stage]:
    """Write files into `stage.path`; at the end of the block they appear in `folder` all at once.

    Args:
        keep: files of `folder` with other names stay, except `stage.removed`. False: nothing of the old folder stays.

    If the block raises, the folder is unchanged. Raises CheckpointError if `folder` is a file, and OSError.
    """
    target = Path(folder).resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target}: a folder was wanted, this is a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        with _alone(target.parent):
            finish(target)
    _sweep(target.parent, f".{target.name}{_TAG}")
    stage = _stage_beside(target) if not target.is_dir() or _can_exchange(target, keep) else None
    inside = stage is None
    if stage is None:
        target.mkdir(exist_ok=True)
        stage = _new_stage(target, _TAG)
    try:
        yield stage
        _flush(stage.path)
        with _alone(target.parent):
            if not keep and target.is_dir():
                stage.removed |= {name for name in os.listdir(target) if not name.startswith(_TAG)}
            if inside or not _swap(stage, target):
                _commit_by_journal(stage, target)
    finally:
        stage.close()


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write the file at the yielded path; at the end of the block it replaces `path` in one step.

    The folder is made if needed, links are followed, and an existing file's permissions are kept.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise CheckpointError(f"{target}: a file was wanted, this is a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent, f".{target.name}{_TAG}")
    stage = _new_stage(target.parent, f".{target.name}{_TAG}")
    try:
        yield stage.path / target.name
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, stage.path / target.name)
        _flush(stage.path)
        _replace(stage.path / target.name, target)
        sync(target.parent)
    finally:
        stage.close()


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a small file as `replace_file` does."""
    with replace_file(path) as draft:
        draft.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a small UTF-8 text as `replace_file` does, with the line ends of `text` on every system."""
    write_bytes(path, text.encode("utf-8"))


def json_bytes(content: object) -> bytes:
    """A JSON file as transformers writes it. Raises CheckpointError for values that JSON can't hold."""
    try:
        return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config: it can't be written as JSON: {error}") from None


def view(folder: Path) -> Callable[[str], Path]:
    """A function from a file's name to its current path, which accounts for an unfinished commit."""
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
    """Whether a name read from a file is that of an entry directly inside a folder: no path, no ".."."""
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\\0:") and len(name) < 256


def _stage_beside(target: Path) -> Stage | None:
    try:
        return _new_stage(target.parent, f".{target.name}{_TAG}")
    except OSError:  # no permission to write there
        return None


_STAGES: set[Path] = set()  # stages of this process: its sweeps leave them alone


def _new_stage(parent: Path, prefix: str) -> Stage:
    while True:
        path = parent / f"{prefix}{secrets.token_hex(6)}"
        path.mkdir()
        lock = _lock(path)
        if lock is None or _is_at(lock, path):  # otherwise a sweep removed it before it was locked
            _STAGES.add(path)
            return Stage(path, lock)
        os.close(lock)


def _lock(path: Path, wait: bool = True) -> int | None:
    """A lock on a folder, released by the system when this process ends in any way.

    None if locks are not available, the folder is gone, or, without `wait`, another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows, where hidden folders of killed processes therefore stay
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


_THREADS = threading.RLock()  # the system can't lock folders


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Hold the lock for renaming folders in `parent`, against other threads and processes."""
    if parent in _STAGES:  # locked already; no other writer uses it
        yield
        return
    lock = _lock(parent)
    try:
        with contextlib.nullcontext() if lock is not None else _THREADS:
            yield
    finally:
        if lock is not None:
            os.close(lock)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove hidden folders whose process has ended."""
    for path in parent.glob(f"{_escape(prefix)}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or not path.is_dir():
                continue
            lock = _lock(path, wait=False)
            if lock is None:
                continue
            # An empty, fresh one may belong to a process that is about to lock it.
            if any(path.iterdir()) or time.time() - path.stat().st_mtime > 5:
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _escape(text: str) -> str:
    import glob

    return glob.escape(text)


def _can_exchange(target: Path, keep: bool) -> bool:
    if target in _STAGES:  # its writer locks the folder itself
        return False
    if sys.platform != "linux" or os.path.ismount(target):
        return False
    here = Path.cwd()
    if here == target or target in here.parents:  # the working directory would vanish under its user
        return False
    if target.stat().st_uid != os.geteuid():
        return False
    return not keep or not any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(target))


def _swap(stage: Stage, target: Path) -> bool:
    """Put the stage in the target's place. Returns False, with nothing changed, if the system can't do that here."""
    new = set(os.listdir(stage.path))
    try:
        if not target.exists() or not any(target.iterdir()):
            if target.exists():
                shutil.copystat(target, stage.path)
            os.rename(stage.path, target)  # rename replaces an empty folder in one step
            done = True
        else:
            _link_rest(stage, target, new)
            shutil.copystat(target, stage.path)
            done = _exchange(stage.path, target)
    except OSError:
        done = False
    if done:
        sync(target.parent)
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
    if stage.path.parent != target:  # the exchange failed late: move the files into the folder instead
        target.mkdir(exist_ok=True)
        inner = _new_stage(target, _TAG)
        for name in os.listdir(stage.path):
            shutil.move(stage.path / name, inner.path / name)
        _flush(inner.path)
    try:
        moved = sorted(os.listdir(inner.path))
        removed = sorted(name for name in stage.removed - set(moved) if os.path.lexists(target / name))
        content = {"stage": inner.path.name, "moved": moved, "removed": removed}
        draft = inner.path / "journal"
        draft.write_bytes(json.dumps(content).encode())
        _flush(inner.path)
        _replace(draft, target / JOURNAL)
        inner.committed = True
        sync(target)
        _apply(target, inner.path.name, moved, removed)
        inner.committed = False
    finally:
        if inner is not stage:
            inner.close()


def _apply(folder: Path, stage: str, moved: Iterable[str], removed: Iterable[str]) -> None:
    for name in moved:
        new, old = folder / stage / name, folder / name
        if not os.path.lexists(new):  # moved before the interruption
            continue
        if os.path.lexists(old) and (_is_folder(new) or _is_folder(old)):  # rename replaces only files
            aside = folder / stage / f"{_TAG}old"
            aside.mkdir(exist_ok=True)
            os.rename(old, aside / f"{secrets.token_hex(6)}")
        _replace(new, old)
    for name in removed:
        if _is_folder(folder / name):
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)
    sync(folder)
    (folder / JOURNAL).unlink(missing_ok=True)
    sync(folder)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


_WAITS = (0.02, 0.05, 0.1, 0.2, 0.4)  # seconds in which virus scanners and indexers usually close a file


def _replace(new: Path, old: Path) -> None:
    for wait in (*_WAITS, None):
        try:
            os.replace(new, old)
            return
        except PermissionError as error:
            if wait is None:
                reason = (
                    "it can't be replaced: a program has it open (a model that was loaded with mmap=True, say). "
                    "Close it there and save again"
                )
                raise PermissionError(error.errno, reason, str(old)) from error
            time.sleep(wait)


def _flush(folder: Path) -> None:
    """Flush a folder's files to the disk, so that no rename is on disk before the contents are."""
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, where the system can: Windows opens no folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems can't flush a folder
        pass
    finally:
        os.close(descriptor)
