"""A framework-free, lazy tensor: a dtype name, a shape, and a way to get the numbers when they are wanted.

bfloat16 and float8 have no NumPy dtype; their numbers are carried as the raw bit patterns (uint16, uint8), so that
no framework and no extra package is needed to copy them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CheckpointError

# dtype name -> the NumPy dtype that carries it (little-endian in every file; native in memory)
STORAGE: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in ("bool", "uint8", "int8", "int16", "uint16", "float16", "int32", "uint32")},
    **{name: np.dtype(name) for name in ("float32", "complex64", "int64", "uint64", "float64")},
    "bfloat16": np.dtype(np.uint16),
    "float8_e4m3fn": np.dtype(np.uint8),
    "float8_e5m2": np.dtype(np.uint8),
}
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_BLOCK = 16  # rows that are transposed together: they stay in the cache, four times as fast as all at once
_PIECE = 1 << 20  # numbers that are converted at a time
_ALIASES = {
    "fp64": "float64",
    "double": "float64",
    "fp32": "float32",
    "float": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
}


def dtype_name(dtype: object) -> str:
    """'fp16', 'torch.float16', np.float16, jnp.bfloat16 ... -> 'float16', 'bfloat16'. ValueError when unknown."""
    if isinstance(dtype, str):
        text = dtype
    else:
        text = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    text = text.removeprefix("torch.").removeprefix("tf.").lower()
    text = _ALIASES.get(text, text)
    if text not in STORAGE:
        raise ValueError(f"dtype: unknown name {dtype!r}; wanted one of {', '.join(STORAGE)}")
    return text


@dataclass(frozen=True)
class Tensor:
    """Numbers that are read when asked for.

    Attributes:
        dtype: 'float32', 'float16', 'bfloat16', ... (a key of `STORAGE`).
        shape: the sizes of the axes.
        load: returns the numbers as a C-contiguous array of `STORAGE[dtype]` with this shape; called at every use,
            so nothing is kept in memory. A damaged source raises CheckpointError here.
        part: optional; `part(start, stop)` reads only that range of the flattened elements.
        place: optional; the byte of its file where it starts, for numbers kept there plainly, in little-endian order.
        map: optional; returns a writable array over the file itself: what is never touched is never read, and what is
            written stays in memory. Unlike `load`'s, its numbers are lost if the file is cut short in its place.
    """

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    part: Callable[[int, int], np.ndarray] | None = None
    place: int | None = None
    map: Callable[[], np.ndarray] | None = None

    @staticmethod
    def from_numpy(array: np.ndarray, dtype: str | None = None) -> Tensor:
        """A tensor over an array. `dtype` names bit patterns that NumPy can't name: uint16 as 'bfloat16'.
        Arrays of the ml_dtypes package (what JAX gives) are recognised by name."""
        array = np.asarray(array)
        name = dtype or dtype_name(array.dtype)
        storage = STORAGE[name]
        if array.dtype != storage and array.dtype.itemsize == storage.itemsize:
            array = array.view(storage)
        array = np.ascontiguousarray(array, dtype=storage).reshape(array.shape)
        return Tensor(name, array.shape, lambda: array, lambda a, b: array.reshape(-1)[a:b])

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes in this dtype."""
        return self.size * STORAGE[self.dtype].itemsize

    def numpy(self) -> np.ndarray:
        """The numbers now; bfloat16 and float8 as raw bit patterns. `.astype("float32")` first for their values."""
        array = np.asarray(self.load())
        if array.shape != self.shape or array.dtype != STORAGE[self.dtype]:
            raise CheckpointError(f"a {self.dtype} {self.shape} tensor was read as {array.dtype} {array.shape}")
        return array

    def astype(self, dtype: object) -> Tensor:
        """Lazily in another dtype, rounded once, to nearest even."""
        name = dtype_name(dtype)
        if name == self.dtype:
            return self
        own = self.part
        if own is None:
            return Tensor(name, self.shape, lambda: cast(self.numpy(), self.dtype, name))

        def whole() -> np.ndarray:
            """In pieces: rounding needs several arrays of what is rounded, and one tensor may be half a model."""
            out = np.empty(self.size, STORAGE[name])
            for start in range(0, self.size, _PIECE):
                out[start : start + _PIECE] = cast(own(start, min(start + _PIECE, self.size)), self.dtype, name)
            return out.reshape(self.shape)

        return Tensor(name, self.shape, whole, lambda a, b: cast(own(a, b), self.dtype, name))

    def permute(self, *axes: int) -> Tensor:
        """Lazily with its axes in another order."""
        if sorted(axes) != list(range(len(self.shape))):
            raise CheckpointError(f"a tensor of shape {self.shape} can't be permuted by {axes}")
        shape = tuple(self.shape[axis] for axis in axes)
        return Tensor(self.dtype, shape, lambda: _permuted(self.numpy(), axes))

    def reshape(self, *shape: int) -> Tensor:
        """Lazily with another shape of the same size."""
        if math.prod(shape) != self.size:
            raise CheckpointError(f"a tensor of shape {self.shape} can't be reshaped to {shape}")
        return Tensor(self.dtype, tuple(shape), lambda: self.numpy().reshape(shape), self.part)

    def rows(self, start: int, stop: int) -> Tensor:
        """Lazily the entries `start:stop` of the first axis; only their bytes are read where the source allows it."""
        if not self.shape or not 0 <= start <= stop <= self.shape[0]:
            raise CheckpointError(f"rows {start}:{stop} are not in a tensor of shape {self.shape}")
        shape = (stop - start, *self.shape[1:])
        inner = math.prod(self.shape[1:])
        part = self.part
        if part is None:
            return Tensor(self.dtype, shape, lambda: self.numpy()[start:stop])
        first = start * inner
        return Tensor(
            self.dtype,
            shape,
            lambda: part(first, stop * inner).reshape(shape),
            lambda a, b: part(first + a, first + b),
        )


