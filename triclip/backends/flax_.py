"""The tools' backend in JAX: see `triclip.backends.Backend`.

Batches are padded to few shapes, because each new shape compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clip_flax.modeling import FlaxCLIPModel

from ..prefixes import pad_rows_of_ids
from . import PairAttentions, no_such_device

Path = tuple[str, ...]
_COMPILED: WeakKeyDictionary[FlaxCLIPModel, dict[bool, Callable[..., Any]]] = WeakKeyDictionary()


def load_full_model(name_or_path: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> FlaxCLIPModel:
    """A FlaxCLIPModel; `device` is a jax.Device or a name such as "cuda:1"."""
    model = FlaxCLIPModel.from_pretrained(name_or_path, dtype=dtype or "float32", **kwargs)
    if device is not None:
        model.params = jax.device_put(model.params, find_device(device)[0] if isinstance(device, str) else device)
    return model


def find_device(name: str) -> tuple[jax.Device, str]:
    """See `Backend.find_device`; also a platform of JAX's own, such as "tpu"."""
    wanted, _, number = name.partition(":")
    found = jax.devices() if wanted == "auto" else _of_platform({"cuda": "gpu", "mps": "metal"}.get(wanted, wanted))
    place = int(number) if number.isdecimal() else 0
    if place >= len(found) or number and not number.isdecimal():
        raise no_such_device(name, [*(f"{one.platform}:{one.id}" for one in jax.devices()), "cpu"])
    return found[place], "cpu" if found[place].platform == "cpu" else str(found[place])


def _of_platform(platform: str) -> list[jax.Device]:
    try:
        return jax.devices(platform)
    except RuntimeError:  # it isn't there
        return []


def text_features(model: FlaxCLIPModel, input_ids: np.ndarray) -> np.ndarray:
    """int64 [B, S] -> float32 [B, P], not normalised."""
    padded = pad_rows(pad_columns(input_ids, model.config.text_config.max_position_embeddings))
    return np.asarray(model.get_text_features(padded.astype(np.int32)), np.float32)[: len(input_ids)]


def row_features(model: FlaxCLIPModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Of texts' ids, each up to its end token."""
    return text_features(model, pad_rows_of_ids(rows))


def image_features(model: FlaxCLIPModel, pixel_values: np.ndarray) -> np.ndarray:
    """float32 [B, C, H, W] -> float32 [B, P], not normalised."""
    return np.asarray(model.get_image_features(pad_rows(pixel_values)), np.float32)[: len(pixel_values)]


def logit_scale(model: FlaxCLIPModel) -> float:
    """The stored logarithm."""
    return float(model.params["logit_scale"])


def separate_cores(model: FlaxCLIPModel) -> int:
    """1: XLA's threads belong to the process."""
    return 1


def one_core_workers(count: int) -> Executor:
    """One thread: see `separate_cores`."""
    return ThreadPoolExecutor(1)


def pad_rows(array: np.ndarray) -> np.ndarray:
    """Rows repeated up to the next power of two, so that compiled backends see few batch shapes. Cut the result."""
    wanted = 1 << max(len(array) - 1, 0).bit_length()
    return np.pad(array, [(0, wanted - len(array))] + [(0, 0)] * (array.ndim - 1), mode="edge")


def pad_columns(input_ids: np.ndarray, limit: int, multiple: int = 8) -> np.ndarray:
    """Ids [B, S] with the last column repeated up to a multiple, at most to `limit`, for the same reason.

    The last column holds end or padding tokens, which may repeat: the pooled position, the first end token, stays.
    """
    length = input_ids.shape[1]
    wanted = max(min(-(-length // multiple) * multiple, limit), length)
    return np.pad(input_ids, [(0, 0), (0, wanted - length)], mode="edge")


def pair_attentions(
    model: FlaxCLIPModel, pixel_values: np.ndarray, input_ids: np.ndarray, gradients: bool
) -> PairAttentions:
    """float32 [1, C, H, W] and int64 [1, S] -> attention weights and, if asked for, the logit's gradients."""
    compiled = _COMPILED.setdefault(model, {})
    if gradients not in compiled:  # for a model; and by JAX for a length of the text
        compiled[gradients] = jax.jit(_traced(model.module.clone(gradient_checkpointing=False), gradients))
    pixels = jnp.asarray(pixel_values.transpose(0, 2, 3, 1))
    vision, text, slopes, logit = compiled[gradients](model.params, jnp.asarray(input_ids, jnp.int32), pixels)

    def of(tower: str) -> np.ndarray | None:
        layers = range(len(vision if tower == "vision_model" else text))
        return (
            _stacked([slopes[tower, "encoder", "layers", str(i), "self_attn"] for i in layers]) if gradients else None
        )

    return PairAttentions(_stacked(vision), _stacked(text), of("vision_model"), of("text_model"), float(logit))


def _traced(module: nn.Module, gradients: bool) -> Callable[..., Any]:
    """(params, input_ids, pixel_values) -> both towers' attentions, the gradients by path, the logit."""

    def run(params: Any, input_ids: jax.Array, pixel_values: jax.Array) -> Any:
        def forward() -> Any:
            return module.apply({"params": params}, input_ids, pixel_values, output_attentions=True)

        out = forward()
        slopes = _gradients(lambda: forward().logits_per_image[0, 0]) if gradients else {}
        attentions = out.vision_model_output.attentions, out.text_model_output.attentions
        return *attentions, slopes, out.logits_per_image[0, 0]

    return run


def _gradients(logit: Callable[[], jax.Array]) -> dict[Path, jax.Array]:
    """Module path -> the logit's gradient with respect to that module's attention weights [1, H, N, N].

    JAX has no gradients with respect to intermediate values. The context is weights @ values, so the weights' gradient
    is the context's gradient times the values. A zero added to the context (the input of `out_proj`) gives the
    gradient; the values are recorded.
    """

    def recorded(zeros: dict[Path, jax.Array] | None) -> tuple[jax.Array, tuple[dict, dict]]:
        contexts: dict[Path, jax.Array] = {}
        values: dict[Path, jax.Array] = {}

        def intercept(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            *path, name = context.module.path or ("",)
            if name == "out_proj":
                contexts[tuple(path)] = args[0]
                args = (args[0] if zeros is None else args[0] + zeros[tuple(path)], *args[1:])
            result = call(*args, **kwargs)
            if name == "v_proj":
                values[tuple(path)] = result
            elif isinstance(result, tuple) and path and name == "self_attn":
                heads[(*path, name)] = result[1].shape[1]
            return result

        with nn.intercept_methods(intercept):
            return logit(), (contexts, values)

    heads: dict[Path, int] = {}
    _, (shapes, _) = jax.eval_shape(lambda: recorded(None))
    zeros = {path: jnp.zeros(context.shape, context.dtype) for path, context in shapes.items()}
    slopes, (_, values) = jax.grad(recorded, has_aux=True)(zeros)

    def split(x: jax.Array, path: Path) -> jax.Array:
        return x.reshape(*x.shape[:2], heads[path], -1)  # [1, N, H, d]

    return {
        path: jnp.einsum("bqhd,bkhd->bhqk", split(slopes[path], path), split(values[path], path)) for path in slopes
    }


def _stacked(layers: Sequence[Any]) -> np.ndarray:
    """L of [1, H, N, N] -> float32 [L, H, N, N]."""
    return np.concatenate([np.asarray(layer, np.float32) for layer in layers])
