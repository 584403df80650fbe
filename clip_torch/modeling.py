"""CLIP in PyTorch: layers, towers, public classes, in that order.

B batch, S sequence, D hidden size, H heads, P projection, C channels, N patches + 1. Module attributes carry the
canonical names of `clip_core.weights`, so `state_dict()` is the published layout of transformers v4.37; layers are
called as in v4.37, with additive masks [B, 1, S, S], because programs replace them by their own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip_core.config import CLIPConfig, CLIPResNetVisionConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.inputs import check_pairs, encoder_flags, resolve_flags
from clip_core.outputs import (
    BaseModelOutput,
    CLIPOutput,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
    tower_output,
)

from .activations import activation
from .bridge import PreTrainedModel
from .initial import draw
from .inputs import check_image, check_text, check_tokens
from .layers import attend, computable, linear, mlp, patch_tokens
from .masks import beyond_sdpa, both, in_dtype, layer_arguments, one_token, text_masks
from .pooling import chosen_tokens, embed_image, pooled, pooled_image, pooled_text
from .positions import WithGrid, WithPositions
from .resnet import CLIPResNetVisionTransformer, vision_projection
from .shortcuts import known

# -- layers -----------------------------------------------------------------------------------------------------------


@known
class CLIPVisionEmbeddings(WithGrid):
    """Pixels -> patch tokens behind a class token, with positions."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim, self.image_size, self.patch_size = config.hidden_size, config.image_size, config.patch_size
        self.num_patches = (self.image_size // self.patch_size) ** 2
        self.num_positions = self.num_patches + 1
        self.class_embedding = nn.Parameter(torch.empty(self.embed_dim))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, self.embed_dim, self.patch_size, self.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.register_positions(self.num_positions)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, patches: Tensor | None = None
    ) -> Tensor:
        check_image(self, pixel_values, interpolate_pos_encoding)
        x = patch_tokens(self.patch_embedding, pixel_values.to(self.patch_embedding.weight.dtype))  # [B, h, w, D]
        positions = self.positions(*x.shape[1:3]) if interpolate_pos_encoding else self.grid_positions()
        class_token = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([class_token, x.flatten(1, 2)], dim=1) + positions  # [B, N, D]
        return x if patches is None else chosen_tokens(x, patches)


@known
class CLIPTextEmbeddings(WithPositions):
    """Token ids -> token vectors, with positions."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.register_positions(config.max_position_embeddings)

    def forward(
        self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        shape = input_ids.shape if inputs_embeds is None else inputs_embeds.shape[:2]
        check_tokens(self, input_ids if inputs_embeds is None else None, position_ids, shape)
        if inputs_embeds is None:
            inputs_embeds = self.token_embedding(input_ids)  # [B, S, D]
        if position_ids is None:
            position_ids = self.position_ids[:, : inputs_embeds.shape[1]]
        return inputs_embeds + self.position_embedding(position_ids)


@known
class CLIPAttention(nn.Module):
    """Multi-head self-attention with four plain projections."""

    def __init__(self, config: Any, layer: int = 0) -> None:
        super().__init__()
        self.config, self.embed_dim = config, config.hidden_size
        self.head_dim = self.embed_dim // config.num_attention_heads
        self.num_heads = config.num_attention_heads - len(set(config.pruned_heads.get(layer, ())))
        self.scale = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        inner = self.num_heads * self.head_dim
        self.k_proj = nn.Linear(self.embed_dim, inner)
        self.v_proj = nn.Linear(self.embed_dim, inner)
        self.q_proj = nn.Linear(self.embed_dim, inner)
        self.out_proj = nn.Linear(inner, self.embed_dim)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states [B, S, D]; masks [B, 1, S, S] are added to the scores.

        rows [B]: the positions to compute, one for each sequence: [B, 1, D], with masks [B, 1, 1, S].
        """
        (x,), dtype = computable(hidden_states), hidden_states.dtype
        q = self.heads(linear(self.q_proj, x if rows is None else one_token(x, rows), dtype))  # [B, H, S, d]
        k, v = (self.heads(linear(part, x, dtype)) for part in (self.k_proj, self.v_proj))
        q, k, v = computable(q, k, v)
        bias, dropout = both(attention_mask, causal_attention_mask), self.dropout if self.training else 0.0
        # SDPA gives no attention weights.
        if output_attentions or self.config._attn_implementation == "eager" or beyond_sdpa(q, attention_mask, bias):
            scores = (q * self.scale) @ k.transpose(-1, -2)  # [B, H, S, S]
            weights = torch.softmax(scores if bias is None else scores + in_dtype(bias, None), dim=-1).to(v.dtype)
            context = F.dropout(weights, p=dropout) @ v
        else:
            weights, context = None, attend(q, k, v, in_dtype(bias, q.dtype), dropout, self.scale)
        attended = linear(self.out_proj, context.transpose(1, 2).flatten(2), dtype)
        return attended.to(dtype), weights.to(dtype) if output_attentions else None

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _shape(self, tensor: Tensor, seq_len: int, bsz: int) -> Tensor:
        """`heads` under v4.37's name, which programs with patched forwards call."""
        return tensor.view(bsz, seq_len, self.num_heads, self.head_dim).transpose(1, 2).contiguous()


