"""Pillow's resize of an 8-bit picture as matrix products: the same bytes, sooner on processors with AVX-512.

Pillow resizes in two passes, across and down. In each, an output byte is the sum of some input bytes times whole
numbers (the filter's weights times 2**22), rounded, shifted and clipped to a byte. Here

- the whole numbers are asked of Pillow itself, once for each pair of sizes: resizing pictures of single bright points
  in mode "I", where nothing is cut to bytes, shows them;
- the sums are float32 matrix products over blocks of neighbouring outputs, which a BLAS does many times faster than a
  loop over pixels;
- float32 can be wrong only where a sum lies close to the border between two bytes. How close follows from a bound of
  its rounding error, and those few sums (some in 10,000) are done again in whole numbers.

Only what the crop keeps is computed.
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

# A product of at most this many multiplications stays on one OpenBLAS thread: pictures already have one each.
SMALL_PRODUCT = 1 << 18
GROUP = 160  # rows in one product of the pass across
BAND_FLOATS = 1 << 20  # input floats worked on at a time; fewer would mean more calls, which let go of the GIL each
# Outputs in a block, the best first where its product is small. More are more weights of zero, but BLAS is slow with
# short sides: across, a block is one side of the product; down, the pixels of a row are the other.
LENGTHS_ACROSS = (16, 4, 2, 1)
LENGTHS_DOWN = (8, 4, 2, 1)
MAX_TAPS = 64  # beyond it too many sums come close to a border
MAX_OUTPUT = 1 << 20  # pixels
MIN_INPUT = 1 << 16  # pixels; smaller pictures gain nothing

# What bytes are times while they lie in packed pixels. Weights are divided by it, which is sooner done than shifting
# all bytes, and as exact: in float32, powers of 2 change nothing but the exponent.
PACKED_FACTORS = (1.0, 2.0**8, 2.0**16)
GREY_FACTORS = (1.0,)


class Pass(NamedTuple):
    """One pass along one edge, for the outputs `first` to `last`.

    Neighbouring outputs make a block, whose inputs start `step` behind the last one's: so NumPy runs through all
    blocks in one call. The inputs lie in a buffer of `span`, which starts at input `low`. That may be before the first
    one, and the end behind the last: what is in the buffer there meets weights of zero.
    """

    starts: np.ndarray  # [outputs]: the first input of each
    weights: np.ndarray  # float64 [outputs, taps]: whole numbers, zero behind the last one
    factors: np.ndarray  # float64 [channels]: what the inputs are times
    matrices: np.ndarray  # float32 [channels, blocks, inputs, outputs of a block], divided by the factors
    step: int
    low: int
    span: int
    begin: int  # the inputs that are looked at
    end: int
    surest: np.float32  # a float32 sum this close to a whole number rounds to it

    @property
    def outputs(self) -> int:
        """Those of all blocks: the last may have some too many, whose sums are 0."""
        return self.matrices.shape[1] * self.matrices.shape[3]


def suits(size: tuple[int, int], height: int, width: int, box: tuple[int, int, int, int], resample: Any) -> bool:
    """Whether this way is open to a picture of `size` (width, height), resized and cropped to `box`; else Pillow's."""
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
    """The pass from `size` inputs, times a channel's factor, to the outputs `first` to `last` of `outputs`.

    `across`: how many such sums lie side by side, for the size of blocks (see SMALL_PRODUCT); `lengths`: what they may
    be.
    """
    support = _support(size, outputs, resample)
    taps = min(size, 2 * math.ceil(support) + 2)
    wanted = np.arange(first, last)
    starts = np.floor((wanted + 0.5) * (size / outputs) - support - 0.5).astype(np.intp)
    starts = np.clip(starts, 0, size - taps)
    # Row r has a point at every column that is r modulo `taps`: an output sees at most one point of a row.
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
    """What a float32 sum of bytes times weights [outputs, taps] can be off by, in whatever order it is added up.

    Each rounding is off by at most 2**-24 of what it rounds: n products, and n - 1 sums of some of them, which lie
    between the sum of the negative ones and that of the positive ones.
    """
    positive, negative = np.maximum(weights, 0).sum(1), np.maximum(-weights, 0).sum(1)
    additions = np.count_nonzero(weights, axis=1) - 1
    errors = positive + negative + additions * np.maximum(positive, negative)
    return 1.01 * 255 * float(errors.max()) * 2**-24  # 0.01 for sums that are larger by what was rounded before


