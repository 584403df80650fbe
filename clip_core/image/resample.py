"""Pillow's resize of an 8-bit picture as matrix products: the same bytes, faster on most processors with AVX-512.

Pillow resizes in two passes, across and down. In each, an output byte is the sum of some input bytes times integers
(the filter's weights times 2**22), rounded, shifted and clipped to a byte. Here

- the integers come from Pillow itself, once for each pair of sizes: it resizes pictures of single bright points in
  mode "I", whose values are not clipped to bytes;
- the sums are float32 matrix products over blocks of neighbouring outputs, which BLAS computes faster than a loop over
  pixels;
- a float32 sum can round to the wrong byte only if it lies close to the border between two bytes. A bound of the
  rounding error gives the distance, and those few sums (some in 10,000) are recomputed with integers.

Only the pixels that the crop keeps are computed.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from PIL import Image

BITS = 22  # Pillow's precision of 8-bit weights (PRECISION_BITS in its Resample.c)

# Half-width, in source pixels at scale 1, of the filters that Pillow applies in two passes.
FILTER_SUPPORT = {
    Image.Resampling.BOX: 0.5,
    Image.Resampling.BILINEAR: 1.0,
    Image.Resampling.HAMMING: 1.0,
    Image.Resampling.BICUBIC: 2.0,
    Image.Resampling.LANCZOS: 3.0,
}

# A product of at most this many multiplications stays on one OpenBLAS thread: each picture already has a thread.
SMALL_PRODUCT = 1 << 18
GROUP = 160  # rows in one product of the pass across
BAND_FLOATS = 1 << 20  # input floats in a band; smaller bands mean more calls, each of which releases the GIL
# Outputs in a block: the first length whose product is small enough. Longer blocks hold more zero weights, but BLAS is
# slow with short sides: across, a block is one side of the product; down, the other side is a whole row.
LENGTHS_ACROSS = (16, 4, 2, 1)
LENGTHS_DOWN = (8, 4, 2, 1)
MAX_TAPS = 64  # with more inputs per output, too many sums come close to a border
MAX_OUTPUT = 1 << 20  # pixels
MIN_INPUT = 1 << 16  # pixels; smaller pictures gain nothing

# The place value of each channel's byte in a packed pixel. Weights are divided by it instead of shifting every byte,
# which is faster and as exact: in float32 a power of 2 changes only the exponent.
PACKED_FACTORS = (1.0, 2.0**8, 2.0**16)
GREY_FACTORS = (1.0,)


class Pass(NamedTuple):
    """One pass along one edge, for the outputs `first` to `last`.

    Neighbouring outputs form a block. Each block's inputs start `step` after those of the block before, so one NumPy
    call handles all blocks. The buffer of inputs has `span` entries and starts at input `low`; it may begin before the
    first input and end after the last one, where the weights are zero.
    """

    starts: np.ndarray  # [outputs]: the first input of each
    weights: np.ndarray  # float64 [outputs, taps]: integers, zero after the last tap
    factors: np.ndarray  # float64 [channels]: the place values of the inputs
    matrices: np.ndarray  # float32 [channels, blocks, inputs, outputs of a block], divided by the factors
    step: int
    low: int
    span: int
    begin: int  # the first input that is used, and the one after the last
    end: int
    surest: np.float32  # a float32 sum this close to an integer certainly rounds to it

    @property
    def outputs(self) -> int:
        """The outputs of all blocks; surplus outputs of the last block have sums of 0."""
        return self.matrices.shape[1] * self.matrices.shape[3]


def suits(size: tuple[int, int], height: int, width: int, box: tuple[int, int, int, int], resample: Any) -> bool:
    """Whether `resized_planes` can resize a picture of `size` (width, height) and crop it to `box`."""
    left, top, right, bottom = box
    if resample not in FILTER_SUPPORT or width == size[0] or height == size[1]:
        return False
    if size[0] * size[1] < MIN_INPUT or (right - left) * (bottom - top) > MAX_OUTPUT:
        return False
    return 2 * max(_support(size[0], width, resample), _support(size[1], height, resample)) + 2 <= MAX_TAPS


def _support(size: int, outputs: int, resample: Any) -> float:
    return FILTER_SUPPORT[resample] * max(size / outputs, 1.0)


@lru_cache(maxsize=64)
def passing(
    size: int,
    outputs: int,
    first: int,
    last: int,
    resample: Any,
    factors: tuple[float, ...],
    across: int,
    lengths: tuple[int, ...],
) -> Pass:
    """The pass from `size` inputs to the outputs `first` to `last` of `outputs`.

    Args:
        factors: the place value of each channel's inputs.
        across: how many sums are computed side by side; it limits the length of a block (see SMALL_PRODUCT).
        lengths: the lengths that a block may have.
    """
    support = _support(size, outputs, resample)
    taps = min(size, 2 * math.ceil(support) + 2)
    wanted = np.arange(first, last)
    starts = np.floor((wanted + 0.5) * (size / outputs) - support - 0.5).astype(np.intp)
    starts = np.clip(starts, 0, size - taps)
    # Row r has a point at every column equal to r modulo `taps`, so an output sees at most one point of a row.
    points = np.zeros((taps, size), np.int32)
    points[np.arange(size) % taps, np.arange(size)] = 1 << BITS
    seen = np.asarray(Image.fromarray(points).resize((outputs, taps), resample))
    weights = seen[(starts[:, None] + np.arange(taps)) % taps, wanted[:, None]]
    matrices, step, low = _blocks(starts, weights, max(1, across), lengths)
    span = (len(matrices) - 1) * step + matrices.shape[1]
    each = np.array(factors)
    scaled = matrices / each[:, None, None, None].astype(np.float32)
    surest = np.float32(0.5 - _worst_error(weights / 2.0**BITS))
    begin, end = int(starts[0]), int(starts[-1]) + taps
    return Pass(starts, weights.astype(np.float64), each, scaled, step, low, span, begin, end, surest)


def _worst_error(weights: np.ndarray) -> float:
    """An upper bound of the error of a float32 sum of bytes times weights [outputs, taps], in any order of addition.

    Each rounding changes a number by at most 2**-24 of it: n products, and n - 1 partial sums, which lie between the
    sum of all negative products and the sum of all positive ones.
    """
    positive, negative = np.maximum(weights, 0).sum(1), np.maximum(-weights, 0).sum(1)
    additions = np.count_nonzero(weights, axis=1) - 1
    errors = positive + negative + additions * np.maximum(positive, negative)
    return 1.01 * 255 * float(errors.max()) * 2**-24  # 1.01: allows for sums enlarged by earlier roundings


def _blocks(
    starts: np.ndarray, weights: np.ndarray, across: int, lengths: tuple[int, ...]
) -> tuple[np.ndarray, int, int]:
    """The `matrices` for place value 1, `step` and `low` of a Pass."""
    outputs, taps = weights.shape
    inputs_an_output = (starts[-1] - starts[0]) / max(outputs - 1, 1)
    for length in lengths:
        reach = taps + math.ceil(length * inputs_an_output)
        if length * reach * across <= SMALL_PRODUCT and reach <= 4 * taps:
            break
    step = round(length * inputs_an_output)
    begins = np.arange(0, outputs, length)
    shifts = starts - np.arange(outputs) // length * step  # an output's first input, relative to its block's start
    low = int(shifts.min())
    matrices = np.zeros((len(begins), int(shifts.max()) - low + taps, length), np.float32)
    block, place = np.divmod(np.arange(outputs), length)
    for tap in range(taps):  # 22 bits: exact in float32
        matrices[block, shifts - low + tap, place] = weights[:, tap] / 2.0**BITS
    return matrices, step, low


class _Scratch(threading.local):
    """Arrays that a thread reuses for its next picture: allocating them costs more than the work in them."""

    MOST_VALUES = 1 << 22  # size of the largest array that is kept; larger ones are new each time

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array of arbitrary finite numbers, valid until the calling thread asks for the same name again."""
        size = math.prod(shape)
        if size > self.MOST_VALUES:
            return np.zeros(shape, dtype)
        found = self.kept.get(name)
        if found is None or found.size < size:
            found = self.kept[name] = np.zeros(size, dtype)
        return found[:size].reshape(shape)


