"""Initialisation of one module, by the rule of `clip_core.init`."""

from __future__ import annotations

from torch import nn

from clip_core.init import deviation

from . import resnet


def draw(module: nn.Module, factor: float, whole: bool) -> None:
    """Draw a module's own weights from torch's global generator, as v4.37's `_init_weights` does.

    Norms are 1 and 0, a linear layer's bias 0. whole: whether it is an embedding, attention or MLP of CLIP, all of
    whose weights are drawn; of other modules, only a model's two projections are drawn and its logit scale is set.
    """
    if resnet.draw(module, factor):
        return
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, nn.Linear) and module.bias is not None:
        module.bias.data.zero_()
    elif whole:
        tower = "vision" if hasattr(module, "patch_embedding") else "text"
        for name, weight in module.named_parameters():
            if not name.endswith("bias"):
                weight.data.normal_(std=factor * deviation(f".{name}", tower, module.config))
    elif getattr(module, "weight_scope", None) is not None:
        for name in ("text_projection", "visual_projection"):
            if isinstance(layer := getattr(module, name, None), nn.Linear):
                layer.weight.data.normal_(std=factor * layer.in_features**-0.5)
        if hasattr(module, "logit_scale"):
            module.logit_scale.data.fill_(module.config.logit_scale_init_value)
