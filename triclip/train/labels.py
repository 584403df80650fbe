"""Class names from a file or from the data, and labels in the data as class numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import ConfigError, DataError

IMAGENET = "imagenet"  # name in place of a file
_IMAGENET_LABELS = Path(__file__).with_name("imagenet_labels.txt")  # OpenAI's and open_clip's names; see NOTICE


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """The labels of a file, one per line, in the order of the numbers in the data; for "imagenet" the 1,000 names with
    which OpenAI and open_clip evaluate ("missile" and "sunglasses" are the names of two classes each).

    Raises FileNotFoundError, and ConfigError naming the line of an empty label.
    """
    if path == IMAGENET:
        path = _IMAGENET_LABELS
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: wanted UTF-8 text, one label per line: {error}") from error
    return check_labels(text.removesuffix("\n").split("\n"), str(path))


def check_labels(labels: Sequence[str], source: str) -> list[str]:
    """Labels, stripped; ConfigError if one is empty. A name may occur for several classes."""
    found = []
    for number, line in enumerate(labels, 1):
        label = line.strip() if isinstance(line, str) else ""
        if not label:
            raise ConfigError(f"{source}: line {number}: wanted a label, found {line!r}")
        found.append(label)
    if not found:
        raise ConfigError(f"{source}: wanted labels, found none")
    return found


def default_templates(labels: Any) -> Sequence[str] | None:
    """The default templates of named label sets such as "imagenet"; None for the model's own."""
    if labels != IMAGENET:
        return None
    from ..prompts import OPENAI_IMAGENET_TEMPLATES

    return OPENAI_IMAGENET_TEMPLATES


def names_in_data(gather: Callable[[np.ndarray], np.ndarray], data: Any, labels: Sequence[int | str]) -> list[str]:
    """The class names in the data: in the order of their numbers, or alphabetically."""
    if data.label_names is not None:
        return check_labels(data.label_names, "the names of the labels in the data")
    if gather(column(np.array([any(isinstance(label, int) for label in labels)]))).any():  # in any process
        raise ConfigError("labels: wanted a file with the names, one per line: the data hold numbers alone")
    # Texts are exchanged between processes as the characters of JSON lines.
    own = "".join(json.dumps(name) + "\n" for name in sorted({str(label) for label in labels}))
    everywhere = gather(column(np.frombuffer(own.encode("ascii"), np.uint8)))[:, 0]
    names = {json.loads(line) for line in everywhere.astype(np.uint8).tobytes().splitlines()}
    if not names:
        raise DataError(f"zero_shot: wanted labelled pictures, found none in {data.samples} samples")
    return sorted(names)


def numbered(
    labels: Sequence[int | str], names: Sequence[str], names_of_numbers: Sequence[str] | None = None
) -> np.ndarray:
    """Class numbers int64 [N], places in `names`. Raises DataError for an unknown label, or a name of several classes.

    `names_of_numbers`: the data's names of their numbers. If these are the same names as `names`, in any order, numbers
    are matched by name; if none is (a file with "tench" for n01440764), by order.
    """
    places = _Places(names)
    of_numbers = _places_of_numbers(places, names_of_numbers)
    out = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        if isinstance(label, str):
            out[row] = places.of(label.strip())
        elif not 0 <= label < len(of_numbers):
            wanted = f"wanted numbers from 0 to {len(of_numbers) - 1}, one per label"
            raise DataError(f"labels: {wanted}, found {label} in the data")
        else:
            out[row] = of_numbers[label]
    return out


class _Places:
    """Names of classes to their numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self._numbers = list(names), {}  # type: list[str], dict[str, list[int]]
        for number, name in enumerate(names):
            self._numbers.setdefault(name, []).append(number)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def of(self, name: str) -> int:
        """The place of a name. Raises DataError for an unknown name, or a name of several classes."""
        found = self._numbers.get(name, ())
        if not found:
            raise DataError(f"labels: wanted one of the {len(self.names)} labels, found {name!r} in the data")
        if len(found) > 1:
            lines = " and ".join(str(number + 1) for number in found)
            raise DataError(
                f"labels: {name!r} stands in lines {lines}: wanted numbers in the data, or names that stand once, "
                f"found the name {name!r} there"
            )
        return found[0]


def _places_of_numbers(places: _Places, names_of_numbers: Sequence[str] | None) -> list[int]:
    """The class of each number in the data."""
    own = [name.strip() for name in names_of_numbers or ()]
    in_order = list(range(len(places.names)))
    if not own or own == places.names:
        return in_order
    unknown = [name for name in own if name not in places]
    if len(unknown) == len(own) == len(places.names):  # the data have other names for all of them
        return in_order
    return [places.of(name) for name in [*unknown, *own]][len(unknown) :]


def column(values: np.ndarray) -> np.ndarray:
    """Integers as int32 rows [N, 1], which every framework can exchange between processes."""
    return np.asarray(values, np.int32).reshape(-1, 1)
