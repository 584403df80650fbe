"""Position tables that a file keeps in another form: in its ids' order (KerasHub), in two parts (Long-CLIP)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import CheckpointError
from .tensor import Tensor, concat

_EMBEDDING = "layers/clip_vision_encoder/layers/clip_vision_embedding"
TABLE = f"{_EMBEDDING}/position_embedding/vars/0"
IDS = f"{_EMBEDDING}/vars/1"
LONG = "positional_embedding_res"  # Long-CLIP's second table, beside `positional_embedding`
_LONG_KEPT = 20  # rows of the first table that Long-CLIP's masks keep; the rest are the second's


def kerashub_positions(tensors: Mapping[str, Tensor], where: str, notes: list[str]) -> dict[str, Tensor]:
    """KerasHub keeps the vision tower's position ids as a weight, which looks the rows of the table up.

    Models that KerasHub built itself have zeros there. What is computed stays: the table is put in the ids' order.
    """
    ids, table = tensors.get(IDS), tensors.get(TABLE)
    rest = {name: tensor for name, tensor in tensors.items() if name != IDS}
    if ids is None or table is None:
        return rest
    order = ids.numpy().reshape(-1)
    rows = table.shape[0] if len(table.shape) == 2 else 0
    if order.dtype.kind not in "iu" or len(order) != rows or not rows or order.min() < 0 or order.max() >= rows:
        raise CheckpointError(f"{where}: {IDS}: wanted {rows} position ids from 0 to {rows - 1}")
    if np.array_equal(order, np.arange(rows)):
        return rest
    notes.append("vision: the file's position ids are not 0, 1, 2, ...: the position table was put in their order")
    gathered = Tensor(table.dtype, table.shape, lambda: np.ascontiguousarray(table.numpy()[order]))
    return {**rest, TABLE: gathered}


def long_clip_positions(tensors: Mapping[str, Tensor], where: str, notes: list[str]) -> dict[str, Tensor]:
    """Long-CLIP (arXiv:2403.15378) adds two tables, each times a mask: the first counts in the positions that it
    learned well as a CLIP, 0 to 19, the second in all others. The sum is one table, to the bit.
    """
    name = next((name for name in tensors if name.endswith(LONG)), None)
    if name is None:
        return dict(tensors)
    first = name.removesuffix("_res")
    kept, rest = tensors.get(first), tensors[name]
    if kept is None or len(rest.shape) != 2 or kept.shape != rest.shape or rest.shape[0] <= _LONG_KEPT:
        raise CheckpointError(
            f"{where}: {name}: wanted {first} of the same shape, with more than {_LONG_KEPT} rows, beside it; found "
            f"{None if kept is None else kept.shape} beside {rest.shape}"
        )
    notes.append(f"text: Long-CLIP's two position tables were joined: rows 0 to {_LONG_KEPT - 1} of {first}")
    joined = concat([kept.rows(0, _LONG_KEPT), rest.rows(_LONG_KEPT, rest.shape[0])])
    return {n: joined if n == first else t for n, t in tensors.items() if n != name}
