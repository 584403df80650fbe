"""Opening what is served: a folder of pictures, an index of them, or an index that an engine holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clip_core.errors import InputError

from ..pipeline import Clip, expand_images
from ..search import Index, Origin, open_searchable
from ..search.columns import NAME
from ..search.opening import is_index
from .inside import Folder
from .library import Library, version_of
from .limits import Limits
from .remote import RemoteLibrary

_LOOKED_AT = 100  # rows of an index whose files are looked for before it is served


def open_library(
    path: str | os.PathLike,
    load: Callable[[str | None], Clip],
    folder: str | os.PathLike | None = None,
    limits: Limits | None = None,
    skipped: Callable[[Iterable[tuple[Any, str]]], None] | None = None,
    batch_size: int = 32,
    check: Callable[[Origin], None] | None = None,
) -> Library:
    """A library from a folder of pictures, which are embedded now, or from an index.

    Args:
        path: a folder of pictures, or what `triclip embed` or `triclip index` wrote.
        load: gives the `Clip`, from the name of the model that made the index, or None for a folder.
        folder: where an index's pictures lie; default its root, or the deepest folder that holds all its names.
        limits: see `Library`.
        skipped: told about pictures of the folder that could not be embedded, as (picture, reason).
        batch_size: pictures that are embedded at a time.
        check: told where an index comes from; raises when the model is another one, before it is loaded.

    Raises FileNotFoundError and InputError; ImageError is never raised for one bad picture of many.
    """
    given, path = path, Path(path)
    if path.is_dir() and not is_index(path):
        if folder is not None:
            raise InputError(f"--folder: {path} is a folder of pictures itself; only an index needs another one")
        clip = load(None)
        return Library(clip, _embedded(clip, path, skipped, batch_size), path, limits)
    version = version_of(path)  # before it is opened: what changes meanwhile is seen by the next request
    index = open_searchable(given)
    if check is not None:
        check(index.origin)
    if not isinstance(index, Index):
        if folder is None and not index.origin.root:
            raise InputError(f"{given}: its names have no folder; say with --folder where the pictures lie")
        return RemoteLibrary(load(index.origin.model), index, folder or index.origin.root, limits)
    root = _folder_of(index) if folder is None else Path(folder)
    base = index.origin.root if folder is None else folder
    library = Library(load(index.model), index, root, limits, base, (path, version))
    if not any(library.has_file(int(row)) for row in library.rows[:: max(1, len(library) // _LOOKED_AT)]):
        raise InputError(f"{path}: its names are no files in {root}; say with --folder where the pictures lie")
    return library


def _embedded(clip: Clip, path: Path, skipped: Any, batch_size: int) -> Index:
    folder = Folder(path)
    pictures = [one for one in expand_images(path) if folder.holds(os.path.relpath(one, path))]  # no links outwards
    if not pictures:
        raise FileNotFoundError(f"{path}: no pictures in this folder, only links that lead out of it")
    found = clip.embed(pictures, batch_size)
    if skipped is not None:
        skipped(found.skipped)
    if not found.sources:
        raise InputError(f"{path}: none of the {len(found.skipped)} pictures could be read")
    return Index(found.vectors, [os.path.abspath(source) for source in found.sources], "")


def _folder_of(index: Index) -> Path:
    """The root; or the deepest folder that holds all pictures, where rows were added that lie beside the root."""
    names = index.columns[NAME]
    if index.origin.root and not any(name.startswith(("../", "/")) for name in names):
        return common_folder([os.path.join(index.origin.root, "x")])
    return common_folder(map(index.origin.path_of, names))


def common_folder(names: Iterable[str]) -> Path:
    """The deepest folder that holds all names. Raises InputError when that would be a whole drive, or there is none."""
    folders = list(dict.fromkeys(os.path.dirname(os.path.abspath(name)) for name in names if name and "\0" not in name))
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError as error:  # no names, or several drives
        raise InputError("index: its names share no folder; say with --folder where the pictures lie") from error
    if common == Path(common.anchor):
        raise InputError(f"index: its names share no folder but {common}; say with --folder where the pictures lie")
    return common
