"""Text embeddings from shared beginnings: see `triclip.prefixes`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_torch.layers import linear
from clip_torch.modeling import CLIPEncoderLayer, CLIPModel

from ..prefixes import Prefixes


def features(model: CLIPModel, prefixes: Prefixes) -> Tensor:
    """`get_text_features` [B, P] of the texts. Everything but attention is computed once for each beginning."""
    tower = model.text_model
    tokens, positions, paths, places, ends = (torch.from_numpy(array).to(model.device) for array in prefixes)
    last = paths[torch.arange(len(paths), device=paths.device), ends]  # [B]
    x = tower.embeddings(tokens[None], positions[None])[0]  # [T, D]
    for layer in tower.encoder.layers[:-1]:
        x = layer_of_prefixes(layer, x, paths, places)
    for layer in tower.encoder.layers[-1:]:
        x = layer_of_ends(layer, x, paths, last, ends)
    if not len(tower.encoder.layers):
        x = x[last]
    return linear(model.text_projection, tower.final_layer_norm(x))


def layer_of_prefixes(layer: CLIPEncoderLayer, x: Tensor, paths: Tensor, places: Tensor) -> Tensor:
    """What `layer` gives for every beginning: [T, D] -> [T, D]. Attention sees whole texts."""
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (attention.heads(linear(project, normed)[paths]) for project in projections)  # [B, H, S, d]
    context = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)  # [B, S, H * d]
    x = x + linear(attention.out_proj, context.flatten(0, 1)[places])
    return x + layer.mlp(layer.layer_norm2(x))


def layer_of_ends(layer: CLIPEncoderLayer, x: Tensor, paths: Tensor, last: Tensor, ends: Tensor) -> Tensor:
    """What `layer` gives for the last token of every text: [T, D] -> [B, D]."""
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    q = attention.heads(linear(attention.q_proj, normed[last])[:, None])  # [B, H, 1, d]
    k, v = (attention.heads(linear(project, normed)[paths]) for project in (attention.k_proj, attention.v_proj))
    seen = torch.arange(paths.shape[1], device=paths.device) <= ends[:, None]  # [B, S]
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None]).transpose(1, 2).flatten(1)
    x = x[last] + linear(attention.out_proj, context)
    return x + layer.mlp(layer.layer_norm2(x))
