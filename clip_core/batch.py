"""What a tokenizer, an image processor or a processor returns, and its tensor conversion.

A framework is imported here only when `return_tensors` asks for it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np


def _torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _tensorflow(array: np.ndarray) -> Any:
    import tensorflow as tf

    # Ids and masks are int32 in TensorFlow, as they are from transformers.
    return tf.constant(array.astype(np.int32) if array.dtype == np.int64 else array)


def _jax(array: np.ndarray) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(array)


_CONVERTERS: dict[str, Callable[[np.ndarray], Any]] = {
    "np": lambda array: array,
    "numpy": lambda array: array,
    "pt": _torch,
    "torch": _torch,
    "tf": _tensorflow,
    "jax": _jax,
}


def to_tensor(array: np.ndarray, return_tensors: Any) -> Any:
    """One NumPy array as the tensor type that `return_tensors` names.

    Accepts "np", "pt", "tf", "jax", or an enum whose `value` is one of them (transformers' TensorType).
    Raises ValueError for another name, ImportError when that framework is not installed.
    """
    name = getattr(return_tensors, "value", return_tensors)
    if name not in _CONVERTERS:
        raise ValueError(f"return_tensors: wanted one of 'np', 'pt', 'tf', 'jax', found {return_tensors!r}")
    try:
        return _CONVERTERS[name](array)
    except ModuleNotFoundError as error:
        extra = {"pt": "torch", "torch": "torch", "tf": "tf", "jax": "flax"}[name]
        raise ImportError(
            f"return_tensors={name!r} needs {error.name}, which is not installed: pip install 'triclip[{extra}]'"
        ) from error


def stack(name: str, rows: Any) -> np.ndarray:
    """A list of equally long rows as one array (integers as int64, the type of ids in the documented API)."""
    if isinstance(rows, np.ndarray):
        return rows
    try:
        array = np.asarray(rows)
    except ValueError:
        array = np.asarray(None, dtype=object)
    if array.dtype == object:
        raise ValueError(
            f"{name}: rows differ in length, so they make no tensor: ask for padding=True (and truncation=True)"
        )
    return array.astype(np.int64) if array.dtype.kind in "iub" else array


class BatchEncoding(MutableMapping):
    """A mapping from input names to lists or tensors, with attribute access: `batch.input_ids`.

    Args:
        data: the values by name (`input_ids`, `attention_mask`, `pixel_values`, …).
        tensor_type: "np", "pt", "tf" or "jax" converts every value; None leaves them as they are.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: Any = None, **kwargs: Any) -> None:
        self.data: dict[str, Any] = dict(data or {})
        self.convert_to_tensors(tensor_type)

    def convert_to_tensors(self, tensor_type: Any = None) -> BatchEncoding:
        """Convert every value in place. Raises ValueError on rows of unequal length."""
        if tensor_type is not None:
            for name, value in self.data.items():
                self.data[name] = to_tensor(stack(name, value), tensor_type)
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Move every value that has a `to` of its own (torch tensors); the others stay."""
        for name, value in self.data.items():
            if hasattr(value, "to"):
                self.data[name] = value.to(*args, **kwargs)
        return self

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.data[key] = value

    def __delitem__(self, key: str) -> None:
        del self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        # `data` itself is absent while unpickling or copying; asking for it must not recurse.
        if name != "data" and name in self.data:
            return self.data[name]
        raise AttributeError(name)

    def __repr__(self) -> str:
        return repr(self.data)


class BatchFeature(BatchEncoding):
    """The same mapping under the name that image processors use."""
