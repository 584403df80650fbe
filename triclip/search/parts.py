"""Writing, replacing, sweeping and opening the files of an index folder. See `folder` for their names.

The index consists of the files that the manifest names. New rows are files with new numbers, which become part of it
when the manifest, replaced in one step, names them. A process killed at any moment therefore leaves the old index or
the new one, mapped files are never replaced (which Windows would refuse), and the next writer removes files that the
manifest does not name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_core.errors import InputError

from ..locks import locked
from .columns import KINDS, NAME, Column, Strings, dtype_of, is_shown, with_version
from .exact import longest
from .origin import FACTS, Origin
from .runs import DTYPES
from .writing import naming, save_array, save_rows, write_json

if TYPE_CHECKING:
    from .core import Index

MANIFEST = "index.json"
UNREADABLE = "unreadable.json"  # which pictures could not be read, see `triclip.upkeep`
BUSY = ".updating"  # locked by who brings the index up to date
_LOCK = ".lock"
_FORMAT, _VERSION = "triclip-index", 1
_MAPPED_FROM = 1 << 16  # bytes; smaller files are read (empty ones can't be mapped)
_PART = re.compile(r"part-(\d+)\.[\w.]+\.npy")
_CANDIDATES = re.compile(r"candidates-\w+\.(json|bin)")
_DRAFT = re.compile(r"\.(index|candidates)[\w.-]*\.triclip-\w+")  # leftovers of a killed writer

Manifest = dict[str, Any]


# -- writing ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the index's write lock, against other threads and processes, and remove files outside the manifest."""
    with locked(folder / _LOCK):
        sweep(folder)
        try:
            yield
        finally:
            sweep(folder)


def create(folder: Path, manifest: Manifest) -> None:
    """Write an empty index. Raises FileExistsError if there is one, InputError if the path is something else."""
    if (folder / MANIFEST).is_file():
        raise FileExistsError(f"{folder}: there is an index already")
    check_target(folder)
    folder.mkdir(exist_ok=True)
    with writing(folder):
        write_json(folder / MANIFEST, manifest)


def check_target(folder: Path) -> None:
    """Raise InputError unless the path is an index or free."""
    if not folder.exists() or (folder / MANIFEST).is_file():
        return
    # A folder with only an index's files is the leftover of a killed first write.
    if not folder.is_dir() or not all(_is_own(path.name) for path in folder.iterdir()):
        raise InputError(f"{folder}: exists and is no index folder; it is not replaced")