@known
class CLIPMLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.activation_fn = activation(config.hidden_act)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return mlp(self.fc1, self.activation_fn, self.fc2, hidden_states, self.training)


@known
class CLIPEncoderLayer(nn.Module):
    def __init__(self, config: Any, layer: int = 0) -> None:
        super().__init__()
        self.embed_dim = config.hidden_size
        self.self_attn = CLIPAttention(config, layer)
        self.layer_norm1 = nn.LayerNorm(self.embed_dim, eps=config.layer_norm_eps)
        self.mlp = CLIPMLP(config)
        self.layer_norm2 = nn.LayerNorm(self.embed_dim, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """As `CLIPAttention`: (states, and attention weights if asked for)."""
        chosen = {} if rows is None else {"rows": rows}
        attended, weights = self.self_attn(
            hidden_states=self.layer_norm1(hidden_states),
            attention_mask=attention_mask,
            causal_attention_mask=causal_attention_mask,
            output_attentions=output_attentions,
            **chosen,
        )
        x = (hidden_states if rows is None else one_token(hidden_states, rows)) + attended
        x = x + self.mlp(self.layer_norm2(x))
        return (x, weights) if output_attentions else (x,)


@known
class CLIPEncoder(nn.Module):
    """The layers of a tower, and their collected outputs."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(CLIPEncoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.checkpoint_kwargs: dict[str, Any] = {"use_reentrant": False}

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        rows: Tensor | None = None,
    ) -> Any:
        """inputs_embeds [B, S, D]; masks [B, 1, S, S]; rows [B]: the last layer computes only these: [B, 1, D]."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        plans = layer_arguments(len(self.layers), attention_mask, causal_attention_mask, flags.attentions, rows)
        x = inputs_embeds if rows is None or plans else one_token(inputs_embeds, rows)
        hidden_states, attentions = [x], []
        for layer, plan in zip(self.layers, plans, strict=True):
            recompute = self.gradient_checkpointing and self.training
            out = checkpoint(layer, x, *plan, **self.checkpoint_kwargs) if recompute else layer(x, *plan)
            x = out[0]
            hidden_states.append(x)
            attentions.append(out[1] if flags.attentions else None)
        out = BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if flags.hidden_states else None,
            attentions=tuple(attentions) if flags.attentions else None,
        )
        return out if flags.return_dict else out.to_tuple()


# -- towers -----------------------------------------------------------------------------------------------------------