scratch = _Scratch().array


def packed_pixels(picture: Image.Image) -> np.ndarray:
    """An RGB picture's pixels as int32 [H, W], red the lowest byte; an L picture's as uint8 [H, W]."""
    raw, dtype = ("L", np.uint8) if picture.mode == "L" else ("RGBX", np.dtype("<i4"))
    return np.frombuffer(picture.tobytes("raw", raw), dtype).reshape(picture.height, picture.width)


def resized_planes(
    packed: np.ndarray, height: int, width: int, box: tuple[int, int, int, int], resample: Any
) -> np.ndarray:
    """`picture.resize((width, height), resample).crop(box)`, across first, of packed pixels (see `packed_pixels`).

    Returns bytes as float32 [C, H, W], in memory that the calling thread's next call reuses.
    """
    left, top, right, bottom = box
    factors = GREY_FACTORS if packed.dtype == np.uint8 else PACKED_FACTORS
    channels = len(factors)
    down = passing(packed.shape[0], height, top, bottom, resample, (1.0,) * channels, right - left, LENGTHS_DOWN)
    across = passing(packed.shape[1], width, left, right, resample, factors, GROUP, LENGTHS_ACROSS)
    squeezed = scratch("squeezed", (channels, down.span, across.outputs))
    rows = max(1, BAND_FLOATS // (across.span * channels * GROUP)) * GROUP
    source = scratch("source", (channels, min(rows, -(-(down.end - down.begin) // GROUP) * GROUP), across.span))
    columns = slice(across.begin - across.low, across.end - across.low)
    for begin in range(down.begin, down.end, rows):
        end = min(begin + rows, down.end)
        _copy(packed[begin:end], across.begin, across.end, source[:, : end - begin, columns])
        _across(source, across, squeezed[:, begin - down.low : end - down.low])
    sums = scratch("sums", (channels, down.outputs, across.outputs))
    _, blocks, inputs, length = down.matrices.shape
    windows = _windows(squeezed, 1, blocks, down.step, inputs)
    np.matmul(down.matrices.swapaxes(2, 3), windows, out=sums.reshape(channels, blocks, length, -1))
    found = _round(sums, squeezed, 1, down, sums)
    return found[:, : bottom - top, : right - left]


def _copy(packed: np.ndarray, left: int, right: int, planes: np.ndarray) -> None:
    """Columns of packed pixels as float planes [C, H, W], each times its place value."""
    if packed.dtype == np.uint8:
        planes[0] = packed[:, left:right]
        return
    if 2 * (right - left) < packed.shape[1]:  # otherwise whole rows are faster: they are contiguous
        packed, left, right = packed[:, left:right], 0, right - left
    byte = scratch("byte", packed.shape, np.int32)
    for plane, factor in zip(planes, PACKED_FACTORS, strict=True):
        plane[...] = np.bitwise_and(packed, 255 * int(factor), out=byte)[:, left:right]


def _windows(values: np.ndarray, axis: int, count: int, step: int, length: int) -> np.ndarray:
    """A view with `axis` split in two: `count` windows, `step` apart and possibly overlapping, of `length` entries."""
    shape = (*values.shape[:axis], count, length, *values.shape[axis + 1 :])
    stride = values.strides[axis]
    return as_strided(values, shape, (*values.strides[:axis], step * stride, *values.strides[axis:]))


def _across(source: np.ndarray, across: Pass, target: np.ndarray) -> None:
    """The pass across of float bytes [C, rows, span] into `target` [C, at most rows, outputs]."""
    channels, rows, span = source.shape
    _, blocks, inputs, length = across.matrices.shape
    sums = scratch("sums", (channels, rows, across.outputs))
    windows = _windows(source.reshape(channels, -1, GROUP, span), 3, blocks, across.step, inputs)
    grouped = sums.reshape(channels, -1, GROUP, blocks, length)
    np.matmul(windows.swapaxes(2, 3), across.matrices[:, None], out=grouped.swapaxes(2, 3))
    _round(sums, source, 2, across, target)


def _round(sums: np.ndarray, source: np.ndarray, axis: int, done: Pass, target: np.ndarray) -> np.ndarray:
    """Sums [C, H, W] rounded to bytes, the doubtful ones recomputed exactly, into `target` (floats).

    The sums run along `axis` (1 or 2) of `source`. `target` may have fewer rows, and may be `sums`.
    """
    rounded = np.rint(sums, out=scratch("rounded", sums.shape))
    sums -= rounded
    np.abs(sums, out=sums)
    doubtful = np.flatnonzero(np.greater(sums, done.surest, out=scratch("doubtful", sums.shape, np.bool_)))
    if len(doubtful):
        rounded.reshape(-1)[doubtful] = _again(np.unravel_index(doubtful, sums.shape), source, axis, done)
    return np.clip(rounded[:, : target.shape[1]], 0, 255, out=target)


def _again(places: tuple[np.ndarray, ...], source: np.ndarray, axis: int, done: Pass) -> np.ndarray:
    """The rounded sums at `places` (channels, rows, columns), computed with integers."""
    outputs = places[axis]
    first = [*places]
    first[axis] = done.starts[outputs] - done.low
    apart = source.shape[2] if axis == 1 else 1
    inputs = np.ravel_multi_index(tuple(first), source.shape)[:, None] + apart * np.arange(done.weights.shape[1])
    # An input is always inside the source; "clip" avoids NumPy's buffered copy.
    taken = source.reshape(-1).take(inputs, mode="clip")
    exact = np.einsum("ij,ij->i", taken, done.weights.take(outputs, axis=0)) / done.factors[places[0]]
    return np.floor(exact / 2.0**BITS + 0.5)
