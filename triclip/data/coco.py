"""COCO's captions: one JSON file of pictures and sentences, beside the folders of pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_core.errors import DataError

from .fields import as_captions, decode_text, json_object
from .files import PackedStrings
from .source import Keys, Sample, Source


class CocoCaptions(Source):
    """The pictures of `captions_<split>.json` files with all their sentences; pictures without one are left out.

    A picture's `file_name` is looked for in the JSON's folder, in `<split>` and `images/<split>` there and one folder
    up, and in the folder that `keys.image` names.
    """

    def __init__(self, files: Sequence[Path], keys: Keys) -> None:
        paths: list[str] = []
        self._captions: list[list[str]] = []
        for file in files:
            described = json_object(decode_text(file.read_bytes(), str(file)), str(file))
            names, sentences = _pictures(described, file), _sentences(described, file)
            used = [number for number in names if number in sentences]
            if not used:
                raise DataError(f"{file}: wanted captions of pictures, found none")
            folder = _folder(file, names[used[0]], keys.image)
            paths += [str(folder / names[number]) for number in used]
            self._captions += [sentences[number] for number in used]
        self._paths = PackedStrings(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, number: int) -> str:
        return self._paths[number]

    def __getitem__(self, number: int) -> Sample:
        path = self._paths[number]
        return Sample(path, [path], as_captions(self._captions[number], path))


def _pictures(described: dict[str, Any], file: Path) -> dict[Any, str]:
    try:
        names = {picture["id"]: picture["file_name"] for picture in described["images"]}
    except (KeyError, TypeError) as error:
        raise DataError(f'{file}: wanted COCO\'s "images" with id and file_name, found none ({error!r})') from error
    for name in names.values():
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{file}: images: wanted names of files, found {name!r}")
    return names


def _sentences(described: dict[str, Any], file: Path) -> dict[Any, list[str]]:
    found: dict[Any, list[str]] = {}
    try:
        for one in described["annotations"]:
            found.setdefault(one["image_id"], []).append(one["caption"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f'{file}: wanted COCO\'s "annotations" with image_id and caption, found none ({error!r})'
        ) from error
    return found


def _folder(file: Path, name: str, given: str | None) -> Path:
    """The folder that holds the first picture, and so all."""
    if given is not None:
        tried = [file.parent / given]
    else:
        split = re.sub(r"^captions_", "", file.stem)
        tried = [up / inner for up in (file.parent, file.parent.parent) for inner in ("", split, f"images/{split}")]
    for folder in tried:
        if (folder / name).is_file():
            return folder
    named = ", ".join(map(str, tried))
    raise DataError(f"{file}: wanted its pictures in one of {named} (or image_key), found no {name} there")
