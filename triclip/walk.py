"""Which pictures are in folders, patterns and files: the one walk that `Clip`, `embed`, `search` and `serve` share."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clip_core.errors import InputError
from clip_core.image.input import HEIF_SUFFIXES, picture_suffixes

# Folders that systems keep beside people's pictures: thumbnails, waste, forks. Those that begin with a dot are hidden.
SYSTEM_FOLDERS = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found")


class Stamp(NamedTuple):
    """What tells a file from another version of it without reading it: bytes, and nanoseconds of its last change."""

    size: int
    time: int


@dataclass(frozen=True)
class Rules:
    """What is left out of a folder.

    exclude: shell patterns of names ("raw", "*.gif"), or, with a /, of paths relative to the folder ("2019/*/raw").
    hidden: whether files and folders that begin with a dot, and `SYSTEM_FOLDERS`, are looked into (default not).
    links: whether links to folders are followed, each folder once (default not; links to files always are).
    """

    exclude: tuple[str, ...] = ()
    hidden: bool = False
    links: bool = False

    def leaves_out(self, name: str, relative: str) -> bool:
        return any(fnmatch.fnmatchcase(relative if "/" in one else name, one.rstrip("/")) for one in self.exclude)


@dataclass
class Walk:
    """What was found.

    files: path -> Stamp, in order, as written in the inputs. unlisted: (path, why) that could not be looked into.
    not_pictures: files of other suffixes; unread: phones' pictures (HEIC) without pillow-heif to read them; hidden,
    excluded: files and folders that were left out; links: to folders, not followed. folders, named, patterns: what was
    asked for. All paths but the files' are absolute.
    """

    files: dict[str, Stamp] = field(default_factory=dict)
    unlisted: list[tuple[str, str]] = field(default_factory=list)
    not_pictures: int = 0
    unread: int = 0
    hidden: int = 0
    excluded: int = 0
    links: int = 0
    folders: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)

    def asked_for(self, path: str) -> bool:
        """Whether a picture of this path belongs to what was asked for, so that it is gone if it was not found."""
        if path in self.named or any(_may_match(path, one) for one in self.patterns):
            return True
        return _is_below(path, self.folders) and not _is_below(path, [unlisted for unlisted, _ in self.unlisted])


def _may_match(path: str, pattern: str) -> bool:
    """As `glob` matches: a * stays in one folder, ** doesn't."""
    is_deep = path.count(os.sep) == pattern.count(os.sep) or "**" in pattern
    return is_deep and fnmatch.fnmatchcase(path, pattern.replace(os.path.join("**", ""), "*"))


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(os.path.join(folder, "")) for folder in folders)


def find_pictures(inputs: Iterable[str | os.PathLike], rules: Rules | None = None) -> Walk:
    """The pictures of folders (all below them), patterns (`**` for all below) and files, in name order.

    A file that is named itself, or that a pattern finds, is taken whatever its suffix. Raises FileNotFoundError for
    what is not there and for a pattern that matches nothing.
    """
    rules, walk = rules or Rules(), Walk()
    for one in inputs:
        name = os.fspath(one)
        if os.path.isdir(name):
            walk.folders.append(os.path.abspath(name))
            _add_folder(walk, name, rules)
        elif os.path.exists(name):
            walk.named.append(os.path.abspath(name))
            _add_file(walk, name)
        else:
            _add_matches(walk, name, rules)
    return walk


def _add_matches(walk: Walk, pattern: str, rules: Rules) -> None:
    matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []
    if not matches:
        raise FileNotFoundError(f"{pattern}: no such file, folder or match")
    walk.patterns.append(os.path.abspath(pattern))
    for match in matches:
        name = os.path.basename(match)
        if rules.leaves_out(name, name):
            walk.excluded += 1
        elif os.path.isfile(match):
            _add_file(walk, match)


def _add_file(walk: Walk, path: str) -> None:
    about = os.stat(path)
    walk.files.setdefault(path, Stamp(about.st_size, about.st_mtime_ns))


def _add_folder(walk: Walk, folder: str, rules: Rules) -> None:
    found: dict[str, Stamp] = {}
    known, seen = picture_suffixes(), {_identity(folder)}
    pending = [folder]
    while pending:
        here = pending.pop()
        for entry in _listed(walk, here):
            if _is_left_out(walk, entry, folder, rules):
                continue
            try:
                if entry.is_dir(follow_symlinks=False) or entry.is_dir():
                    if _is_entered(walk, entry, rules, seen):
                        pending.append(entry.path)
                elif (suffix := os.path.splitext(entry.name)[1].lower()) not in known:
                    walk.unread += suffix in HEIF_SUFFIXES
                    walk.not_pictures += suffix not in HEIF_SUFFIXES
                elif entry.is_file():
                    about = entry.stat()
                    found[entry.path] = Stamp(about.st_size, about.st_mtime_ns)
            except OSError as error:
                walk.unlisted.append((os.path.abspath(entry.path), error.strerror or str(error)))
    for path in sorted(found, key=lambda path: path.split(os.sep)):
        walk.files.setdefault(path, found[path])


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system keeps for itself."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _listed(walk: Walk, folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        walk.unlisted.append((os.path.abspath(folder), error.strerror or str(error)))


def _is_left_out(walk: Walk, entry: os.DirEntry[str], folder: str, rules: Rules) -> bool:
    if not rules.hidden and is_hidden(entry.name):
        walk.hidden += 1
        return True
    if rules.exclude and rules.leaves_out(entry.name, os.path.relpath(entry.path, folder).replace(os.sep, "/")):
        walk.excluded += 1
        return True
    return False


def _is_entered(walk: Walk, entry: os.DirEntry[str], rules: Rules, seen: set[tuple[int, int]]) -> bool:
    """Links to folders only when asked for, and no folder twice."""
    if entry.is_symlink() and not rules.links:
        walk.links += 1
        return False
    if not rules.links:  # without links no folder is met twice
        return True
    identity = _identity(entry.path)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _identity(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_dev, about.st_ino


def common_folder_of(inputs: Sequence[str | os.PathLike]) -> str:
    """The folder that names of inputs' pictures are relative to, absolute; "" where they share none but a whole drive.

    Of one folder it is this one, of files and patterns the deepest that holds them all.
    """
    folders = {os.path.abspath(one) if os.path.isdir(one) else _fixed(os.fspath(one)) for one in inputs}
    try:
        root = os.path.commonpath(folders)
    except ValueError:  # none, or several drives
        return ""
    return "" if root == os.path.dirname(root) else root


def _fixed(path: str) -> str:
    """The folder of a file; of a pattern, the deepest one in front of its first *, ? or [."""
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    while not os.path.exists(path) and glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder


def check_some(walk: Walk) -> None:
    """Raises FileNotFoundError for a folder without pictures, InputError where nothing was asked for."""
    if walk.files:
        return
    if not (walk.folders or walk.named or walk.patterns):
        raise InputError("images: wanted at least one picture, found none")
    known = ", ".join(sorted(picture_suffixes()))
    if walk.unlisted:
        folder, reason = walk.unlisted[0]
        raise FileNotFoundError(f"{folder}: can't be read: {reason}")
    left = f"; {walk.hidden + walk.excluded} hidden or excluded ones were left out" * bool(walk.hidden + walk.excluded)
    raise FileNotFoundError(f"{(walk.folders or walk.patterns)[0]}: no pictures in this folder ({known}){left}")
