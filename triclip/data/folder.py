"""Folders of pictures without a table: a .txt of the same name beside each, or, with labels, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clip_core.errors import DataError

from ..walk import is_hidden
from .fields import as_captions, captions_if_any, decode_text
from .files import PackedStrings
from .source import PICTURES, Keys, Sample, Source


def open_folder(folders: Sequence[Path], keys: Keys) -> Source:
    """Pictures with captions, or, with a key for labels, pictures with labels. The other keys are suffixes."""
    pictures = (f".{keys.image.lower().lstrip('.')}",) if keys.image else PICTURES
    if keys.label is not None:
        return ClassFolders(folders, pictures)
    return CaptionedFolder(folders, pictures, "." + (keys.caption or "txt").lstrip("."), "captions" in keys.needs)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) for all folders below, sorted; without hidden ones and links to folders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield parent, sorted(name for name in names if not is_hidden(name))


def _classes(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)]


class CaptionedFolder(Source):
    """Pictures, in nested folders too, with a text file beside each; those without one are left out if `needed`."""

    def __init__(self, folders: Sequence[Path], pictures: tuple[str, ...], text: str, needed: bool = True) -> None:
        self.text, self.needed = text, needed
        self._paths = PackedStrings(
            os.path.join(parent, name)
            for folder in folders
            for parent, names in _walk(folder)
            for there in [set(names)]
            for name in names
            if name.lower().endswith(pictures) and (not needed or os.path.splitext(name)[0] + text in there)
        )
        if not len(self._paths):
            raise DataError(
                f"{folders[0]}: wanted pictures ({', '.join(pictures)}){f' with a {text} beside each' * needed}, "
                f"or a table, found none"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, number: int) -> str:
        return self._paths[number]

    def __getitem__(self, number: int) -> Sample:
        path = self._paths[number]
        beside = Path(os.path.splitext(path)[0] + self.text)
        if self.needed:
            captions = as_captions([decode_text(beside.read_bytes(), str(beside))], str(beside))
        else:
            captions = captions_if_any([beside.read_bytes()] if beside.is_file() else [], str(beside))
        return Sample(path, [path], captions)


class ClassFolders(Source):
    """Pictures with the name of their top folder as the class: "train/cat/3.jpg" is a "cat"."""

    def __init__(self, folders: Sequence[Path], pictures: tuple[str, ...]) -> None:
        self.label_names = sorted({entry.name for folder in folders for entry in _classes(folder)})
        numbers = {name: number for number, name in enumerate(self.label_names)}
        paths, labels = [], []  # type: list[str], list[int]
        for folder in folders:
            for label in sorted(entry.name for entry in _classes(folder)):
                for parent, names in _walk(folder / label):
                    found = [os.path.join(parent, name) for name in names if name.lower().endswith(pictures)]
                    paths += found
                    labels += [numbers[label]] * len(found)
        self._paths, self._labels = PackedStrings(paths), np.array(labels, np.int32)
        if not paths:
            raise DataError(
                f"{folders[0]}: wanted one folder per class with pictures ({', '.join(pictures)}) in it, found none"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, number: int) -> str:
        return self._paths[number]

    def __getitem__(self, number: int) -> Sample:
        path = self._paths[number]
        return Sample(path, [path], [], int(self._labels[number]))
