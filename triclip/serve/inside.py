"""Access to files confined to a folder.

Requests have ids of rows, never names. Names come from an index, which may be wrong or hostile, and the folder may
contain links and change at any time. A name is therefore accepted only if it lies in the folder as written; its target
is resolved, checked, and opened step by step without following links.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_STEPS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


class Folder:
    """A folder that access is confined to.

    Args:
        path: the folder. Raises FileNotFoundError or NotADirectoryError.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            problem = NotADirectoryError if self.path.exists() else FileNotFoundError
            raise problem(f"{path}: wanted a folder of pictures")
        self.real = os.path.realpath(path)
        self._written = dict.fromkeys((os.path.abspath(path), self.real))  # names may have either form
        self._starts = dict.fromkeys((os.getcwd(), *self._written))

    def relative(self, name: str) -> str | None:
        """A picture's name relative to the folder; None if, as written, it lies outside.

        Relative names are resolved from the working directory, then from the folder.
        """
        if not name or "\0" in name:
            return None
        for start in self._starts:
            path = os.path.normpath(os.path.join(start, name))
            for root in self._written:
                if path.startswith(os.path.join(root, "")) and path != root:
                    return path[len(os.path.join(root, "")) :]
            if os.path.isabs(name):
                break
        return None

    def holds(self, relative: str) -> bool:
        """Whether a name, with links resolved, is a file in the folder."""
        return self._inner(relative) is not None

    def open(self, relative: str) -> BinaryIO:
        """Open a regular file for reading. Raises FileNotFoundError if it is not in the folder, for any reason."""
        inner = self._inner(relative)
        if inner is None:
            raise FileNotFoundError(f"{relative}: no such file in the folder")
        try:
            descriptor = _open_by_steps(self.real, inner) if _STEPS else os.open(os.path.join(self.real, inner), _FLAGS)
        except OSError as error:
            raise FileNotFoundError(f"{relative}: no such file in the folder") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(f"{relative}: no such file in the folder")
        return os.fdopen(descriptor, "rb")

    def _inner(self, relative: str) -> str | None:
        """The resolved target of a name, relative to the real folder."""
        try:
            real = os.path.realpath(os.path.join(self.real, relative), strict=True)
        except (OSError, ValueError):
            return None
        start = os.path.join(self.real, "")
        return real[len(start) :] if real.startswith(start) and os.path.isfile(real) else None


_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _open_by_steps(folder: str, inner: str) -> int:
    """A file descriptor, opened one folder at a time, so that links created meanwhile are refused."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    *folders, last = inner.split(os.sep)
    try:
        for step in folders:
            after = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = after
        return os.open(last, _FLAGS, dir_fd=at)
    finally:
        os.close(at)