def _blocks(
    starts: np.ndarray, weights: np.ndarray, across: int, lengths: tuple[int, ...]
) -> tuple[np.ndarray, int, int]:
    """The matrices of a Pass for a factor of 1, its step and its low."""
    outputs, taps = weights.shape
    inputs_an_output = (starts[-1] - starts[0]) / max(outputs - 1, 1)
    for length in lengths:
        reach = taps + math.ceil(length * inputs_an_output)
        if length * reach * across <= SMALL_PRODUCT and reach <= 4 * taps:
            break
    step = round(length * inputs_an_output)
    begins = np.arange(0, outputs, length)
    shifts = starts - np.arange(outputs) // length * step  # an output's first input, seen from its block's start
    low = int(shifts.min())
    matrices = np.zeros((len(begins), int(shifts.max()) - low + taps, length), np.float32)
    block, place = np.divmod(np.arange(outputs), length)
    for tap in range(taps):  # 22 bits: exact in float32
        matrices[block, shifts - low + tap, place] = weights[:, tap] / 2.0**BITS
    return matrices, step, low


class _Scratch(threading.local):
    """Arrays that a thread uses again for the next picture: new memory costs more than the work done in it."""

    MOST_VALUES = 1 << 22  # of an array that is kept; larger ones are new each time

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array of any finite numbers, the calling thread's until it asks for the same name again."""
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
    """`picture.resize((width, height), resample).crop(box)`, across first: [C, H, W], the picture as `packed_pixels`.

    The result, bytes as float32, is the calling thread's until its next call.
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
    """Columns of packed pixels as float planes [C, H, W], each times its factor."""
    if packed.dtype == np.uint8:
        planes[0] = packed[:, left:right]
        return
    if 2 * (right - left) < packed.shape[1]:  # else whole rows are quicker: they lie in one piece
        packed, left, right = packed[:, left:right], 0, right - left
    byte = scratch("byte", packed.shape, np.int32)
    for plane, factor in zip(planes, PACKED_FACTORS, strict=True):
        plane[...] = np.bitwise_and(packed, 255 * int(factor), out=byte)[:, left:right]


def _windows(values: np.ndarray, axis: int, count: int, step: int, length: int) -> np.ndarray:
    """A view with `count` overlapping windows of `length`, `step` apart, along an axis, which is split in two."""
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
    """Sums [C, H, W] rounded to bytes, the doubtful ones computed again exactly, into `target` (floats).

    They were made along an axis (1 or 2) of `source`. `target` may have fewer rows, and may be `sums`.
    """
    rounded = np.rint(sums, out=scratch("rounded", sums.shape))
    sums -= rounded
    np.abs(sums, out=sums)
    doubtful = np.flatnonzero(np.greater(sums, done.surest, out=scratch("doubtful", sums.shape, np.bool_)))
    if len(doubtful):
        rounded.reshape(-1)[doubtful] = _again(np.unravel_index(doubtful, sums.shape), source, axis, done)
    return np.clip(rounded[:, : target.shape[1]], 0, 255, out=target)


def _again(places: tuple[np.ndarray, ...], source: np.ndarray, axis: int, done: Pass) -> np.ndarray:
    """The rounded sums at `places` (channels, rows, columns), computed in whole numbers."""
    outputs = places[axis]
    first = [*places]
    first[axis] = done.starts[outputs] - done.low
    apart = source.shape[2] if axis == 1 else 1
    inputs = np.ravel_multi_index(tuple(first), source.shape)[:, None] + apart * np.arange(done.weights.shape[1])
    # An input is always inside the source; "clip" only spares NumPy a buffered copy.
    taken = source.reshape(-1).take(inputs, mode="clip")
    exact = np.einsum("ij,ij->i", taken, done.weights.take(outputs, axis=0)) / done.factors[places[0]]
    return np.floor(exact / 2.0**BITS + 0.5)
