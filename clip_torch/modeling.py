"""CLIP in PyTorch: layers, towers, public classes, in that order.

B batch, S sequence, D hidden size, H heads, P projection, C channels, N patches + 1. Module attributes carry the
canonical names of `clip_core.weights`, so `state_dict()` is the published layout of transformers v4.37.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip_core.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.inputs import check_pairs, check_pixels, resolve_flags
from clip_core.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    CLIPOutput,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
)

from .bridge import PreTrainedModel, is_customised
from .inputs import check_chosen, check_tensors, check_text
from .layers import linear, mlp, patch_tokens
from .masks import attention_bias, beyond_sdpa, one_token


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's sigmoid approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, `gelu_new` in configs."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": F.relu,
    "selu": F.selu,
}
NAMES = {function: name for name, function in ACTIVATIONS.items()}


# -- layers -----------------------------------------------------------------------------------------------------------


class CLIPVisionEmbeddings(nn.Module):
    """Pixels -> patch tokens behind a class token, with positions."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        grid = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(grid**2 + 1, config.hidden_size)
        self.register_buffer("position_ids", torch.arange(grid**2 + 1)[None], persistent=False)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, patches: Tensor | None = None
    ) -> Tensor:
        check_tensors(pixel_values=pixel_values, patches=patches)
        check_pixels(self.config, None if pixel_values is None else pixel_values.shape, interpolate_pos_encoding)
        x = patch_tokens(self.patch_embedding, pixel_values.to(self.patch_embedding.weight.dtype))  # [B, h, w, D]
        positions = self.positions(*x.shape[1:3]) if interpolate_pos_encoding else self.grid_positions()
        x = x.flatten(1, 2)  # [B, N - 1, D]
        x = torch.cat([self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)  # [B, N, D]
        x = x + positions
        if patches is None:
            return x
        check_chosen(patches, x.shape[0], x.shape[1] - 1)
        chosen = F.pad(patches.long() + 1, (1, 0))  # [B, K + 1], the class token first
        return x.take_along_dim(chosen[..., None], dim=1)

    def grid_positions(self) -> Tensor:
        """The learned positions [N, D], by a call: someone may have hooks there, or keep the weight elsewhere."""
        return self.position_embedding(self.position_ids)[0]

    def positions(self, height: int, width: int) -> Tensor:
        """The learned grid of positions, resampled (bicubic) to another grid; the class position is kept."""
        weight = self.grid_positions()
        grid = self.config.image_size // self.config.patch_size
        if (height, width) == (grid, grid):
            return weight
        square = weight[1:].T.reshape(1, -1, grid, grid)  # [1, D, g, g]
        square = F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([weight[:1], square.flatten(2)[0].T])


class CLIPTextEmbeddings(nn.Module):
    """Token ids -> token vectors, with positions."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        positions = torch.arange(config.max_position_embeddings)[None]
        self.register_buffer("position_ids", positions, persistent=False)

    def forward(
        self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.token_embedding(input_ids)  # [B, S, D]
        if position_ids is None:
            position_ids = self.position_ids[:, : inputs_embeds.shape[1]]
        return inputs_embeds + self.position_embedding(position_ids)


class CLIPAttention(nn.Module):
    """Multi-head self-attention with four plain projections."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.num_heads = config.num_attention_heads - len(set(config.pruned_heads.get(layer, ())))
        self.dropout = config.attention_dropout
        inner = self.num_heads * self.head_dim
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.q_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(
        self, x: Tensor, bias: Tensor | None, causal: bool, eager: bool, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, S, D]; bias [B, 1, S, S] or None, in which case `causal` says who sees whom.

        rows [B]: only these tokens ask, one of each sequence: [B, 1, D], by a bias [B, 1, 1, S] or None (all seen).
        """
        q = self.heads(linear(self.q_proj, x if rows is None else one_token(x, rows)))  # [B, H, S, d]
        k, v = self.heads(linear(self.k_proj, x)), self.heads(linear(self.v_proj, x))
        dropout = self.dropout if self.training else 0.0
        if eager:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-1, -2)  # [B, H, S, S]
            weights = torch.softmax(scores if bias is None else scores + bias, dim=-1).to(v.dtype)
            context = F.dropout(weights, p=dropout) @ v
        else:
            weights = None
            context = F.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=causal and rows is None and bias is None
            )
        return linear(self.out_proj, context.transpose(1, 2).flatten(2)), weights

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


class CLIPMLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        act = config.hidden_act
        self.activation_fn = act if callable(act) else ACTIVATIONS[act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        fused = mlp(self.fc1, NAMES.get(self.activation_fn), self.fc2, x, self.training)
        return linear(self.fc2, self.activation_fn(linear(self.fc1, x))) if fused is None else fused


class CLIPEncoderLayer(nn.Module):
    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.self_attn = CLIPAttention(config, layer)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CLIPMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, x: Tensor, bias: Tensor | None, causal: bool, eager: bool, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, S, D]. rows [B]: only this token of each sequence is computed, from all of them: [B, 1, D]."""
        attended, weights = self.self_attn(self.layer_norm1(x), bias, causal, eager, rows)
        x = (x if rows is None else one_token(x, rows)) + attended
        x = x + self.mlp(self.layer_norm2(x))
        return x, weights


class CLIPEncoder(nn.Module):
    """The layers of a tower, and what is collected on the way."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(CLIPEncoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.checkpoint_kwargs: dict[str, Any] = {"use_reentrant": False}

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        causal: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rows: Tensor | None = None,
    ) -> BaseModelOutput:
        """x [B, S, D]. rows [B]: the last state of this token of each sequence is all that is wanted: [B, 1, D]."""
        masked = attention_mask is not None
        # SDPA gives no attention weights.
        eager = output_attentions or self.config._attn_implementation == "eager" or beyond_sdpa(x, attention_mask)
        bias = attention_bias(x, attention_mask, causal, eager) if masked or eager and causal else None
        plans: list[tuple] = [(bias, causal, eager)] * len(self.layers)
        if rows is not None and plans:
            last = attention_bias(x, attention_mask, causal, eager, rows) if masked or causal else None
            plans[-1] = last, causal, eager, rows
        elif rows is not None:
            x = one_token(x, rows)
        hidden_states, attentions = [x], []
        for layer, plan in zip(self.layers, plans, strict=True):
            if self.gradient_checkpointing and self.training:
                x, weights = checkpoint(layer, x, *plan, **self.checkpoint_kwargs)
            else:
                x, weights = layer(x, *plan)
            hidden_states.append(x)
            attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


# -- towers -----------------------------------------------------------------------------------------------------------


class CLIPTextTransformer(nn.Module):
    """The text tower: ids [B, S] -> last_hidden_state [B, S, D] after the final norm, pooler_output [B, D]: that of
    the end token."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = CLIPEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        check_text(self.config, input_ids, attention_mask, position_ids)
        input_ids = input_ids.reshape(-1, input_ids.shape[-1])
        x = self.embeddings(input_ids, position_ids)  # [B, S, D]
        encoded = self.encoder(x, attention_mask, True, flags.attentions, flags.hidden_states)
        last_hidden_state = self.final_layer_norm(encoded.last_hidden_state)
        return tower_output(encoded, last_hidden_state, self.pool(last_hidden_state, input_ids), flags.return_dict)

    def pooled(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """`pooler_output` [B, D] alone: the last layer is computed for the end-of-text token only."""
        check_text(self.config, input_ids, attention_mask, position_ids)
        input_ids = input_ids.reshape(-1, input_ids.shape[-1])
        x = self.embeddings(input_ids, position_ids)  # [B, S, D]
        encoded = self.encoder(x, attention_mask, True, rows=self.end_of_text(input_ids))
        return self.final_layer_norm(encoded.last_hidden_state[:, 0])

    def pool(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """The state at the end-of-text token: x [B, S, D] -> [B, D]."""
        return one_token(x, self.end_of_text(input_ids))[:, 0]

    def end_of_text(self, input_ids: Tensor) -> Tensor:
        """Where the end-of-text token stands: [B, S] -> [B]."""
        if self.config.eos_token_id == 2:  # configs older than 4.31: the highest id is the end (transformers #24773)
            return input_ids.to(torch.int).argmax(dim=-1)
        # The first one, because padding may be the same token; position 0 when there is none.
        return (input_ids == self.config.eos_token_id).to(torch.int).argmax(dim=-1)


class CLIPVisionTransformer(nn.Module):
    """The vision tower: pixels [B, C, h, w] -> last_hidden_state [B, N, D], pooler_output [B, D]: the class token's,
    after a norm of its own."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        x = self.pre_layrnorm(self.embeddings(pixel_values, interpolate_pos_encoding))  # [B, N, D]
        encoded = self.encoder(x, None, False, flags.attentions, flags.hidden_states)
        last_hidden_state = encoded.last_hidden_state
        pooled = self.post_layernorm(last_hidden_state[:, 0])  # only the class token is normalised
        return tower_output(encoded, last_hidden_state, pooled, flags.return_dict)

    def pooled(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, patches: Tensor | None = None
    ) -> Tensor:
        """`pooler_output` [B, D] alone: the last layer is computed for the class token only.

        patches: int [B, K], the patches that are looked at, row by row from 0 (FLIP); default all.
        """
        x = self.pre_layrnorm(self.embeddings(pixel_values, interpolate_pos_encoding, patches))  # [B, N, D]
        first = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        return self.post_layernorm(self.encoder(x, rows=first).last_hidden_state[:, 0])


def tower_output(encoded: BaseModelOutput, last_hidden_state: Tensor, pooled: Tensor, return_dict: bool) -> Any:
    out = BaseModelOutputWithPooling(last_hidden_state, pooled, encoded.hidden_states, encoded.attentions)
    return out if return_dict else out.to_tuple()


# -- public classes ---------------------------------------------------------------------------------------------------


class CLIPPreTrainedModel(PreTrainedModel):
    """Base of the public classes: loading, saving, and what transformers models offer beside `forward`."""

    config_class = CLIPConfig
    base_model_prefix = "clip"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]


class CLIPTextModel(CLIPPreTrainedModel):
    """The text tower.

    Returns BaseModelOutputWithPooling: last_hidden_state [B, S, D] after the final norm, pooler_output [B, D] at the
    end-of-text token.
    """

    config_class = CLIPTextConfig
    weight_scope = "text"
    main_input_name = "input_ids"

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_model = CLIPTextTransformer(self.config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids, attention_mask (1 keeps, 0 hides), position_ids: [B, S] integers."""
        return self.text_model(
            input_ids, attention_mask, position_ids, output_attentions, output_hidden_states, return_dict
        )


class CLIPVisionModel(CLIPPreTrainedModel):
    """The vision tower.

    Returns BaseModelOutputWithPooling: last_hidden_state [B, N, D] not normalised, pooler_output [B, D] the normalised
    class token.
    """

    config_class = CLIPVisionConfig
    weight_scope = "vision"
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = CLIPVisionTransformer(self.config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values: [B, C, image_size, image_size], or any size with `interpolate_pos_encoding`."""
        return self.vision_model(
            pixel_values, output_attentions, output_hidden_states, return_dict, interpolate_pos_encoding
        )


class CLIPModel(CLIPPreTrainedModel):
    """Both towers and the shared space."""

    config_class = CLIPConfig
    weight_scope = "full"
    main_input_name = "input_ids"

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        text, vision = self.config.text_config, self.config.vision_config
        self.projection_dim = self.config.projection_dim
        self.text_embed_dim, self.vision_embed_dim = text.hidden_size, vision.hidden_size
        self.text_model = CLIPTextTransformer(text)
        self.vision_model = CLIPVisionTransformer(vision)
        self.visual_projection = nn.Linear(self.vision_embed_dim, self.projection_dim, bias=False)
        self.text_projection = nn.Linear(self.text_embed_dim, self.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(self.config.logit_scale_init_value)))
        self.post_init()

    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Tensor:
        """Text embeddings [B, P], not normalised. The `output_*` flags change nothing (v4.37)."""
        if is_customised(self.text_model, "final_layer_norm"):
            text = self.text_model(input_ids, attention_mask, position_ids, False, False, True)
            return self.text_projection(text.pooler_output)
        return self.text_projection(self.text_model.pooled(input_ids, attention_mask, position_ids))

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        """Image embeddings [B, P], not normalised. The `output_*` flags change nothing (v4.37)."""
        if is_customised(self.vision_model, "post_layernorm"):
            image = self.vision_model(pixel_values, False, False, True, interpolate_pos_encoding)
            return self.visual_projection(image.pooler_output)
        return self.visual_projection(self.vision_model.pooled(pixel_values, interpolate_pos_encoding))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """Texts [B_t, S] and pixels [B_i, C, h, w] -> CLIPOutput; `return_loss` needs B_t = B_i pairs."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        image = self.vision_model(pixel_values, flags.attentions, flags.hidden_states, True, interpolate_pos_encoding)
        text = self.text_model(input_ids, attention_mask, position_ids, flags.attentions, flags.hidden_states, True)
        image_embeds = normalize(self.visual_projection(image.pooler_output))  # [B_i, P]
        text_embeds = normalize(self.text_projection(text.pooler_output))  # [B_t, P]
        if return_loss:
            check_pairs(text_embeds.shape[0], image_embeds.shape[0])
        logits_per_text = text_embeds @ image_embeds.T * self.logit_scale.exp()  # [B_t, B_i]
        out = CLIPOutput(
            loss=clip_loss(logits_per_text) if return_loss else None,
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=image,
        )
        return out if flags.return_dict else out.to_tuple()


class CLIPTextModelWithProjection(CLIPPreTrainedModel):
    """The text tower and its projection. Returns CLIPTextModelOutput with text_embeds [B, P], not normalised."""

    config_class = CLIPTextConfig
    weight_scope = "text_projection"
    main_input_name = "input_ids"

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_model = CLIPTextTransformer(self.config)
        self.text_projection = nn.Linear(self.config.hidden_size, self.config.projection_dim, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids, attention_mask (1 keeps, 0 hides), position_ids: [B, S] integers."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        text = self.text_model(input_ids, attention_mask, position_ids, flags.attentions, flags.hidden_states, True)
        text_embeds = self.text_projection(text.pooler_output)
        out = CLIPTextModelOutput(text_embeds, text.last_hidden_state, text.hidden_states, text.attentions)
        return out if flags.return_dict else out.to_tuple()


class CLIPVisionModelWithProjection(CLIPPreTrainedModel):
    """The vision tower and its projection. Returns CLIPVisionModelOutput with image_embeds [B, P], not normalised."""

    config_class = CLIPVisionConfig
    weight_scope = "vision_projection"
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = CLIPVisionTransformer(self.config)
        self.visual_projection = nn.Linear(self.config.hidden_size, self.config.projection_dim, bias=False)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values: [B, C, image_size, image_size], or any size with `interpolate_pos_encoding`."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        image = self.vision_model(pixel_values, flags.attentions, flags.hidden_states, True, interpolate_pos_encoding)
        image_embeds = self.visual_projection(image.pooler_output)
        out = CLIPVisionModelOutput(image_embeds, image.last_hidden_state, image.hidden_states, image.attentions)
        return out if flags.return_dict else out.to_tuple()


def normalize(x: Tensor) -> Tensor:
    """Unit length along the last axis."""
    return x / x.norm(p=2, dim=-1, keepdim=True)


def clip_loss(logits_per_text: Tensor) -> Tensor:
    """The symmetric contrastive loss of the paper: pair i is the only match of text i and of image i."""
    target = torch.arange(logits_per_text.shape[0], device=logits_per_text.device)
    return (F.cross_entropy(logits_per_text, target) + F.cross_entropy(logits_per_text.T, target)) / 2
