"""A model's variables by their published names, and the order of their axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clip_core.checkpoint.tensor import Tensor as LazyTensor

from .layers import BatchNorm, children

# (kind, leaf) of the weight table -> the layer's attribute, and the permutation from the canonical axes to its own.
LEAVES: dict[tuple[str, str], tuple[str, tuple[int, ...] | None]] = {
    ("linear", "weight"): ("kernel", (1, 0)),
    ("linear", "bias"): ("bias", None),
    ("conv", "weight"): ("kernel", (2, 3, 1, 0)),
    ("norm", "weight"): ("gamma", None),
    ("norm", "bias"): ("beta", None),
    ("embedding", "weight"): ("embeddings", None),
    ("batch_norm", "weight"): ("gamma", None),
    ("batch_norm", "bias"): ("beta", None),
    ("batch_norm", "running_mean"): ("moving_mean", None),
    ("batch_norm", "running_var"): ("moving_variance", None),
}

KINDS = (
    (keras.layers.Dense, "linear"),
    (keras.layers.Conv2D, "conv"),
    (keras.layers.LayerNormalization, "norm"),
    (keras.layers.Embedding, "embedding"),
    (BatchNorm, "batch_norm"),
)

PIECE = 2 << 20  # bytes


def named_variables(layer: Any, prefix: str = "") -> dict[str, tuple[Any, tuple[int, ...] | None]]:
    """Name -> (variable, permutation from the published axes to its own) of all weights in a layer.

    Names are PyTorch's: attributes from the layer on, and leaves from `LEAVES` for known kinds of layers. A main layer
    is not part of them. Variables hidden in Keras' own layers are named by their path.
    """
    out: dict[str, tuple[Any, tuple[int, ...] | None]] = {}
    inside: set[int] = set()
    for name, child in children(layer):
        below = named_variables(child, prefix if getattr(child, "is_main_layer", False) else f"{prefix}{name}.")
        out |= {name: entry for name, entry in below.items() if id(entry[0]) not in inside}
        inside |= {id(variable) for variable, _ in below.values()}
    kind = next((kind for cls, kind in KINDS if isinstance(layer, cls)), "")
    leaves = {leaf: (name, axes) for (of, name), (leaf, axes) in LEAVES.items() if of == kind}
    for variable in layer.weights:
        if id(variable) not in inside:
            path = variable.path.removeprefix(f"{layer.path}/").split("/") if layer.path else [variable.name]
            leaf, permutation = leaves.get(variable.name, (".".join(path), None))
            out.setdefault(f"{prefix}{leaf}", (variable, permutation))
    return out


def canonical_shape(variable: Any, permutation: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of a variable in the published order of axes."""
    shape = tuple(variable.shape)
    return tuple(shape[i] for i in np.argsort(permutation)) if permutation else shape


def keras_name(name: str, variable: Any) -> str:
    """A user's own part in v4.37's h5 files: "classifier.weight" -> "classifier/kernel:0"."""
    return f"{name.rpartition('.')[0]}.{variable.name}:0".replace(".", "/").removeprefix("/")


def rename_keras(entries: dict[str, Any], wanted: Mapping[str, tuple[Any, tuple[int, ...] | None]]) -> None:
    """Entries with Keras' names and layout, such as "classifier/c/classifier/kernel:0", in the published form."""
    for name, (variable, permutation) in wanted.items():
        own = keras_name(name, variable)
        key = next((key for key in entries if f"/{key}".endswith(f"/{own}")), None)
        if key is not None and name not in entries:
            tensor = entries.pop(key)
            fits = permutation is not None and len(tensor.shape) == len(permutation)
            entries[name] = tensor.permute(*np.argsort(permutation)) if fits else tensor


def fill(variable: keras.Variable, tensor: LazyTensor) -> None:
    """Assign a tensor of the variable's dtype, a large one in pieces, in place, because TensorFlow copies values."""
    dtype = tf.as_dtype(variable.dtype).as_numpy_dtype  # bfloat16 is stored as bits
    raw = [getattr(tf.raw_ops, name, None) for name in ("ResourceStridedSliceAssign", "DisableCopyOnRead")]
    if tensor.nbytes <= PIECE or not isinstance(variable.value, tf.Variable) or None in raw:
        variable.assign(tensor.numpy().view(dtype))
        return
    assign, disable_copy = raw
    whole = tensor.numpy() if tensor.part is None else None  # transposed: it can't be read in parts
    rows = max(PIECE * tensor.shape[0] // tensor.nbytes, 1)
    handle = variable.value.handle
    for start in range(0, tensor.shape[0], rows):
        stop = min(start + rows, tensor.shape[0])
        piece = tensor.rows(start, stop).numpy() if whole is None else whole[start:stop]
        # `variable[start:stop].assign` would first read the variable, which after the first part is a copy.
        assign(ref=handle, begin=[start], end=[stop], strides=[1], value=piece.view(dtype))
    # After a partial assignment TensorFlow copies the whole variable at every read, unless told otherwise.
    disable_copy(resource=handle)