@known
class CLIPTextTransformer(nn.Module):
    """The text tower: what `CLIPTextModel` returns."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = CLIPEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.eos_token_id = config.eos_token_id

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
        input_ids = check_text(input_ids, attention_mask, position_ids)
        x = self.embeddings(input_ids=input_ids, position_ids=position_ids)  # [B, S, D]
        encoded = self.encoder(inputs_embeds=x, **text_masks(attention_mask, x), **encoder_flags(flags))
        last_hidden_state = self.final_layer_norm(encoded[0])
        pooled = one_token(last_hidden_state, self.end_of_text(input_ids))[:, 0]
        return tower_output(encoded, last_hidden_state, pooled, flags.return_dict)

    pooled = pooled_text

    def end_of_text(self, input_ids: Tensor) -> Tensor:
        """The position of the end-of-text token: [B, S] -> [B]."""
        if self.eos_token_id == 2:  # configs older than 4.31: the highest id is the end (transformers #24773)
            return input_ids.to(torch.int).argmax(dim=-1)
        # The first one, because padding may be the same token; position 0 if there is none.
        return (input_ids == self.eos_token_id).to(torch.int).argmax(dim=-1)


@known
class CLIPVisionTransformer(nn.Module):
    """The vision tower: what `CLIPVisionModel` returns."""

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
        x = self.pre_layrnorm(embed_image(self.embeddings, pixel_values, interpolate_pos_encoding))  # [B, N, D]
        encoded = self.encoder(inputs_embeds=x, **encoder_flags(flags))
        last_hidden_state = encoded[0]
        pooled = self.post_layernorm(last_hidden_state[:, 0])  # only the class token is normalised
        return tower_output(encoded, last_hidden_state, pooled, flags.return_dict)

    pooled = pooled_image


def vision_tower(config: CLIPVisionConfig, projection_dim: int | None = None) -> nn.Module:
    """The tower for a config: a ViT, or OpenAI's ResNet, whose output is an embedding of `projection_dim`."""
    resnet = isinstance(config, CLIPResNetVisionConfig)
    return CLIPResNetVisionTransformer(config, projection_dim) if resnet else CLIPVisionTransformer(config)


# -- public classes ---------------------------------------------------------------------------------------------------


class CLIPPreTrainedModel(PreTrainedModel):
    """Base of the public classes: loading, saving, and the other methods of transformers' models."""

    config_class = CLIPConfig
    base_model_prefix = "clip"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a module's own weights by v4.37's rule (`clip_core.init`); called for every module, children first.
        Subclasses extend it for parts of their own, whose linear biases and norms it sets as CLIP's."""
        drawn = CLIPTextEmbeddings | CLIPVisionEmbeddings | CLIPAttention | CLIPMLP
        draw(module, self.config.initializer_factor, isinstance(module, drawn))


class CLIPTextModel(CLIPPreTrainedModel):
    """The text tower. Returns BaseModelOutputWithPooling: last_hidden_state [B, S, D] after the final norm,
    pooler_output [B, D] at the end-of-text token."""

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
    """The vision tower. Returns BaseModelOutputWithPooling: last_hidden_state [B, N, D] not normalised,
    pooler_output [B, D] the normalised class token."""

    config_class = CLIPVisionConfig
    weight_scope = "vision"
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = vision_tower(self.config)
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
        self.vision_model = vision_tower(vision, self.projection_dim)
        self.visual_projection = vision_projection(vision, self.projection_dim)
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
        return self.text_projection(pooled(self.text_model, input_ids, attention_mask, position_ids))

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        """Image embeddings [B, P], not normalised. The `output_*` flags change nothing (v4.37)."""
        options = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}
        return self.visual_projection(pooled(self.vision_model, pixel_values, **options))

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
        loss = clip_loss(logits_per_text) if return_loss else None
        out = CLIPOutput(loss, logits_per_text.T, logits_per_text, text_embeds, image_embeds, text, image)
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
        self.vision_model = vision_tower(self.config)
        self.visual_projection = vision_projection(self.config, self.config.projection_dim)
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


def contrastive_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the pairs on the diagonal: [B, B] -> scalar."""
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def clip_loss(similarity: Tensor) -> Tensor:
    """The symmetric contrastive loss of the paper: pair i is the only match of text i and of image i."""
    return (contrastive_loss(similarity) + contrastive_loss(similarity.T)) / 2
