"""How fresh weights are drawn: the documented rule of v4.37, once for all backends.

Weights are normal around 0 with the standard deviations below; biases are 0, norms are 1, and the logit scale is its
configured constant. The factor is that of the model's own config: a full model's `initializer_factor` (1.0 unless
set) is also used for its towers.
"""

from __future__ import annotations

import math
from typing import Any

from .weights import Weight, is_resnet, weight_table


def initial_values(config: Any, scope: str = "full") -> dict[str, tuple[str, float]]:
    """Canonical name -> ("normal", standard deviation) or ("constant", value), for every entry of the table."""
    values: dict[str, tuple[str, float]] = {}
    for name, weight in weight_table(config, scope).items():
        tower = "vision" if name.startswith(("vision_model", "visual")) else "text"
        own = getattr(config, f"{tower}_config", config)
        if weight.kind == "batch_norm" or is_resnet(own) and tower == "vision":
            values[name] = _resnet_value(name, weight, own, config.initializer_factor)
        elif name == "logit_scale":
            values[name] = ("constant", config.logit_scale_init_value)
        elif weight.kind == "norm" and weight.leaf == "weight":
            values[name] = ("constant", 1.0)
        elif weight.leaf == "bias":
            values[name] = ("constant", 0.0)
        else:
            values[name] = ("normal", config.initializer_factor * deviation(name, tower, own))
    return values


def _resnet_value(name: str, weight: Weight, config: Any, factor: float) -> tuple[str, float]:
    """OpenAI's rule for its ResNet: the last norm of a block is 0, so that blocks begin as their short cuts. PyTorch's
    deviation for convolutions, which OpenAI leaves as they are."""
    if weight.kind == "batch_norm":
        one = weight.leaf == "running_var" or weight.leaf == "weight" and ".bn3." not in name.partition(".layer")[2]
        return "constant", float(one)
    if weight.leaf == "bias":
        return "constant", 0.0
    return "normal", factor * resnet_deviation(weight.shape, config)


def resnet_deviation(shape: tuple[int, ...], config: Any) -> float:
    """The standard deviation of a ResNet's weight before the factor: of a convolution [out, in, h, w], or of a part of
    the attention that pools."""
    return (3 * math.prod(shape[1:])) ** -0.5 if len(shape) == 4 else config.hidden_size**-0.5


def deviation(name: str, tower: str, config: Any) -> float:
    """The standard deviation of one weight before the factor. `config` is the tower's; `name` may lack its prefix."""
    width = config.hidden_size**-0.5
    depth = (2 * max(config.num_hidden_layers, 1)) ** -0.5
    if "_proj." in name and "out_proj" not in name or ".fc2." in name:
        return width * depth  # q, k, v, and the MLP's output to the residual stream
    if ".fc1." in name:
        return (2 * config.hidden_size) ** -0.5
    if "patch_embedding" in name or "position_embedding" in name or "token_embedding" in name:
        return config.initializer_range if tower == "vision" else 0.02
    return width  # out_proj, class_embedding, the projections
