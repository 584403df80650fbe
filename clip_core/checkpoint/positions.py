"""Position tables that a file's own position ids put in another order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import CheckpointError
from .tensor import Tensor

_EMBEDDING = "layers/clip_vision_encoder/layers/clip_vision_embedding"
TABLE = f"{_EMBEDDING}/position_embedding/vars/0"
IDS = f"{_EMBEDDING}/vars/1"


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
