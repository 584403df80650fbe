"""What `triclip.explain` asks of a backend."""

from __future__ import annotations

import numpy as np
import torch

from clip_torch.modeling import CLIPModel

from ..explain import PairAttentions


def pair_attentions(
    model: CLIPModel, pixel_values: np.ndarray, input_ids: np.ndarray, gradients: bool
) -> PairAttentions:
    """float32 [1, C, H, W] and int64 [1, S] -> attention weights and, if asked for, the logit's gradients by them."""
    towers = (model.vision_model, model.text_model)
    # Where all parameters are frozen, a graph begins at the embedded tokens.
    hooks = [tower.embeddings.register_forward_hook(lambda _m, _i, x: x.requires_grad_()) for tower in towers]
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            out = model(
                input_ids=torch.from_numpy(input_ids).to(model.device),
                pixel_values=torch.from_numpy(pixel_values).to(model.device),
                output_attentions=True,
            )
            logit = out.logits_per_image[0, 0]
            vision, text = out.vision_model_output.attentions, out.text_model_output.attentions
            slopes = torch.autograd.grad(logit, (*vision, *text)) if gradients else ()
    finally:
        for hook in hooks:
            hook.remove()
    return PairAttentions(
        _stacked(vision),
        _stacked(text),
        _stacked(slopes[: len(vision)]) if gradients else None,
        _stacked(slopes[len(vision) :]) if gradients else None,
        float(logit.detach()),
    )


def _stacked(layers: tuple[torch.Tensor, ...]) -> np.ndarray:
    """L of [1, H, N, N] -> float32 [L, H, N, N]."""
    return torch.cat([layer.detach() for layer in layers]).float().cpu().numpy()