def new_manifest(folder: Path, origin: Origin, width: int, kinds: Mapping[str, str], dtype: str) -> Manifest:
    """Of an index without rows. `kinds`: title -> kind of the metadata.

    Of a hidden folder among the pictures the root is stored as seen from it: both may be moved together.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: wanted one of {', '.join(DTYPES)}, found {dtype!r}")
    titles = [[NAME, "string"], *([title, kind] for title, kind in kinds.items() if title != NAME)]
    about = {"format": _FORMAT, "version": _VERSION, "id": uuid.uuid4().hex, "model": origin.model, **origin.facts}
    if folder.name.startswith(".") and origin.root == os.path.dirname(os.path.abspath(folder)):
        about["root"] = ".."
    return {**about, "width": width, "dtype": dtype, "columns": titles, "parts": []}


def replace(folder: Path, sources: Iterable[Index], dtype: str | None = None) -> None:
    """Replace an index by one of all rows of the sources, with one part each.

    Raises InputError if the sources differ in model, width or columns, or if the path is something else.
    """
    check_target(folder)
    folder.mkdir(exist_ok=True)
    try:
        with writing(folder):
            write_json(folder / MANIFEST, _with_parts(folder, sources, dtype))
    finally:
        remove_remains(folder)


def _with_parts(folder: Path, sources: Iterable[Index], dtype: str | None) -> Manifest:
    """The manifest of a new index, after writing its files."""
    manifest: Manifest | None = None
    for source in sources:
        if manifest is None:
            kinds = {title: column.kind for title, column in source.columns.items()}
            manifest = new_manifest(folder, source.origin, source.width, kinds, dtype or source.dtype.name)
        manifest = with_part(folder, manifest, source)
    if manifest is None:
        raise InputError(f"{folder}: wanted at least one index to build it from, found none")
    return manifest


def with_part(folder: Path, manifest: Manifest, source: Index) -> Manifest:
    """The manifest with a further part, after writing its files; the caller then writes the manifest."""
    columns = _matching(folder, manifest, source)
    if not len(source):
        return manifest
    taken = [part["number"] for part in manifest["parts"]] + list(_numbers(folder))
    number = 1 + max(taken, default=-1)
    vectors = part_file(folder, number, "vectors")
    with naming(vectors):
        save_rows(vectors, source.blocks(), manifest["dtype"], (len(source), source.width))
    stored = map_array(vectors, manifest["dtype"])
    largest = longest(stored[row : row + 4096] for row in range(0, len(stored), 4096))
    for place, column in enumerate(columns):
        for what, array in _arrays(column).items():
            path = part_file(folder, number, f"column{place}{what}")
            with naming(path):
                save_array(path, array)
    part = {"number": number, "rows": len(source), "largest_norm": largest}
    return {**manifest, "parts": [*manifest["parts"], part]}


def _arrays(column: Column) -> dict[str, np.ndarray]:
    if column.kind != "string":
        return {"": column.array()}
    strings = column.parts[0] if len(column.parts) == 1 else Strings.of(list(column))
    return {".offsets": strings.offsets, ".data": strings.data}


def _matching(folder: Path, manifest: Manifest, source: Index) -> list[Column]:
    """The source's columns in the manifest's order. Raises InputError when they don't fit, or the rows don't."""
    origin = origin_of(manifest, folder)
    origin.check_model(source.model, source.origin.fingerprint)
    if source.width != manifest["width"]:
        raise InputError(f"{folder}: wanted vectors of width {manifest['width']}, found {source.width}")
    wanted = dict(manifest["columns"])
    given = with_version(source.columns)
    given = {title: column for title, column in given.items() if is_shown(title) or title in wanted}
    found = {title: _as_kind(column, wanted.get(title)) for title, column in given.items()}
    kinds = {title: column.kind for title, column in found.items()}
    if kinds != wanted and len(source):
        raise InputError(f"{folder}: wanted the columns {_listed(wanted)}, found {_listed(kinds)}")
    if origin.root != source.origin.root:
        found[NAME] = Column("string", [Strings.of(origin.renamed(source.names, source.origin))])
    return [found[title] for title in wanted] if len(source) else []


def origin_of(manifest: Manifest, folder: Path) -> Origin:
    """A relative root is seen from the index's folder: of one that lies among its pictures, and moves with them."""
    origin = Origin(manifest["model"], **{key: manifest[key] for key in FACTS if key in manifest})
    return origin._replace(root=os.path.abspath(os.path.join(folder, origin.root))) if origin.root else origin


def _as_kind(column: Column, kind: str | None) -> Column:
    """A column converted to a kind; integers are numbers too."""
    if (column.kind, kind) == ("integer", "number"):
        return Column("number", [part.astype(np.float64) for part in column.parts])
    return column


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{title} ({kind})" for title, kind in kinds.items())


# -- sweeping ---------------------------------------------------------------------------------------------------------


def sweep(folder: Path) -> None:
    """Remove files that the manifest doesn't name; only under the lock.

    On Windows a mapped file stays, and is removed by a later writer.
    """
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        manifest = {"id": None, "parts": []}
    except InputError:  # damaged, so unknown
        return
    named = {part["number"] for part in manifest["parts"]}
    for path in folder.iterdir():
        part = _PART.fullmatch(path.name)
        stale = part is not None and int(part[1]) not in named
        if stale or _CANDIDATES.fullmatch(path.name) and _record_id(path.with_suffix(".json")) != manifest["id"]:
            with contextlib.suppress(OSError):
                path.unlink()


def _record_id(path: Path) -> Any:
    """The id of the index that an approximate one belongs to; "" if unknown."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def remove_remains(folder: Path) -> None:
    """The folder, if the first writing of its index has failed."""
    if (folder / MANIFEST).is_file():
        return
    with contextlib.suppress(OSError), locked(folder / _LOCK, wait=False):
        if {path.name for path in folder.iterdir()} <= {_LOCK, BUSY}:
            (folder / _LOCK).unlink()
            (folder / BUSY).unlink(missing_ok=True)
            folder.rmdir()


def _numbers(folder: Path) -> Iterator[int]:
    return (int(found[1]) for found in map(_PART.fullmatch, (path.name for path in folder.iterdir())) if found)


def _is_own(name: str) -> bool:
    return name in (_LOCK, BUSY, UNREADABLE) or any(pattern.fullmatch(name) for pattern in (_PART, _CANDIDATES, _DRAFT))


# -- opening ----------------------------------------------------------------------------------------------------------


def part_file(folder: Path, number: int, what: str) -> Path:
    """The name of a part's file, made from numbers, so that no manifest can point outside its folder."""
    return folder / f"part-{number:05d}.{what}.npy"


