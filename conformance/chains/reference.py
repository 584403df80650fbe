"""CLIP in 60 lines of NumPy, in float64, from a config.json's content and canonical weights: v4.37's definition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]
_erf = np.vectorize(math.erf, otypes=[np.float64])
_SELU = 1.0507009873554805, 1.6732632423543772


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Any] = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: _SELU[0] * np.where(x > 0, x, _SELU[1] * (np.exp(np.minimum(x, 0)) - 1)),
}


def norm(x: np.ndarray, weights: Weights, name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def encoder(x: np.ndarray, weights: Weights, tower: str, config: Any, causal: bool) -> np.ndarray:
    batch, length, width = x.shape
    heads = config.num_attention_heads
    hidden = np.triu(np.ones((length, length), bool), 1) & causal
    for i in range(config.num_hidden_layers):
        layer = f"{tower}_model.encoder.layers.{i}"
        y = norm(x, weights, f"{layer}.layer_norm1", config.layer_norm_eps)
        q, k, v = (
            linear(y, weights, f"{layer}.self_attn.{n}_proj").reshape(batch, length, heads, -1).swapaxes(1, 2)
            for n in "qkv"
        )
        scores = np.where(hidden, -np.inf, q @ k.swapaxes(2, 3) / math.sqrt(width // heads))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        y = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + linear(y.swapaxes(1, 2).reshape(batch, length, width), weights, f"{layer}.self_attn.out_proj")
        y = linear(norm(x, weights, f"{layer}.layer_norm2", config.layer_norm_eps), weights, f"{layer}.mlp.fc1")
        x = x + linear(ACTIVATIONS[config.hidden_act](y), weights, f"{layer}.mlp.fc2")
    return x


def text(config: Any, weights: Weights, ids: np.ndarray, last_eps: float | None = None) -> np.ndarray:
    """Pooled text, projected where there is a projection. last_eps: of the last norm, for KerasHub's 1e-6."""
    x = weights["text_model.embeddings.token_embedding.weight"][ids]
    x = x + weights["text_model.embeddings.position_embedding.weight"][: ids.shape[1]]
    x = encoder(x, weights, "text", config, causal=True)
    x = norm(x, weights, "text_model.final_layer_norm", last_eps or config.layer_norm_eps)
    places = ids.argmax(1) if config.eos_token_id == 2 else (ids == config.eos_token_id).argmax(1)
    pooled = x[np.arange(len(ids)), places]
    return pooled @ weights["text_projection.weight"].T if "text_projection.weight" in weights else pooled


def image(config: Any, weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """Pooled pictures, projected where there is a projection."""
    kernel, side = weights["vision_model.embeddings.patch_embedding.weight"], config.patch_size
    grid = config.image_size // side
    patches = pixels[:, :, : grid * side, : grid * side].reshape(len(pixels), -1, grid, side, grid, side)
    x = np.einsum("bcyhxw,dchw->byxd", patches, kernel).reshape(len(pixels), grid * grid, -1)
    first = np.broadcast_to(weights["vision_model.embeddings.class_embedding"], (len(x), 1, x.shape[-1]))
    x = np.concatenate([first, x], 1) + weights["vision_model.embeddings.position_embedding.weight"]
    x = norm(x, weights, "vision_model.pre_layrnorm", config.layer_norm_eps)
    x = encoder(x, weights, "vision", config, causal=False)
    pooled = norm(x[:, 0], weights, "vision_model.post_layernorm", config.layer_norm_eps)
    return pooled @ weights["visual_projection.weight"].T if "visual_projection.weight" in weights else pooled


def outputs(config: Any, weights: Weights, inputs: Mapping[str, np.ndarray], last_eps: float | None = None):
    """{"text", "image"} of the towers that the weights have, in float64.

    Args:
        config: a CLIPConfig, or the config of one tower.
        weights: canonical name -> array, of any float type.
        inputs: "ids" and "pixels".
    """
    wide = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    found = {}
    if "text_model.final_layer_norm.bias" in wide:
        found["text"] = text(getattr(config, "text_config", config), wide, inputs["ids"], last_eps)
    if "vision_model.post_layernorm.bias" in wide:
        pixels = inputs["pixels"].astype(np.float64)
        found["image"] = image(getattr(config, "vision_config", config), wide, pixels)
    return found
