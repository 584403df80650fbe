"""The model's shape, and the forward passes the recipe needs beyond `CLIPModel.forward`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from bpe import CONTEXT
from torch import Tensor

from clip_core import CLIPConfig
from clip_torch import CLIPModel


def make_config(vocab_size: int, vision_layers: int, patch: int) -> CLIPConfig:
    """The configuration of both towers. The last two ids of the vocabulary are the start and the end of text.

    Attention is eager, which is quicker for sequences this short.
    """
    text = {
        "vocab_size": vocab_size, "hidden_size": 160, "intermediate_size": 640, "num_hidden_layers": 4,
        "num_attention_heads": 5, "max_position_embeddings": CONTEXT, "hidden_act": "gelu", "projection_dim": 192,
        "bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1, "pad_token_id": vocab_size - 1,
        "attn_implementation": "eager",
    }  # fmt: skip
    vision = {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": vision_layers, "num_attention_heads": 4,
        "image_size": 48, "patch_size": patch, "hidden_act": "gelu", "projection_dim": 192,
        "attn_implementation": "eager",
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=192)


def image_embeddings(
    model: CLIPModel, pixels: Tensor, keep: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Normalised image embeddings (N, P). With `keep` < 1 only that share of each picture's patches is looked at.

    Leaving patches out regularises and saves time; the class token always stays. (FLIP, arXiv:2212.00794.)
    """
    tower = model.vision_model
    tokens = tower.embeddings(pixels)
    if keep < 1.0:
        patches = tokens.shape[1] - 1
        order = torch.rand(len(pixels), patches, generator=generator, device=pixels.device).argsort(1)
        chosen = order[:, : round(keep * patches)] + 1
        chosen = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], 1)[..., None]
        tokens = tokens.gather(1, chosen.expand(-1, -1, tokens.shape[2]))
    encoded = tower.encoder(tower.pre_layrnorm(tokens)).last_hidden_state
    return F.normalize(model.visual_projection(tower.post_layernorm(encoded[:, 0])).float(), dim=-1)


def text_embeddings(model: CLIPModel, ids: list[list[int]]) -> Tensor:
    """Normalised text embeddings (N, P). Padding follows the end token, where a causal tower doesn't see it."""
    pooled = model.text_model(torch.tensor(ids, device=model.logit_scale.device)).pooler_output
    return F.normalize(model.text_projection(pooled).float(), dim=-1)
