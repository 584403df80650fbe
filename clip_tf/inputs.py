"""v4.37's styles of input for Keras models (positional, a list or tuple, a mapping) as keywords; input checks."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache, wraps
from math import isqrt
from types import SimpleNamespace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from clip_core.batch import stack
from clip_core.config import CLIPVisionConfig
from clip_core.errors import InputError
from clip_core.inputs import (
    check_id_range,
    check_ids,
    check_integers,
    check_mask,
    check_pairs,
    check_patch_range,
    check_patches,
    check_pixels,
    check_position_range,
    check_positions,
    resolve_flags,
)

from .layers import sizes
from .shortcuts import untouched

TENSORS = {"input_ids": 2, "pixel_values": 4, "attention_mask": 2, "position_ids": 2, "labels": 1}  # name -> rank


def unchanged(check: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the core's errors pass unchanged through Keras and AutoGraph."""

    @tf.autograph.experimental.do_not_convert
    @wraps(check)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return check(*args, **kwargs)
        except InputError as error:
            error._keras_call_info_injected = True  # type: ignore[attr-defined]
            error.ag_pass_through = True  # type: ignore[attr-defined]
            raise

    return wrapper


def switches(
    config: Any,
    output_attentions: bool | None = None,
    output_hidden_states: bool | None = None,
    return_dict: bool | None = None,
) -> tuple[dict[str, bool], bool]:
    """(flags for the encoder as keywords, whether the output is a dict), resolved against the config."""
    flags = resolve_flags(config, output_attentions, output_hidden_states, return_dict)
    return {"output_attentions": flags.attentions, "output_hidden_states": flags.hidden_states}, flags.return_dict


def unpacked(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the method accepts inputs in all of these styles."""

    @tf.autograph.experimental.do_not_convert
    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, **named_inputs(method, type(self).__name__, args, kwargs))

    return wrapper


@unchanged
def named_inputs(method: Callable[..., Any], owner: str, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method (of the class named `owner`) as keywords; arrays and lists of numbers as tensors.

    The first argument may contain the inputs: a mapping by name, or a list or tuple of arrays and tensors in the order
    of the parameters (Keras inputs named like a parameter are assigned by name). A list of numbers is the first input
    itself.
    """
    signature = _signature(method)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{owner}.{method.__name__}() {error}") from None
    names = list(signature.parameters)
    first = given.get(names[0])
    packed = None
    if isinstance(first, Mapping):
        packed = _known(dict(first), names)
        if is_lite_trace(first):
            packed["input_ids"] = tf.cast(packed["input_ids"], tf.int32)
    elif isinstance(first, list | tuple) and _is_several(first, TENSORS[names[0]]):
        packed = _in_order(first, names)
    if packed is not None:
        given = {name: value for name, value in given.items() if name != names[0]}
        if twice := sorted(set(packed) & set(given)):
            raise TypeError(f"{twice[0]}: given twice, in the first argument and on its own")
        given = {**packed, **given}
    return {name: _tensor(name, value) if name in TENSORS else _switch(name, value) for name, value in given.items()}


@cache
def _signature(method: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])  # without self


def _known(given: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if unknown := [name for name in given if name not in names]:
        warnings.warn(f"inputs {', '.join(map(repr, unknown))} are ignored: wanted some of {', '.join(names)}")
    return {name: value for name, value in given.items() if name in names}


def is_lite_trace(first: Any) -> bool:
    """Whether tf.lite.TFLiteConverter.from_keras_model traces the call: it declares all inputs as float32, also ids,
    and accepts only flat outputs."""
    ids = first.get("input_ids") if isinstance(first, Mapping) else None
    return tf.is_tensor(ids) and tf.is_symbolic_tensor(ids) and ids.dtype == tf.float32


def _is_several(values: list | tuple, rank: int) -> bool:
    """Whether a list contains inputs, not the numbers of the first input, whose rank is known."""
    return any(value is None or hasattr(value, "shape") or _depth(value) >= rank for value in values)


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list | tuple) and value:
        value, depth = value[0], depth + 1
    return depth + len(getattr(value, "shape", ()))


def _in_order(values: list | tuple, names: list[str]) -> dict[str, Any]:
    if len(values) > len(names):
        raise InputError(f"inputs: wanted at most {len(names)} ({', '.join(names)}), found {len(values)}")
    out: dict[str, Any] = {}
    for i, value in enumerate(values):
        own = value.name if isinstance(value, keras.KerasTensor) else None
        name = own if own in names else names[i]
        if name in out:
            raise InputError(f"inputs: {name} is given twice: name every keras.Input like its parameter, or none")
        out[name] = value
    return out


def _tensor(name: str, value: Any) -> Any:
    if isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        raise InputError(f"{name}: wanted a dense tensor, found a {type(value).__name__}")
    if value is None or tf.is_tensor(value) or isinstance(value, keras.KerasTensor):
        return value
    array = np.asarray(stack(name, value))
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise InputError(f"{name}: wanted numbers, found {array.dtype}")
    return tf.convert_to_tensor(array)


