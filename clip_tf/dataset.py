"""Rows of a table as a tf.data.Dataset of batches: `prepare_tf_dataset` of v4.37's models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from clip_core.errors import InputError

LABELS = ("labels", "label", "label_ids")


def prepare_tf_dataset(
    call: Callable[..., Any],
    dataset: Any,
    batch_size: int = 8,
    shuffle: bool = True,
    tokenizer: Any = None,
    collate_fn: Callable[..., Any] | None = None,
    collate_fn_args: Mapping[str, Any] | None = None,
    drop_remainder: bool | None = None,
    prefetch: bool = True,
) -> tf.data.Dataset:
    """See `TFPreTrainedModel.prepare_tf_dataset`; columns are the parameters of the method `call`."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"dataset: wanted a datasets.Dataset or a list of rows, found a {type(dataset).__name__}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size: wanted a whole number of at least 1, found {batch_size!r}")
    if len(dataset) == 0:
        raise InputError("dataset: wanted at least one row, found none")
    wanted = [name for name in inspect.signature(call).parameters if name != "self"]
    collate = collate_fn or (stacked if tokenizer is None else lambda rows: padded(rows, tokenizer))
    drop = shuffle if drop_remainder is None else drop_remainder

    def batch(numbers: Sequence[int]) -> Any:
        rows = [{k: v for k, v in dataset[int(i)].items() if k in (*wanted, *LABELS)} for i in numbers]
        return split(dict(collate(rows, **(collate_fn_args or {}))), wanted)

    def batches() -> Iterator[Any]:
        order = np.random.permutation(len(dataset)) if shuffle else np.arange(len(dataset))
        for start in range(0, len(order), batch_size):
            if not drop or start + batch_size <= len(order):
                yield batch(order[start : start + batch_size])

    few = [batch(range(min(2, len(dataset)))), batch([0])]
    out = tf.data.Dataset.from_generator(batches, output_signature=tf.nest.map_structure(_spec, *few))
    count = len(dataset) // batch_size if drop else -(-len(dataset) // batch_size)
    out = out.apply(tf.data.experimental.assert_cardinality(count))
    return out.prefetch(tf.data.AUTOTUNE) if prefetch else out


def stacked(rows: list[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of equal shapes as arrays; "label" and "label_ids" become "labels"."""
    names = {name: "labels" if name in LABELS else name for name in rows[0]}
    return {new: np.stack([np.asarray(row[old]) for row in rows]) for old, new in names.items()}


def padded(rows: list[Mapping[str, Any]], tokenizer: Any) -> dict[str, np.ndarray]:
    """As `stacked`, with texts padded by the tokenizer to the longest of the batch."""
    texts = [{k: v for k, v in row.items() if k in ("input_ids", "attention_mask")} for row in rows]
    rest = [{k: v for k, v in row.items() if k not in ("input_ids", "attention_mask")} for row in rows]
    return {**tokenizer.pad(texts, return_tensors="np"), **(stacked(rest) if rest[0] else {})}


def split(batch: dict[str, Any], wanted: Sequence[str]) -> Any:
    """(features, labels), or only features; a single one is without its name, as in v4.37."""
    features = {name: np.asarray(value) for name, value in batch.items() if name in wanted}
    labels = {name: np.asarray(value) for name, value in batch.items() if name in LABELS}
    if not features:
        raise InputError(f"dataset: wanted columns among {', '.join(wanted)}, found {', '.join(batch) or 'none'}")
    alone = [next(iter(part.values())) if len(part) == 1 else part for part in (features, labels)]
    return tuple(alone) if labels else alone[0]


def _spec(two: np.ndarray, one: np.ndarray) -> tf.TensorSpec:
    """A column's signature: sizes that differ between two batches are free, and the number of rows always."""
    same = [a if a == b else None for a, b in zip(two.shape[1:], one.shape[1:], strict=True)]
    free = [None] * len(same) if two.ndim == 2 and two.dtype.kind in "iu" else same  # texts differ in length
    return tf.TensorSpec((None, *free), tf.as_dtype(two.dtype))
