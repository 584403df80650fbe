"""Rows of ids, as lists, filled up to one length; and arrays or tensors of any framework as lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from clip_core.errors import InputError
from clip_core.text.encoding import padding_length


def pad_row(
    row: Mapping[str, Any], length: int | None, side: str, fillings: Mapping[str, int], mask: bool
) -> dict[str, Any]:
    """One row's values, those named in `fillings` filled up to `length` (None: as they are); with `mask`, its mask."""
    padded = dict(row)
    missing = 0 if length is None else max(0, length - len(row["input_ids"]))
    if mask and "attention_mask" not in padded:
        padded["attention_mask"] = [1] * len(row["input_ids"])
    for name, filling in fillings.items():
        if name in padded and missing and (mask or name != "attention_mask"):
            column, extra = list(padded[name]), [filling] * missing
            padded[name] = column + extra if side == "right" else extra + column
    return padded


def as_lists(encoded: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Values as plain lists, and the `return_tensors` name of the kind that `input_ids` were (None for lists)."""
    found: dict[str, Any] = {}
    kind = None
    for name, value in encoded.items():
        found[name], this_kind = to_list(value)
        if name == "input_ids":
            kind = this_kind
    return found, kind


def to_list(value: Any) -> tuple[Any, str | None]:
    """An array or tensor of any framework, or a list that may hold some, as plain lists; and its kind."""
    if isinstance(value, np.ndarray):
        return value.tolist(), "np"
    if isinstance(value, (list, tuple)):
        items = [to_list(item) for item in value]
        return [item for item, _ in items], items[0][1] if items else None
    if isinstance(value, np.generic):
        return value.item(), "np"
    module = type(value).__module__.split(".")[0]
    if module == "torch":
        return value.detach().cpu().tolist(), "pt"
    if module == "tensorflow":
        return value.numpy().tolist(), "tf"
    if module.startswith("jax"):
        return np.asarray(value).tolist(), "jax"
    return value, None


def collate(rows: Any) -> dict[str, Any]:
    """A list of encodings as one mapping of lists; a mapping as it is.

    Raises InputError when `input_ids` are missing or rows lack a name that the first has.
    """
    if isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], Mapping):
        try:
            rows = {name: [row[name] for row in rows] for name in rows[0]}
        except KeyError as error:
            raise InputError(f"encoded_inputs: every row needs the same names; one lacks {error}") from error
    if not isinstance(rows, Mapping) or "input_ids" not in rows:
        found = list(rows) if isinstance(rows, Mapping) else type(rows).__name__
        raise InputError(f"encoded_inputs: wanted encodings with 'input_ids', found {found}")
    return dict(rows)


def pad_batch(
    encoded: Mapping[str, Any],
    strategy: str,
    max_length: int | None,
    multiple: int | None,
    side: str,
    fillings: Mapping[str, int],
    mask: bool,
) -> dict[str, Any]:
    """Fill up one encoding (`input_ids` a list of ids) or a batch of them (a list of such lists)."""
    ids = encoded["input_ids"]
    if not ids or not isinstance(ids[0], (list, tuple)):
        if not ids:
            return {**encoded, "attention_mask": []} if mask else dict(encoded)
        length = padding_length([len(ids)], strategy, max_length, multiple)
        return pad_row(encoded, length, side, fillings, mask)
    if any(len(values) != len(ids) for values in encoded.values()):
        sizes = {name: len(values) for name, values in encoded.items()}
        raise InputError(f"encoded_inputs: wanted as many values for each name, found {sizes}")
    length = padding_length([len(row) for row in ids], strategy, max_length, multiple)
    return pad_rows(encoded, length, side, fillings, mask)


def pad_rows(
    encoded: Mapping[str, Any], length: int | None, side: str, fillings: Mapping[str, int], mask: bool
) -> dict[str, Any]:
    """`pad_row` for every row of a batch."""
    rows = [
        pad_row({name: values[i] for name, values in encoded.items()}, length, side, fillings, mask)
        for i in range(len(encoded["input_ids"]))
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def split_pairs(items: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Items of a batch as (text, pair or None): a list or tuple of two is a pair."""
    pairs: list[tuple[Any, Any]] = []
    for item in items:
        if isinstance(item, (list, tuple)):
            if len(item) != 2:
                raise InputError(f"text: wanted a text or a pair of texts, found {len(item)} items: {item!r}")
            pairs.append((item[0], item[1]))
        else:
            pairs.append((item, None))
    return pairs
