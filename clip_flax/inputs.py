"""Inputs of the modules and their wrappers: conversion to arrays, checks of shapes and values."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from clip_core.config import CLIPTextConfig, CLIPVisionConfig
from clip_core.errors import InputError
from clip_core.inputs import (
    check_id_range,
    check_ids,
    check_integers,
    check_mask,
    check_patch_range,
    check_patches,
    check_pixels,
    check_position_range,
    check_positions,
)


def as_array(value: Any) -> Any:
    """Lists and other frameworks' arrays as NumPy; JAX arrays (traced ones too) and None unchanged."""
    return value if value is None or isinstance(value, jax.Array) else np.asarray(value)


def can_look(array: Any) -> bool:
    """Whether the array is not empty and its values can be read without a device synchronisation."""
    if isinstance(array, jax.core.Tracer) or not array.size:
        return False
    if isinstance(array, jax.Array):
        return array.is_fully_addressable and all(device.platform == "cpu" for device in array.devices())
    return True


def text_inputs(
    config: CLIPTextConfig | None, input_ids: Any, attention_mask: Any, position_ids: Any
) -> dict[str, Any]:
    """Arguments of a module by name: arrays, lists or None in, int32 arrays or None out.

    config: for checks; None for a user's own module, whose tables may differ.
    """
    ids, mask, positions = (as_array(value) for value in (input_ids, attention_mask, position_ids))
    if config is not None:
        ids, mask = as_rows(ids, mask)
        ids, positions = check_tokens(config, ids, positions)
    # The mask is truncated to integers, as in v4.37: 0.5 hides.
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: array if array is None else array.astype(np.int32) for name, array in given.items()}


def with_defaults(inputs: dict[str, Any]) -> dict[str, Any]:
    """Add v4.37's default mask and positions to inputs without them."""
    ids = inputs.get("input_ids")
    if ids is None:
        return inputs
    made = {"attention_mask": np.ones(ids.shape, np.int32), "position_ids": np.indices(ids.shape, np.int32)[-1]}
    return {**inputs, **{name: array for name, array in made.items() if inputs.get(name) is None}}


def by_position(inputs: dict[str, Any]) -> list[Any]:
    """The arrays in the order of the modules' parameters."""
    return [inputs[name] for name in ("input_ids", "pixel_values", "attention_mask", "position_ids") if name in inputs]


def vision_inputs(config: CLIPVisionConfig | None, pixel_values: Any, interpolate: bool) -> dict[str, Any]:
    """As `text_inputs`, for pixels, which stay [B, C, h, w]."""
    pixel_values = as_array(pixel_values)
    if config is not None:
        check_pixels(config, None if pixel_values is None else pixel_values.shape, interpolate)
    return {"pixel_values": pixel_values}


def as_rows(input_ids: Any, attention_mask: Any) -> tuple[Any, Any]:
    """Ids as [B, S], and a mask of that shape or None."""
    if input_ids is None:
        raise InputError("input_ids: wanted [batch, sequence] token ids, found None")
    if input_ids.ndim != 2 and input_ids.ndim > 0:
        input_ids = input_ids.reshape(math.prod(input_ids.shape[:-1]), input_ids.shape[-1])
    if attention_mask is not None:
        check_mask(attention_mask.shape, input_ids.shape)
    return input_ids, attention_mask


def check_tokens(config: CLIPTextConfig, input_ids: Any, position_ids: Any) -> tuple[Any, Any]:
    """int32 ids and positions. Integral values of other types are cast, as in v4.37.

    Shapes are always checked; values only outside of tracing and without a device synchronisation. In compiled code an
    id or a position outside its table makes its text NaN, as in v4.37.
    """
    check_ids(config, input_ids.shape)
    if can_look(input_ids):
        check_id_range(config, *extremes("input_ids", input_ids))
    if position_ids is None:
        return input_ids.astype(np.int32), None
    check_positions(position_ids.shape, input_ids.shape)
    if can_look(position_ids):
        check_position_range(config, *extremes("position_ids", position_ids))
    return input_ids.astype(np.int32), position_ids.astype(np.int32)


def check_chosen(patches: Any, batch: int, count: int) -> None:
    """As `check_tokens`, for chosen patches."""
    check_integers("patches", patches.dtype.name)
    check_patches(patches.shape, batch)
    if can_look(patches):
        check_patch_range(count, *extremes("patches", patches))


def check_nhwc(config: CLIPVisionConfig, pixel_values: Any, interpolate: bool) -> None:
    """The core's check for a module's [B, h, w, C]; its message is about [B, C, h, w]."""
    shape = None if pixel_values is None else pixel_values.shape
    if shape is not None and len(shape) == 4:
        shape = (shape[0], shape[3], shape[1], shape[2])
    check_pixels(config, shape, interpolate)


def extremes(name: str, values: Any) -> tuple[int, int]:
    """The lowest and the highest of integral values of any type."""
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return int(array.min()), int(array.max())
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int64) if array.dtype.kind != "U" else np.zeros_like(array, np.int64)
    if (whole != array).any():
        raise InputError(f"{name}: wanted integers, found {array.dtype.name}")
    return int(whole.min()), int(whole.max())