def open_parts(folder: Path) -> tuple[Manifest, list[np.ndarray], dict[str, Column]]:
    """The manifest, and the vectors and columns that it names, mapped. Raises FileNotFoundError or InputError."""
    manifest = read_manifest(folder)
    while True:
        try:
            return manifest, *open_arrays(folder, manifest)
        except InputError:  # damaged; or a writer has replaced the index and swept the files meanwhile
            now = read_manifest(folder)
            if now == manifest:
                raise
            manifest = now


def open_arrays(folder: Path, manifest: Manifest) -> tuple[list[np.ndarray], dict[str, Column]]:
    """The vectors and columns that a manifest names, mapped. Raises InputError."""
    shapes = [(part["rows"], manifest["width"]) for part in manifest["parts"]]
    vectors = [
        map_array(part_file(folder, part["number"], "vectors"), manifest["dtype"], shape)
        for part, shape in zip(manifest["parts"], shapes, strict=True)
    ]
    columns = {
        title: Column(kind, [_map_column(folder, part, place, kind) for part in manifest["parts"]])
        for place, (title, kind) in enumerate(manifest["columns"])
    }
    return vectors, columns


def _map_column(folder: Path, part: Mapping[str, Any], place: int, kind: str) -> Any:
    if kind != "string":
        return map_array(part_file(folder, part["number"], f"column{place}"), dtype_of(kind), (part["rows"],))
    offsets = map_array(part_file(folder, part["number"], f"column{place}.offsets"), np.int64, (part["rows"] + 1,))
    path = part_file(folder, part["number"], f"column{place}.data")
    strings = Strings(offsets, map_array(path, np.uint8))
    try:
        strings.check()
    except ValueError as error:
        raise InputError(f"{path}: not the strings of this index: {error}") from error
    return strings


def map_array(path: Path, dtype: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A .npy file, mapped if it is large. Raises InputError unless it is complete and of this dtype and shape."""
    try:
        large = path.stat().st_size >= _MAPPED_FROM
        array = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: a part of the index is missing or damaged: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or shape not in (None, array.shape):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"{path}: wanted {np.dtype(dtype)} {shape or ''}, found {found}")
    return array


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a folder index. Raises FileNotFoundError or InputError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no index: it holds no {MANIFEST}")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise InputError(f"{path}: wanted the manifest of an index, found something else")
    if manifest.get("version") != _VERSION:
        raise InputError(f"{path}: wanted version {_VERSION} of the format, found {manifest.get('version')!r}")
    facts = {key: str for key in FACTS if key in manifest}
    wanted = {**facts, "id": str, "model": str, "width": int, "dtype": str, "columns": list, "parts": list}
    for key, kind in wanted.items():
        if not is_record(manifest, {key: kind}):
            raise InputError(f"{path}: {key}: wanted {kind.__name__}, found {manifest.get(key)!r}")
    if manifest["dtype"] not in DTYPES or manifest["width"] < 1:
        found = f"{manifest['dtype']}, {manifest['width']}"
        raise InputError(f"{path}: wanted float32 or float16 and a width, found {found}")
    columns, parts = manifest["columns"], manifest["parts"]
    pairs = [one for one in columns if isinstance(one, list) and len(one) == 2 and all(isinstance(x, str) for x in one)]
    if len(pairs) < len(columns) or not pairs or pairs[0] != [NAME, "string"] or not {k for _, k in pairs} <= {*KINDS}:
        raise InputError(f"{path}: columns: wanted pairs of a title and a kind, found {columns!r}")
    for part in parts:
        good = is_record(part, {"number": int, "rows": int, "largest_norm": float})
        if not good or not all(part[key] >= 0 for key in ("number", "rows", "largest_norm")):
            raise InputError(f"{path}: parts: wanted a number, rows and largest_norm, found {part!r}")
    return manifest


def is_record(found: Any, wanted: Mapping[str, type]) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(key), kind) and not isinstance(found[key], bool) for key, kind in wanted.items()
    )


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: wanted JSON, found a file that does not parse: {error}") from error
