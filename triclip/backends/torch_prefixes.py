"""Text embeddings from shared prefixes: see `triclip.prefixes`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_torch.layers import computable, linear
from clip_torch.modeling import CLIPEncoder, CLIPEncoderLayer, CLIPModel
from clip_torch.shortcuts import below, may_skip

from ..prefixes import Prefixes


def may_share(model: CLIPModel) -> bool:
    """Whether `features` equals `get_text_features`: nothing in the text tower was replaced."""
    own = type(model).get_text_features is CLIPModel.get_text_features and "get_text_features" not in vars(model)
    # The ids are cut at the config's end token, so the tower must use the same one.
    return (
        own
        and type(model.text_model.encoder) is CLIPEncoder
        and may_skip(model.text_projection, *below(model.text_model))
        and model.text_model.eos_token_id == model.config.text_config.eos_token_id
    )


def features(model: CLIPModel, prefixes: Prefixes) -> Tensor:
    """`get_text_features` [B, P] of the texts. Everything but attention is computed once for each prefix."""
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
    """The output of `layer` for every prefix: [T, D] -> [T, D]. Attention runs over whole texts."""
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (attention.heads(linear(project, normed)[paths]) for project in projections)  # [B, H, S, d]
    q, k, v = computable(q, k, v)
    context = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scale).transpose(1, 2).flatten(2)
    x = x + linear(attention.out_proj, context.flatten(0, 1)[places].to(x.dtype))  # [B, S, H * d] -> [T, H * d]
    return x + layer.mlp(layer.layer_norm2(x))


def layer_of_ends(layer: CLIPEncoderLayer, x: Tensor, paths: Tensor, last: Tensor, ends: Tensor) -> Tensor:
    """The output of `layer` for the last token of every text: [T, D] -> [B, D]."""
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    q = attention.heads(linear(attention.q_proj, normed[last])[:, None])  # [B, H, 1, d]
    k, v = (attention.heads(linear(project, normed)[paths]) for project in (attention.k_proj, attention.v_proj))
    seen = torch.arange(paths.shape[1], device=paths.device) <= ends[:, None]  # [B, S]
    q, k, v = computable(q, k, v)
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None], scale=attention.scale)
    x = x[last] + linear(attention.out_proj, context.transpose(1, 2).flatten(1).to(x.dtype))
    return x + layer.mlp(layer.layer_norm2(x))
