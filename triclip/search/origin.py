"""The origin of an index: the model of its vectors, and the folder of its pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from clip_core.errors import InputError


class Origin(NamedTuple):
    """model: its name. fingerprint: of its files, see `triclip.fingerprint`; "" if unknown.
    root: the absolute folder that names are relative to; "" if they are not."""

    model: str
    fingerprint: str = ""
    root: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """The known values, which a file stores beside the model's name."""
        return {key: value for key, value in (("fingerprint", self.fingerprint), ("root", self.root)) if value}

    def check_model(self, model: str, fingerprint: str = "") -> None:
        """Raise InputError if a model is known to be another one than the vectors'."""
        if fingerprint and self.fingerprint:
            if fingerprint != self.fingerprint:
                what = "another content (weights, configuration, tokenizer or processor) under this name"
                found = what if model == self.model else f"{model!r}, of another content"
                raise InputError(f"index: wanted the model {self.model!r} that made its vectors, found {found}")
        elif model != self.model:
            raise InputError(f"index: wanted vectors of the model {self.model!r}, found some of {model!r}")

    def path_of(self, name: str) -> str:
        """The path of the picture with this name."""
        return os.path.join(self.root, name) if self.root else name

    def renamed(self, names: Sequence[str], other: Origin) -> Sequence[str]:
        """Names of another index, converted for this one."""
        if other.root == self.root or not other.root:
            return names
        paths = map(other.path_of, names)
        return [relative_name(path, self.root) if self.root else path for path in paths]


def relative_name(path: str, root: str) -> str:
    """A path relative to a folder, with / as the separator on every system."""
    try:
        return os.path.relpath(path, root).replace(os.sep, "/")
    except ValueError:  # another drive
        return os.path.abspath(path)


def common_root(paths: Sequence[str | os.PathLike]) -> str:
    """The deepest absolute folder that contains all files; "" if that is only a whole drive."""
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    try:
        root = os.path.commonpath(folders)
    except ValueError:  # no files, or several drives
        return ""
    return "" if root == os.path.dirname(root) else root
