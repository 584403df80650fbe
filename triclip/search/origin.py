"""The origin of an index: the model of its vectors, and the folder of its pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from clip_core.errors import InputError


class Origin(NamedTuple):
    """model: its name. fingerprint: of its files, see `triclip.fingerprint`; "" where that is not known.
    root: the folder that names are relative to, absolute; "" where they are not. background: the colour that
    transparent pictures were laid on, "none" for none; "" where that is not known. rules: of the folder that is kept up
    to date (see `triclip.walk.Rules`), as JSON; "" for the usual ones."""

    model: str
    fingerprint: str = ""
    root: str = ""
    background: str = ""
    rules: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """What a file stores beside the model's name: that which is known."""
        return {key: value for key, value in self._asdict().items() if key in FACTS and value}

    @property
    def colour(self) -> str | None:
        """The background as `Clip` takes it."""
        return None if self.background == "none" else self.background or "white"

    def check_model(self, model: str, fingerprint: str = "") -> None:
        """Raise InputError if a model is known to be another one than the vectors'."""
        if fingerprint and self.fingerprint:
            if fingerprint != self.fingerprint:
                what = "another content (weights, configuration, tokenizer or processor) under this name"
                found = what if model == self.model else f"{model!r}, of another content"
                raise InputError(f"index: wanted the model {self.model!r} that made its vectors, found {found}")
        elif model != self.model:
            raise InputError(f"index: wanted vectors of the model {self.model!r}, found some of {model!r}")

    def check_background(self, background: str) -> None:
        """Raises InputError for another colour than transparent pictures were laid on, as far as that is known."""
        if self.background and background != self.background:
            wanted = f"wanted the background {self.background!r}, on which its transparent pictures were laid"
            raise InputError(f"index: {wanted}, found {background!r}")

    def path_of(self, name: str) -> str:
        """The path of the picture with this name."""
        return os.path.join(self.root, name) if self.root else name

    def renamed(self, names: Sequence[str], other: Origin) -> Sequence[str]:
        """Names of another index, converted for this one."""
        if other.root == self.root or not other.root:
            return names
        paths = map(other.path_of, names)
        return [relative_name(path, self.root) if self.root else path for path in paths]


FACTS = Origin._fields[1:]


def relative_name(path: str, root: str) -> str:
    """A path relative to a folder, with / as the separator on every system."""
    try:
        return os.path.relpath(path, root).replace(os.sep, "/")
    except ValueError:  # another drive
        return os.path.abspath(path)