def _permuted(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    if len(axes) != 2 or tuple(axes) == (0, 1):
        return np.ascontiguousarray(array.transpose(axes))
    result = np.empty(array.shape[::-1], array.dtype)
    for start in range(0, array.shape[0], _BLOCK):
        result[:, start : start + _BLOCK] = array[start : start + _BLOCK].T
    return result


def concat(tensors: Sequence[Tensor]) -> Tensor:
    """Lazily one after the other along the first axis. The dtypes must be equal: joining never rounds or widens."""
    first = tensors[0]
    for other in tensors[1:]:
        if other.dtype != first.dtype:
            raise CheckpointError(f"can't join {first.dtype} and {other.dtype} into one tensor; ask for one dtype")
        if not other.shape or other.shape[1:] != first.shape[1:]:
            raise CheckpointError(f"can't join tensors of shapes {first.shape} and {other.shape}")
    shape = (sum(t.shape[0] for t in tensors), *first.shape[1:])
    return Tensor(first.dtype, shape, lambda: np.concatenate([t.numpy() for t in tensors]))


def cast(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Numbers of one dtype in another, rounded once, to nearest even; NaN stays NaN, too large becomes infinite."""
    if target.startswith("float8"):
        raise ValueError(f"dtype: converting to {target} is not supported")
    values = _widen(array.reshape(-1), source)  # NumPy computes with scalars where there are no axes, by other rules
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        cast_values = _to_bfloat16(values) if target == "bfloat16" else values.astype(STORAGE[target])
    return cast_values.reshape(array.shape)


def _widen(array: np.ndarray, source: str) -> np.ndarray:
    """Values of a bit-pattern dtype, exactly, as a type that NumPy can compute with."""
    if source == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if source == "float8_e5m2":  # the upper half of a float16
        return (array.astype(np.uint16) << 8).view(np.float16)
    if source == "float8_e4m3fn":
        return _E4M3[array]
    return array


def _e4m3_values() -> np.ndarray:
    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    values = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    values[codes & 127 == 127] = np.nan
    return np.where(codes > 127, -values, values).astype(np.float32)


_E4M3 = _e4m3_values()


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.float64 or values.dtype.kind in "iu":
        single = _round_to_odd(values.astype(np.float64))  # so that the second rounding can't err
    else:
        single = values.astype(np.float32)
    bits = np.ascontiguousarray(single).view(np.uint32).reshape(single.shape)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40  # a NaN whose payload sits in the lower half must not become infinity
    return np.where(np.isnan(single), quiet, rounded).astype(np.uint16)


def _round_to_odd(values: np.ndarray) -> np.ndarray:
    single = np.ascontiguousarray(values.astype(np.float32)).reshape(values.shape)
    bits = single.view(np.uint32).copy()
    bits -= (np.abs(single.astype(np.float64)) > np.abs(values)).astype(np.uint32)  # now rounded toward zero
    inexact = bits.view(np.float32).astype(np.float64) != values
    return (bits | (inexact & ~np.isnan(values))).astype(np.uint32).view(np.float32)
