"""Names of classes: from a file, from the data; labels in the data as their numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_core.errors import ConfigError, DataError


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """A file of one label per line, in the order of the numbers in the data.

    Raises FileNotFoundError, and ConfigError naming the line of an empty or repeated label.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: wanted UTF-8 text, one label per line: {error}") from error
    return check_labels(text.removesuffix("\n").split("\n"), str(path))


def check_labels(labels: Sequence[str], source: str) -> list[str]:
    """Labels without the spaces around them; ConfigError when one is empty or stands twice."""
    lines: dict[str, int] = {}
    for number, line in enumerate(labels, 1):
        label = line.strip() if isinstance(line, str) else ""
        if not label:
            raise ConfigError(f"{source}: line {number}: wanted a label, found {line!r}")
        if label in lines:
            raise ConfigError(f"{source}: line {number}: {label!r} stands in line {lines[label]} already")
        lines[label] = number
    if not lines:
        raise ConfigError(f"{source}: wanted labels, found none")
    return list(lines)


def names_in_data(gather: Callable[[np.ndarray], np.ndarray], data: Any, labels: Sequence[int | str]) -> list[str]:
    """The classes of data that name them: in the order of their numbers, or of the alphabet."""
    if data.label_names is not None:
        return check_labels(data.label_names, "the names of the labels in the data")
    if gather(column(np.array([any(isinstance(label, int) for label in labels)]))).any():  # in any process
        raise ConfigError("labels: wanted a file with the names, one per line: the data hold numbers alone")
    # Texts travel between processes as the characters of JSON lines.
    own = "".join(json.dumps(name) + "\n" for name in sorted({str(label) for label in labels}))
    everywhere = gather(column(np.frombuffer(own.encode("ascii"), np.uint8)))[:, 0]
    names = {json.loads(line) for line in everywhere.astype(np.uint8).tobytes().splitlines()}
    if not names:
        raise DataError(f"zero_shot: wanted labelled pictures, found none in {data.samples} samples")
    return sorted(names)


def numbered(
    labels: Sequence[int | str], names: Sequence[str], names_of_numbers: Sequence[str] | None = None
) -> np.ndarray:
    """Class numbers int64 [N], places in `names`. Raises DataError for a label that is none of the classes.

    `names_of_numbers`: what the data call their numbers. Where these are the same names as `names`, in whatever order,
    numbers are understood by them; where none is, as when a file says "tench" for n01440764, by their order.
    """
    places = {name: number for number, name in enumerate(names)}
    of_numbers = _places_of_numbers(places, names_of_numbers)
    out = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        if isinstance(label, str):
            if label.strip() not in places:
                raise DataError(f"labels: wanted one of the {len(names)} labels, found {label!r} in the data")
            out[row] = places[label.strip()]
        elif not 0 <= label < len(of_numbers):
            wanted = f"wanted numbers from 0 to {len(of_numbers) - 1}, one per label"
            raise DataError(f"labels: {wanted}, found {label} in the data")
        else:
            out[row] = of_numbers[label]
    return out


def _places_of_numbers(places: Mapping[str, int], names_of_numbers: Sequence[str] | None) -> list[int]:
    """The place among the classes of each number in the data."""
    own = [name.strip() for name in names_of_numbers or ()]
    unknown = [name for name in own if name not in places]
    if own and not unknown:
        return [places[name] for name in own]
    if unknown and (len(unknown) < len(own) or len(own) != len(places)):
        raise DataError(f"labels: wanted one of the {len(places)} labels, found {unknown[0]!r} in the data")
    return list(range(len(places)))


def column(values: np.ndarray) -> np.ndarray:
    """Integers as int32 rows of one, which every framework exchanges between processes."""
    return np.asarray(values, np.int32).reshape(-1, 1)
