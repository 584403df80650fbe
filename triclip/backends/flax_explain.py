"""What `triclip.explain` asks of a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clip_flax.modeling import FlaxCLIPModel

from ..explain import PairAttentions

Path = tuple[str, ...]
_COMPILED: WeakKeyDictionary[FlaxCLIPModel, dict[bool, Callable[..., Any]]] = WeakKeyDictionary()


def pair_attentions(
    model: FlaxCLIPModel, pixel_values: np.ndarray, input_ids: np.ndarray, gradients: bool
) -> PairAttentions:
    """float32 [1, C, H, W] and int64 [1, S] -> attention weights and, if asked for, the logit's gradients by them."""
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
    """The logit's gradient by the attention weights [1, H, N, N] of every attention module, by its path.

    JAX gives no gradients by intermediate values. Context is weights @ values, so the gradient by the weights is that
    by the context, which `out_proj` takes, times the values: a zero is added to the one, the other is kept.
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
