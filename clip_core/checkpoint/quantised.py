"""8-bit weights with scales, as ComfyUI writes them: read as the numbers that they stand for.

A layer's weight is `code * scale`, computed as a float32 product, which rounds once; the bias and all other tensors
are as they are in the file. Layouts (ComfyUI's `comfy/ops.py` and `comfy/quant_ops.py`):

- `LAYER.scale_weight`, with a tensor `scaled_fp8` to mark the file; `LAYER.scale_input` is for 8-bit activations;
- `LAYER.weight_scale` and `LAYER.input_scale`, with what the layer is in `LAYER.comfy_quant` (JSON as bytes) or in the
  file's metadata under `_quantization_metadata`.

A scale is one number, or one a row. With `"convrot"` the codes are of the weight times a rotation, group by group of
its inputs: the product is turned back in float64 and rounded once (comfy-kitchen's `tensor/int8_utils.py`). 8-bit
floats without a scale are plain tensors and not touched here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .containers import Content
from .tensor import Tensor

CODES = ("float8_e4m3fn", "float8_e5m2", "int8")
_SCALES = ("scale_weight", "weight_scale")
_OF_ACTIVATIONS = ("scale_input", "input_scale")  # they change how fast a product is computed, not what it is
_NOTE, _MARK, _METADATA = "comfy_quant", "scaled_fp8", "_quantization_metadata"
_FORMATS = (None, *CODES[:2], "int8_tensorwise")
_UNREAD = (
    "it is quantised in a form that is not read here (wanted float8_e4m3fn, float8_e5m2 or int8_tensorwise with a "
    "scale_weight or weight_scale, as ComfyUI writes them). Load the model that it was made from"
)


def plain(content: Content, where: str, prefix: str = "", own: bool = False) -> tuple[Content, list[str]]:
    """(the content with float32 weights in place of codes and scales, notes). Of names under the prefix.

    Args:
        own: the file is of somebody's own class, which may keep other things beside 8-bit weights.

    Raises: CheckpointError for other forms of quantisation, by name, and for scales that fit no weight.
    """
    tensors = content.tensors
    stated = _stated_formats(content, where, prefix)
    scales: dict[str, Tensor] = {}
    known, unknown, orphans = set(), [], []
    for name in (name for name in tensors if name.startswith(prefix)):
        layer, _, leaf = name.rpartition(".")
        weight = tensors.get(f"{layer}.weight")
        if leaf == _MARK:
            known.add(name)
        elif weight is None or weight.dtype not in CODES and layer not in stated:
            orphans += [name] if weight is None and leaf in _SCALES else []
        elif leaf in _SCALES:
            scales[layer] = tensors[name]
            known.add(name)
        elif leaf in (*_OF_ACTIVATIONS, _NOTE):
            known.add(name)
        elif leaf not in ("weight", "bias"):
            unknown.append(name)
    odd = unknown + (orphans if known else [])
    if odd and not own:
        raise CheckpointError(f"{where}: {odd[0]}: of an 8-bit weight; {_UNREAD}")
    found = {name: tensor for name, tensor in tensors.items() if name not in known}
    for layer in stated.keys() | scales.keys():
        if f"{layer}.weight" in tensors:
            stands = _scaled(tensors[f"{layer}.weight"], scales.get(layer), stated.get(layer, {}), f"{where}: {layer}")
            found[f"{layer}.weight"] = stands
    kinds = ", ".join(sorted({tensors[f"{layer}.weight"].dtype for layer in scales}))
    note = f"{len(scales)} weights are {kinds} with scales: each is read as the float32 product of the two"
    return content._replace(tensors=found), [note] if scales else []


def _stated_formats(content: Content, where: str, prefix: str) -> dict[str, Mapping[str, Any]]:
    """Layer -> what the file says of its form, of those under the prefix."""
    texts: dict[str, Any] = {}
    try:
        if _METADATA in content.metadata:
            texts |= json.loads(content.metadata[_METADATA]).get("layers", {})
        for name, tensor in content.tensors.items():
            if name.endswith(f".{_NOTE}") and name.startswith(prefix) and tensor.dtype == "uint8":
                texts[name.removesuffix(f".{_NOTE}")] = json.loads(tensor.numpy().tobytes())
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{where}: what it says of its quantisation can't be read: {error}") from None
    texts = {layer: stated for layer, stated in texts.items() if layer.startswith(prefix)}
    for layer, stated in texts.items():
        if not isinstance(stated, Mapping) or stated.get("format") not in _FORMATS:
            raise CheckpointError(f"{where}: {layer}: quantised as {json.dumps(stated)[:120]}: {_UNREAD}")
    return texts


def _scaled(weight: Tensor, scale: Tensor | None, stated: Mapping[str, Any], where: str) -> Tensor:
    if weight.dtype not in CODES:
        if weight.dtype in ("uint8", "uint16", "int16", "int32") or scale is not None:
            raise CheckpointError(f"{where}: {weight.dtype} weights: {_UNREAD}")
        return weight
    if scale is None:
        raise CheckpointError(f"{where}: {stated.get('format')} without its scale: {_UNREAD}")
    rows = weight.shape[0] if weight.shape else 0
    if scale.size not in (1, rows) or scale.dtype not in ("float32", "float16", "bfloat16"):
        raise CheckpointError(f"{where}: its scale: wanted 1 or {rows} floats, found {scale.dtype} {scale.shape}")
    group = _group(weight, stated, where)

    def product() -> np.ndarray:
        factor = scale.astype("float32").numpy().reshape((-1,) + (1,) * (len(weight.shape) - 1))
        codes = weight.numpy() if weight.dtype == "int8" else weight.astype("float32").numpy()
        if group:
            turned = np.multiply(codes, factor, dtype=np.float64).reshape(-1, group) @ _rotation(group)
            return turned.astype(np.float32).reshape(weight.shape)
        return np.multiply(codes, factor, dtype=np.float32)

    return Tensor("float32", weight.shape, product)


def _group(weight: Tensor, stated: Mapping[str, Any], where: str) -> int:
    """How many inputs are rotated together; 0: none are."""
    if not stated.get("convrot"):
        return 0
    size = stated.get("convrot_groupsize", 256)
    if size not in (4, 16, 64, 256, 1024) or len(weight.shape) != 2 or weight.shape[1] % size:
        raise CheckpointError(
            f"{where}: convrot_groupsize: wanted a power of 4 that divides {weight.shape}, found {size}"
        )
    return size


def _rotation(size: int) -> np.ndarray:
    """The regular Hadamard matrix of a power of 4, orthogonal and symmetric: Kronecker's powers of that of 4."""
    four = np.ones((4, 4)) - 2 * np.eye(4)[::-1]
    turned: np.ndarray = np.ones((1, 1))
    while len(turned) < size:
        turned = np.kron(turned, four)
    return turned / np.sqrt(size)
