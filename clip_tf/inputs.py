"""The input styles of v4.37's Keras models, as keywords: one after the other, a list or tuple, a mapping."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clip_core.batch import stack
from clip_core.errors import InputError

TENSORS = {"input_ids": 2, "pixel_values": 4, "attention_mask": 2, "position_ids": 2}  # name -> rank


def unpacked(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that takes its inputs in all of these styles."""

    @tf.autograph.experimental.do_not_convert
    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, **named_inputs(method, type(self).__name__, args, kwargs))

    return wrapper


def named_inputs(method: Callable[..., Any], owner: str, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What was given to a method (of the class named `owner`), as keywords; arrays and lists of numbers as tensors.

    The first argument may hold the inputs: a mapping by name, or a list or tuple of arrays and tensors in the order of
    the parameters (Keras inputs that are named like a parameter go where their name says). A list of numbers is the
    first input itself.
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


def _is_several(values: list | tuple, rank: int) -> bool:
    """Whether a list holds inputs rather than the numbers of the first one, whose rank is known."""
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
    """A flag as Python's own. A dataset makes tensors of everything: `return_loss` may be one, and then means yes."""
    if not tf.is_tensor(value) and not isinstance(value, np.ndarray):
        return value
    if tf.is_tensor(value) and tf.is_symbolic_tensor(value):
        if name == "return_loss":
            return True
        raise InputError(f"{name}: wanted True, False or None, found a tensor whose value is not known yet")
    return bool(np.all(value))


# -- for the checks of shapes and values


def assume(shape: Any, wanted: Any) -> tuple[int | None, ...]:
    """A shape with what is unknown in it taken from another, axis by axis from the last."""
    missing = len(shape) - len(wanted)
    return tuple(wanted[i - missing] if size is None and i >= missing else size for i, size in enumerate(shape))


def can_look(x: tf.Tensor) -> bool:
    """Whether values can be read without a device synchronisation or while a graph is being traced."""
    return not tf.is_symbolic_tensor(x) and "GPU" not in x.device and x.shape.num_elements() > 0


def extremes(x: tf.Tensor) -> tuple[int, int]:
    """The lowest and the highest value."""
    array = x.numpy()
    return int(array.min()), int(array.max())
