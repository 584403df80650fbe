"""Weights that a user's subclass adds to CLIP's: loaded from a file by name, or left as initialised.

A class of this package has a complete table of its weights. Further weights of a file and of a subclass are matched
here by name and shape, so that all backends follow one rule, v4.37's: weights in both are loaded; weights only in the
class keep their initial values, weights only in the file are skipped, and one warning names both. If a file has a
tower of a CLIP inside such a class, none of the tower's weights may be missing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from .errors import CheckpointError
from .weights import Difference, in_scope, is_ignorable

_TOWERS = ("text_model.", "vision_model.")


class OwnParts:
    """A file's entries outside a class's table. The backend takes those that its model has."""

    def __init__(
        self,
        cls: type,
        source: str,
        entries: Mapping[str, Any],
        prefix: str = "",
        strict: bool = True,
        ignore_sizes: bool = False,
    ) -> None:
        """
        Args:
            cls, source: the model's class; the file or folder, for messages.
            entries: name in the file -> lazy tensor.
            prefix: the prefix of the file's CLIP; other names belong to another model.
            strict: False allows missing weights in a CLIP inside.
            ignore_sizes: weights of another shape are initialised freshly.
        """
        self.cls, self.source, self.entries, self.prefix = cls, source, dict(entries), prefix
        self.strict, self.ignore_sizes = strict, ignore_sizes
        self.difference = Difference([], [], [])
        self._used: set[str] = set()

    def take(self, wanted: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], list[str]]:
        """(name -> lazy tensor from the file, names to leave as initialised).

        wanted: name -> shape of every parameter and saved buffer of the model outside the table. If only the model's or
        only the file's names begin with the class's `base_model_prefix`, names are compared without it.

        Raises CheckpointError for differing shapes and for an incomplete CLIP inside.
        """
        spell = self._spelling(wanted)
        keys = {name: spell(name) for name in wanted}
        missing = [name for name, key in keys.items() if key is None]
        found = {name: self.entries[key] for name, key in keys.items() if key is not None}
        self._used |= {key for key in keys.values() if key is not None}
        mismatched = [
            (name, tuple(tensor.shape), tuple(wanted[name]))
            for name, tensor in found.items()
            if tuple(tensor.shape) != tuple(wanted[name])
        ]
        self.difference = Difference(self._without(missing, "_keys_to_ignore_on_load_missing"), [], mismatched)
        lacking = [name for name in missing if _tower(name) in {_tower(n) for n in found}] if self.strict else []
        refused = Difference([n for n in lacking if _tower(n)], [], [] if self.ignore_sizes else mismatched)
        if any(refused):
            raise CheckpointError(
                f"{self.source}: the weights are not those of {self.cls.__name__} with this config:\n{refused.report()}"
            )
        anew = {name for name, _, _ in mismatched}
        return {name: tensor for name, tensor in found.items() if name not in anew}, [*missing, *anew]

    def settle(self) -> Difference:
        """All differences, after the model took its weights; one warning names them."""
        towers = {_tower(name) for name in self._used}
        left = [name for name in self.entries if name not in self._used and self._is_to_be_named(name, towers)]
        unexpected = self._without(left, "_keys_to_ignore_on_load_unexpected")
        difference = self.difference._replace(unexpected=unexpected)
        if any(difference):
            warnings.warn(
                f"{self.source}: {self.cls.__name__} and the file differ beside CLIP's own weights (- not in the file, "
                f"so initialised freshly: train it; + in the file and not used):\n{difference.report()}",
                stacklevel=4,
            )
        return difference

    def _spelling(self, wanted: Mapping[str, Any]) -> Callable[[str], str | None]:
        """A function from a model's name to its name in the file, or None."""
        base = getattr(self.cls, "base_model_prefix", "")
        dot = f"{base}."
        inside, stored = (bool(base) and any(n.startswith(dot) for n in names) for names in (wanted, self.entries))

        def spell(name: str) -> str | None:
            tries = [name, self.prefix + name]
            if inside != stored:
                tries.append(name.removeprefix(dot) if inside else dot + name)
            return next((key for key in tries if key in self.entries), None)

        return spell

    def _is_to_be_named(self, name: str, towers: set[str]) -> bool:
        """Whether the warning names an unused entry: not position ids, another model's weights beside the CLIP, or a
        part of CLIP that the class lacks altogether."""
        if is_ignorable(name) or not name.startswith(self.prefix):
            return False
        own = name.removeprefix(self.prefix)
        return not in_scope(own, "full") or _tower(name) in towers - {""}

    def _without(self, names: list[str], attribute: str) -> list[str]:
        """Names without those that match the class's list of patterns to ignore, an attribute of v4.37."""
        patterns = getattr(self.cls, attribute, None) or ()
        return [name for name in names if not any(re.search(pattern, name) for pattern in patterns)]


def _tower(name: str) -> str:
    """The prefix of a name's CLIP tower ("teacher.vision_model."), or ""."""
    for tower in _TOWERS:
        start, found, _ = name.rpartition(tower)
        if found and (not start or start.endswith(".")):
            return start + found
    return ""
