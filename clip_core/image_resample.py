"""Pillow's resize of an 8-bit picture as matrix products: the same bytes, in about half the time.

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


class Pass(NamedTuple):
    """One pass along one edge, for the outputs `first` to `last`.

    Neighbouring outputs make a block, whose inputs start `step` behind the last one's: so NumPy runs through all
    blocks in one call. The inputs lie in a buffer of `span`, which starts at input `low`. That may be before the first
    one, and the end behind the last: what is in the buffer there meets weights of zero.
    """

    starts: np.ndarray  # [outputs]: the first input of each
    weights: np.ndarray  # float64 [outputs, taps]: whole numbers, zero behind the last one
    matrices: np.ndarray  # float32 [blocks, inputs, outputs of a block]
    step: int
    low: int
    span: int
    begin: int  # the inputs that are looked at
    end: int
    surest: np.float32  # a float32 sum this close to a whole number rounds to it

    @property
    def outputs(self) -> int:
        """Those of all blocks: the last may have some too many, whose sums are 0."""
        return self.matrices.shape[0] * self.matrices.shape[2]


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
    size: int, outputs: int, first: int, last: int, resample: Any, across: int, lengths: tuple[int, ...]
) -> Pass:
    """The pass from `size` inputs to the outputs `first` to `last` of `outputs`.

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
    # n products and their sum, each rounded to float32, are off by at most (n + 1) * 2**-24 of the sum of magnitudes.
    worst = 255 * np.abs(weights).sum(1).max() / 2**BITS * (taps + 2) * 2**-24
    surest = np.float32(0.5 - 1.1 * worst)
    begin, end = int(starts[0]), int(starts[-1]) + taps
    return Pass(starts, weights.astype(np.float64), matrices, step, low, span, begin, end, surest)


def _blocks(
    starts: np.ndarray, weights: np.ndarray, across: int, lengths: tuple[int, ...]
) -> tuple[np.ndarray, int, int]:
    """The matrices of a Pass, its step and its low."""
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

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        size = math.prod(shape)
        found = self.kept.get(name)
        if found is None or found.size < size:
            found = self.kept[name] = np.zeros(size, dtype)
        return found[:size].reshape(shape)


_scratch = _Scratch()


def scratch(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An array that is the calling thread's until it asks for `name` again."""
    return _scratch.array(name, shape, dtype)


def size_of(picture: Image.Image | np.ndarray) -> tuple[int, int]:
    """(width, height)."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def resized_planes(
    picture: Image.Image | np.ndarray, height: int, width: int, box: tuple[int, int, int, int], resample: Any
) -> np.ndarray:
    """`picture.resize((width, height), resample).crop(box)` of an RGB or L picture, across first: [C, H, W].

    The picture may also be RGB packed into int32 [H, W], red lowest. The result, bytes as float32, is the calling
    thread's until its next call.
    """
    left, top, right, bottom = box
    original = size_of(picture)
    channels = len(picture.getbands()) if isinstance(picture, Image.Image) else 3
    down = passing(original[1], height, top, bottom, resample, right - left, LENGTHS_DOWN)
    across = passing(original[0], width, left, right, resample, GROUP, LENGTHS_ACROSS)
    squeezed = _scratch.array("squeezed", (channels, down.span, across.outputs))
    rows = max(1, BAND_FLOATS // (across.span * channels * GROUP)) * GROUP
    source = _scratch.array("source", (channels, min(rows, -(-(down.end - down.begin) // GROUP) * GROUP), across.span))
    columns = slice(across.begin - across.low, across.end - across.low)
    for begin in range(down.begin, down.end, rows):
        end = min(begin + rows, down.end)
        _copy(picture, (across.begin, begin, across.end, end), source[:, : end - begin, columns])
        _across(source, across, squeezed[:, begin - down.low : end - down.low])
    sums = _scratch.array("sums", (channels, down.outputs, across.outputs))
    blocks = len(down.matrices)
    np.matmul(
        down.matrices.swapaxes(1, 2),
        _windows(squeezed, 1, blocks, down.step, down.matrices.shape[1]),
        out=sums.reshape(channels, blocks, -1, across.outputs),
    )
    found = _round(sums, squeezed.swapaxes(1, 2), down, sums, rows_first=True)
    return found[:, : bottom - top, : right - left]


def _copy(picture: Image.Image | np.ndarray, box: tuple[int, int, int, int], planes: np.ndarray) -> None:
    """The bytes of a picture within a box (left, top, right, bottom) as floats [C, H, W]."""
    left, top, right, bottom = box
    if isinstance(picture, Image.Image):
        part = picture.crop(box)
        for plane, name in zip(planes, picture.getbands(), strict=True):  # NumPy can't see Pillow's own pixels
            plane[...] = np.frombuffer(part.tobytes("raw", name), np.uint8).reshape(plane.shape)
        return
    packed = picture[top:bottom]
    if 2 * (right - left) < picture.shape[1]:  # else whole rows are quicker: they lie in one piece
        packed, left, right = packed[:, left:right], 0, right - left
    byte = scratch("byte", packed.shape, np.int32)
    for place, plane in enumerate(planes):
        shifted = np.right_shift(packed, 8 * place, out=byte) if place else packed
        plane[...] = np.bitwise_and(shifted, 255, out=byte)[:, left:right]


def _windows(values: np.ndarray, axis: int, count: int, step: int, length: int) -> np.ndarray:
    """A view with `count` overlapping windows of `length`, `step` apart, along an axis, which is split in two."""
    shape = (*values.shape[:axis], count, length, *values.shape[axis + 1 :])
    stride = values.strides[axis]
    return as_strided(values, shape, (*values.strides[:axis], step * stride, *values.strides[axis:]))


def _across(source: np.ndarray, across: Pass, target: np.ndarray) -> None:
    """The pass across of float bytes [C, rows, span] into `target` [C, at most rows, outputs]."""
    channels, rows, _ = source.shape
    blocks, inputs, length = across.matrices.shape
    sums = _scratch.array("sums", (channels, rows, across.outputs))
    windows = _windows(source.reshape(channels * rows // GROUP, GROUP, -1), 2, blocks, across.step, inputs)
    grouped = sums.reshape(-1, GROUP, blocks, length)
    np.matmul(windows.swapaxes(1, 2), across.matrices, out=grouped.swapaxes(1, 2))
    _round(sums, source, across, target)


def _round(
    sums: np.ndarray, source: np.ndarray, done: Pass, target: np.ndarray, rows_first: bool = False
) -> np.ndarray:
    """Sums [C, rows, columns] rounded to bytes, the doubtful ones computed again exactly, into `target` (floats).

    `source`: what they were made of, [C, line, input]; an output's line is its row, or its column if `rows_first`.
    `target` may have fewer rows, and may be `sums`.
    """
    rounded = np.rint(sums, out=_scratch.array("rounded", sums.shape))
    sums -= rounded
    np.abs(sums, out=sums)
    doubtful = np.flatnonzero(np.greater(sums, done.surest, out=_scratch.array("doubtful", sums.shape, np.bool_)))
    if len(doubtful):
        channels, lines, outputs = np.unravel_index(doubtful, sums.shape)
        if rows_first:
            lines, outputs = outputs, lines
        inputs = (done.starts[outputs] - done.low)[:, None] + np.arange(done.weights.shape[1])
        exact = (source[channels[:, None], lines[:, None], inputs] * done.weights[outputs]).sum(1)
        rounded.reshape(-1)[doubtful] = np.floor(exact / 2.0**BITS + 0.5)
    return np.clip(rounded[:, : target.shape[1]], 0, 255, out=target)