def _switch(name: str, value: Any) -> Any:
    """A flag as a Python value. In a dataset `return_loss` may be a tensor, which means True."""
    if not tf.is_tensor(value) and not isinstance(value, np.ndarray):
        return value
    if tf.is_tensor(value) and tf.is_symbolic_tensor(value):
        if name == "return_loss":
            return True
        raise InputError(f"{name}: wanted True, False or None, found a tensor whose value is not known yet")
    return bool(np.all(value))


# -- the core's checks, on tensors -------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """A tower's limits, named as in configs; None if a user's own layer decides."""

    vocab_size: int | None
    max_position_embeddings: int | None


@unchanged
def check_text(
    embeddings: Any,
    input_ids: tf.Tensor | None,
    attention_mask: tf.Tensor | None,
    position_ids: tf.Tensor | None,
) -> tf.Tensor:
    """The ids as int32 [B, S]. Known shapes are always checked; values only outside of tracing and without a device
    synchronisation. `embeddings`: the tower's, whose tables set the limits unless they were replaced."""
    limits = Limits(*(rows_of(embeddings, name) for name in ("token_embedding", "position_embedding")))
    shape = None if input_ids is None else input_ids.shape
    if shape is None or shape.rank is not None:
        room = limits.max_position_embeddings if limits.max_position_embeddings is not None else sys.maxsize
        check_ids(limits._replace(max_position_embeddings=room), shape)
        check_integers("input_ids", input_ids.dtype.name)
        _check_text_shapes(shape, attention_mask, position_ids)
        if limits.vocab_size is not None and can_look(input_ids):
            check_id_range(limits, *extremes(input_ids))
        if limits.max_position_embeddings is not None and position_ids is not None and can_look(position_ids):
            check_position_range(limits, *extremes(position_ids))
    return tf.reshape(tf.cast(input_ids, tf.int32), (-1, sizes(input_ids)[-1]))


def _check_text_shapes(shape: tf.TensorShape, attention_mask: Any, position_ids: Any) -> None:
    rows = (shape[:-1].num_elements(), shape[-1])
    if attention_mask is not None and attention_mask.shape.rank is not None:
        check_mask(assume(attention_mask.shape, rows), assume(rows, attention_mask.shape))
    if position_ids is not None:
        check_integers("position_ids", position_ids.dtype.name)
        if position_ids.shape.rank is not None:
            check_positions(assume(position_ids.shape, rows), assume(rows, position_ids.shape))


def rows_of(embeddings: Any, name: str) -> int | None:
    """The number of rows of a table of the embeddings; None if either is not this package's."""
    table = getattr(embeddings, name, None)
    return table.input_dim if untouched(embeddings, deep=False) and untouched(table) else None


@unchanged
def check_chosen(patches: tf.Tensor, batch: int | None, count: int) -> None:
    """As `check_text`, for chosen patches."""
    check_integers("patches", patches.dtype.name)
    if patches.shape.rank is not None:
        check_patches(assume(patches.shape, (batch, None)), assume((batch,), patches.shape[:1])[0])
    if can_look(patches):
        check_patch_range(count, *extremes(patches))


@unchanged
def check_image(embeddings: Any, pixel_values: tf.Tensor | None, interpolate: bool) -> tf.Tensor:
    """The pixels, with all sizes except the batch known. Unknown sizes are assumed to be right, and checked later.

    `embeddings`: the tower's. If its positions were replaced, they determine the allowed sizes.
    """
    config, rows = embeddings.config, rows_of(embeddings, "position_embedding")
    shape = None if pixel_values is None else pixel_values.shape
    side = config.image_size
    if rows is not None and rows != embeddings.num_positions:  # another table than the config's
        side = isqrt(rows - 1) * config.patch_size
    free = interpolate or rows is None
    wanted = (None, config.num_channels, side, side)
    if shape is None or shape.rank is not None and (None not in shape[1:] or not free):
        check_pixels(SimpleNamespace(**_pixel_limits(config), image_size=side), shape and assume(shape, wanted), free)
    elif free:
        raise InputError(
            "pixel_values: wanted a height and width that are known before the call with "
            f"interpolate_pos_encoding=True, found {shape}"
        )
    return pixel_values if free else tf.ensure_shape(pixel_values, wanted)


@unchanged
def check_paired(text_embeds: tf.Tensor, image_embeds: tf.Tensor) -> None:
    """Check that there are as many texts as images, if both counts are known."""
    texts, images = text_embeds.shape[0], image_embeds.shape[0]
    if texts is not None and images is not None:
        check_pairs(texts, images)


def _pixel_limits(config: CLIPVisionConfig) -> dict[str, int]:
    return {"num_channels": config.num_channels, "patch_size": config.patch_size}


def assume(shape: Any, wanted: Any) -> tuple[int | None, ...]:
    """A shape with its unknown sizes taken from another, axis by axis from the last."""
    missing = len(shape) - len(wanted)
    return tuple(wanted[i - missing] if size is None and i >= missing else size for i, size in enumerate(shape))


def can_look(x: tf.Tensor) -> bool:
    """Whether there are values that can be read, outside of tracing and without a device synchronisation."""
    return not tf.is_symbolic_tensor(x) and "GPU" not in x.device and x.shape.num_elements() > 0


def extremes(x: tf.Tensor) -> tuple[int, int]:
    """The lowest and the highest value."""
    array = x.numpy()
    return int(array.min()), int(array.max())
