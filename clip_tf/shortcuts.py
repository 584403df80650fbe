"""Short cuts, and the condition for all of them."""

from __future__ import annotations

import os
from functools import cache
from types import FunctionType
from typing import Any

import keras
import tensorflow as tf

from .layers import quick_gelu, resampled_positions

_SOURCES = tuple(os.path.join(os.path.dirname(file), "") for file in (keras.__file__, tf.__file__, __file__))


def untouched(layer: Any, deep: bool = True) -> bool:
    """Whether a layer, and (`deep`) every layer in it, is this package's and was not changed.

    The condition for every short cut, because short cuts skip calls: subclasses, wrappers and other layers must get the
    same calls as on the plain path, and no method may be replaced, on an object or on a class.
    """
    found = walk(layer) if deep else [layer]
    return all(map(_is_own, {type(item) for item in found})) and not any(map(_is_patched, found))


def walk(layer: Any) -> list[Any]:
    """A layer and all layers in it."""
    found, seen = [layer], {id(layer)}
    for item in found:  # grows during the loop
        for name, value in vars(item).items():
            if name[0] == "_":  # Keras' own lists of the same layers
                continue
            for child in value.values() if isinstance(value, dict) else value if _is_list(value) else (value,):
                if isinstance(child, keras.layers.Layer) and id(child) not in seen:
                    seen.add(id(child))
                    found.append(child)
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def settings(model: keras.Model) -> list[Any]:
    """The state that a traced graph captures: variables and public attributes of a model and of every layer in it."""
    attributes = (item for layer in walk(model) for item in vars(layer).items())
    return [value for name, value in attributes if name[0] != "_" or isinstance(value, keras.Variable)]


def _is_own(cls: type) -> bool:
    """Whether it is a class of this package with methods defined here (or in Keras)."""
    inherited = ("call", "__call__")
    names = {base: _methods(cls) if _is_ours(base) else inherited for base in cls.__mro__}
    return _is_ours(cls) and all(_is_original(vars(base).get(n)) for base in names for n in names[base])


def _is_patched(layer: Any) -> bool:
    """Whether an object has an attribute that overrides a method of its class."""
    return not _methods(type(layer)).isdisjoint(vars(layer))


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __package__


@cache
def _methods(cls: type) -> frozenset[str]:
    """The names of a class's methods from this package, without `build`, which Keras wraps, and with the call."""
    ours = {n for base in cls.__mro__ if _is_ours(base) for n, f in vars(base).items() if isinstance(f, FunctionType)}
    return frozenset(ours - {"build"} | {"call", "__call__"})


def _is_original(attribute: Any) -> bool:
    """Whether a method is defined in one of our files (`functools.wraps` can't hide that); patches are not."""
    if isinstance(attribute, FunctionType):
        return attribute.__code__.co_filename.startswith(_SOURCES)
    return attribute is None


# -- the short cuts ---------------------------------------------------------------------------------------------------


def pooled(tower: Any, training: bool = False, **inputs: Any) -> tf.Tensor:
    """A tower's `pooler_output` [B, D]: by its `pooled` if nothing was changed, else by a whole call."""
    if untouched(tower) and not any(isinstance(value, keras.KerasTensor) for value in inputs.values()):
        return tower.pooled(**inputs, training=training)
    return tower(**inputs, return_dict=True, training=training)[1]


def mlp(fc1: keras.layers.Layer, act: Any, fc2: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor | None:
    """fc2(quick_gelu(fc1(x))) with fewer passes over the wide array; None if that does not apply.

    A graph computes z * sigmoid(z) in one kernel on CPUs, and the factor of z = 1.702 * fc1(x) is applied to narrow x.
    """
    if act is not quick_gelu or x.dtype not in (tf.float32, tf.float64):
        return None
    if not all(untouched(fc) and not fc.quantization_mode and fc.compute_dtype == x.dtype for fc in (fc1, fc2)):
        return None
    z = fc1.product(x, before=1.702)
    return fc2.product(z * tf.sigmoid(z), after=1 / 1.702)


def grid_positions(table: Any, height: int, width: int) -> tf.Tensor:
    """The positions of the class token and of each patch, from a layer with the learned grid, resampled (bicubic) for
    another grid; a replaced layer is called with the numbers of the positions."""
    if not untouched(table):
        return table(tf.range(height * width + 1)[None])
    return resampled_positions(tf.convert_to_tensor(table.embeddings), height, width)
