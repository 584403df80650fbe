"""An index that is being brought up to date, in a folder or in one file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clip_core.errors import InputError

from ..locks import locked
from ..search import FolderIndex, Index, open_index
from ..search.changing import change_folder, create_folder, join
from ..search.columns import NAME, VERSION, is_shown, with_version
from ..search.origin import Origin
from ..search.parts import BUSY, MANIFEST, UNREADABLE, check_target, read_json, remove_remains, replace
from ..search.writing import write_json
from ..walk import Stamp


class BusyError(InputError):
    """Another program is bringing the index up to date."""


class Store:
    """An index at a path, if there is one, and how it is changed.

    Attributes: index, None where there is none yet, or where it is to be replaced.
    """

    def __init__(self, path: Path, replaces: bool = False) -> None:
        self.path, self.is_folder = path, path.suffix not in (".npz", ".npy", ".parquet")
        self.replaces = replaces
        self.index: Index | None = None

    def _open(self) -> None:
        there = (self.path / MANIFEST if self.is_folder else self.path).is_file()
        if there and not self.replaces:
            self.index = open_index(self.path)
            self._check_columns(self.index)

    def _check_columns(self, index: Index) -> None:
        own = [title for title in index.columns if title != NAME and is_shown(title)]
        if own:
            raise InputError(
                f"{self.path}: wanted an index that `triclip embed` made of pictures, found columns of its own "
                f"({', '.join(own)}), for which new pictures have no values"
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The index, opened, while no other process brings it up to date. Raises BusyError when one does."""
        if not self.is_folder:
            self._open()
            yield
            return
        check_target(self.path)
        self.path.mkdir(exist_ok=True)
        try:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(locked(self.path / BUSY, wait=False))
                except BlockingIOError as error:
                    raise BusyError(f"{self.path}: another program is bringing this index up to date") from error
                self._open()
                yield
        finally:
            remove_remains(self.path)

    def commit(self, origin: Origin, dropped: np.ndarray, added: list[Index]) -> None:
        """Rows of `index` (ascending numbers) leave, others come, at once and on disk; `origin`: with the rules now."""
        if self.replaces or self.index is None:
            self._create(added)
        elif self.is_folder:
            assert isinstance(self.index, FolderIndex)
            change_folder(self.path, self.index.manifest, dropped, join(added) if added else None, origin.rules)
        else:
            kept = np.setdiff1d(np.arange(len(self.index)), dropped, assume_unique=True)
            old = self.index.take(kept)
            pieces = [Index.from_parts(old.parts, with_version(old.columns), origin, old.width), *added]
            join(pieces).save(self.path)
        if (self.path / MANIFEST if self.is_folder else self.path).is_file():
            self.replaces, self.index = False, open_index(self.path)

    def _create(self, added: list[Index]) -> None:
        if not added:
            return
        whole = join(added)
        if self.is_folder and self.replaces:
            replace(self.path, [whole])
        elif self.is_folder:
            create_folder(self.path, whole)
        else:
            whole.save(self.path)

    # -- pictures that can't be read -----------------------------------------------------------------------------------

    def unreadable(self) -> dict[str, tuple[Stamp, str]]:
        """Name -> the version that could not be read, and why not; of a file that is an index nothing is kept."""
        path = self.path / UNREADABLE
        if self.replaces or not (self.is_folder and path.is_file()):
            return {}
        try:
            return {name: (Stamp(*stamp), reason) for name, (stamp, reason) in read_json(path).items()}
        except (InputError, ValueError, TypeError, AttributeError):  # it only saves time
            return {}

    def keep_unreadable(self, found: dict[str, tuple[Stamp, str]]) -> None:
        if self.is_folder and self.index is not None and found != self.unreadable():
            write_json(self.path / UNREADABLE, found)


def versions(index: Index) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and times int64 [N] of the files that the rows were made of; -1 where they are not known."""
    columns = with_version(index.columns)
    size, time, _ = VERSION
    return columns[size].array(), columns[time].array()
