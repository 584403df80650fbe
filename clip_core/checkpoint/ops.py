"""The few invertible operations between the layouts of two dialects. They move numbers and never change one.

Each is written in one direction, canonical -> foreign; a permutation's inverse is derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import CheckpointError
from .tensor import Tensor, concat


class Op(NamedTuple):
    """forward: canonical tensors and the head count -> one foreign tensor; inverse: back."""

    forward: Callable[[Sequence[Tensor], int], Tensor]
    inverse: Callable[[Tensor], Sequence[Tensor]]


def _permutation(*axes: int) -> Op:
    back = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return Op(lambda ts, _: ts[0].permute(*axes), lambda t: [t.permute(*back)])


def _thirds(tensor: Tensor) -> list[Tensor]:
    if not tensor.shape or tensor.shape[0] % 3:
        raise CheckpointError(
            f"a fused query, key and value of shape {tensor.shape}: the first axis is no multiple of 3"
        )
    size = tensor.shape[0] // 3
    return [tensor.rows(i * size, (i + 1) * size) for i in range(3)]


def _scalar(tensor: Tensor) -> list[Tensor]:
    if tensor.size != 1:
        raise CheckpointError(f"wanted a single number, found shape {tensor.shape}")
    return [tensor.reshape()]


def _split_heads(tensor: Tensor, axis: int, heads: int) -> Tensor:
    if heads < 1 or tensor.shape[axis] % heads:
        raise CheckpointError(f"{heads} heads don't divide {tensor.shape[axis]}")
    shape = list(tensor.shape)
    shape[axis : axis + 1] = [heads, shape[axis] // heads]
    return tensor.reshape(*shape)


def _merge(tensor: Tensor, axis: int) -> Tensor:
    if len(tensor.shape) < axis + 2:
        raise CheckpointError(f"wanted heads in a tensor of shape {tensor.shape}")
    shape = list(tensor.shape)
    shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    return tensor.reshape(*shape)


OPS: dict[str, Op] = {
    "identity": Op(lambda ts, _: ts[0], lambda t: [t]),
    "transpose": _permutation(1, 0),
    "HWIO": _permutation(2, 3, 1, 0),
    "concat3": Op(lambda ts, _: concat(ts), _thirds),
    "scalar": Op(lambda ts, _: ts[0], _scalar),  # written (), read () or (1,)
    "scalar1": Op(lambda ts, _: ts[0].reshape(1), _scalar),
    # Keras' multi-head attention. heads_out: [out, in] -> (in, heads, size); heads_in: [out, in] -> (heads, size, out)
    "heads_out": Op(
        lambda ts, heads: _split_heads(ts[0].permute(1, 0), 1, heads),
        lambda t: [_merge(t, 1).permute(1, 0)],
    ),
    "heads_bias": Op(lambda ts, heads: _split_heads(ts[0], 0, heads), lambda t: [_merge(t, 0)]),
    "heads_in": Op(
        lambda ts, heads: _split_heads(ts[0].permute(1, 0), 0, heads),
        lambda t: [_merge(t, 0).permute(1, 0)],
    ),
}
