"""CLIP in Flax Linen: layers, towers, public classes, in that order.

B batch, S sequence, D hidden size, H heads, P projection, C channels, N patches + 1. Module attributes carry the
canonical names of `clip_core.weights`, so the parameter tree is the published one of transformers v4.37's Flax classes.
Linen modules take pixels as [B, h, w, C], the public wrappers as [B, C, h, w]. `dtype` is the computation's;
parameters keep their own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clip_core.config import CLIPResNetVisionConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.inputs import resolve_flags
from clip_core.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
    FlaxCLIPOutput,
    tower_output,
)

from .inputs import as_rows, check_nhwc, check_tokens
from .layers import (
    ACTIVATIONS,
    beyond,
    checkpoint_policy,
    layer_norm,
    normal,
    patch_conv,
    projection,
    resampled,
    with_factor,
)
from .masks import attention_bias, dropout, one_token, score_dtype
from .pooling import chosen_tokens, image_features, pooled_image, pooled_text, text_features
from .resnet import FlaxCLIPResNetVisionTransformer, vision_projection
from .shortcuts import remember
from .wrappers import FlaxCLIPPreTrainedModel, FlaxCLIPTextPreTrainedModel, FlaxCLIPVisionPreTrainedModel

# v4.37's names in its Flax file
ACT2FN, FlaxCLIPTextModelOutput = ACTIVATIONS, CLIPTextModelOutput
FlaxBaseModelOutput, FlaxBaseModelOutputWithPooling = BaseModelOutput, BaseModelOutputWithPooling


class Network(nn.Module):
    """The fields of modules made of layers. gradient_checkpointing: see `checkpoint_policy`."""

    config: Any
    dtype: Any = jnp.float32
    gradient_checkpointing: bool | str = False


# -- layers -----------------------------------------------------------------------------------------------------------


class FlaxCLIPVisionEmbeddings(nn.Module):
    """Pixels -> patch tokens behind a class token, with positions."""

    config: CLIPVisionConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.grid = config.image_size // config.patch_size
        width = config.hidden_size
        self.class_embedding = self.param("class_embedding", normal(config, "class_embedding"), (width,))
        init = normal(config, "patch_embedding.weight")
        self.patch_embedding = patch_conv(config, init, self.dtype)
        init = normal(config, "position_embedding.weight")
        self.position_embedding = nn.Embed(self.grid**2 + 1, width, embedding_init=init)

    def __call__(
        self, pixel_values: jax.Array, interpolate_pos_encoding: bool = False, patches: jax.Array | None = None
    ) -> jax.Array:
        check_nhwc(self.config, pixel_values, interpolate_pos_encoding)
        x = self.patch_embedding(pixel_values)  # [B, h, w, D]
        batch, height, width, features = x.shape
        positions = self.position_embedding.embedding  # [N, D]
        if interpolate_pos_encoding:
            positions = resampled(positions, self.grid, height, width)
        x = x.reshape(batch, height * width, features)  # [B, N - 1, D]
        class_token = jnp.broadcast_to(self.class_embedding.astype(x.dtype)[None, None], (batch, 1, features))
        x = jnp.concatenate([class_token, x], axis=1) + positions.astype(x.dtype)[None]  # [B, N, D]
        return x if patches is None else chosen_tokens(x, patches)


class FlaxCLIPTextEmbeddings(nn.Module):
    """Token ids -> token vectors, with positions."""

    config: CLIPTextConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config, width = self.config, self.config.hidden_size
        init = normal(config, "token_embedding.weight")
        self.token_embedding = nn.Embed(config.vocab_size, width, embedding_init=init)
        init = normal(config, "position_embedding.weight")
        self.position_embedding = nn.Embed(config.max_position_embeddings, width, embedding_init=init)

    def __call__(self, input_ids: jax.Array, position_ids: jax.Array | None = None) -> jax.Array:
        input_ids, position_ids = check_tokens(self.config, input_ids, position_ids)
        # The looked-up rows are cast, not the tables: nn.Embed(dtype=...) would convert the whole vocabulary.
        x = self.token_embedding(input_ids).astype(self.dtype)  # [B, S, D]
        if position_ids is None:
            return x + self.position_embedding.embedding[None, : x.shape[1]].astype(self.dtype)
        positions = self.position_embedding(position_ids).astype(self.dtype)  # [B, S, D], [1, S, D] or [S, D]
        return x + positions.reshape(-1, *positions.shape[-2:])


class FlaxCLIPAttention(nn.Module):
    """Multi-head self-attention with four plain projections. A text config makes it causal."""

    config: Any
    dtype: Any = jnp.float32
    layer: int | None = None  # None: pruned heads of the config are ignored

    def setup(self) -> None:
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        self.head_dim = width // heads
        self.num_heads = heads - len(set(self.config.pruned_heads.get(self.layer, ())))
        self.causal = isinstance(self.config, CLIPTextConfig)
        inner = self.num_heads * self.head_dim
        self.k_proj = self.linear("k_proj", inner)
        self.v_proj = self.linear("v_proj", inner)
        self.q_proj = self.linear("q_proj", inner)
        self.out_proj = self.linear("out_proj", width)

    def linear(self, name: str, features: int) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=normal(self.config, f"self_attn.{name}.weight"))

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        rows: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        """hidden_states [B, S, D]; attention_mask [B, S], above 0: visible. Returns [B, S, D] and, if asked for, the
        weights [B, H, S, S]. rows [B]: the positions to compute, one for each sequence: [B, 1, D], [B, H, 1, S]."""
        x = hidden_states
        q = self.heads(self.q_proj(x if rows is None else one_token(x, rows)))  # [B, H, S, d]
        k, v = self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        # Scores and softmax in float32 at least: bfloat16 keeps three digits, and float16 has no room for the bias.
        wide = score_dtype(self.dtype)
        scores = jnp.matmul(q * self.head_dim**-0.5, k.swapaxes(2, 3), preferred_element_type=wide)  # [B, H, S, S]
        bias = attention_bias(attention_mask, x.shape[1], self.causal, wide, rows)
        weights = nn.softmax(scores if bias is None else scores + bias).astype(v.dtype)
        if self.config.attention_dropout > 0 and not deterministic:
            weights = dropout(weights, self.make_rng("dropout"), self.config.attention_dropout, rows)
        context = jnp.matmul(weights, v).swapaxes(1, 2)  # [B, S, H, d]
        attended = self.out_proj(context.reshape(*context.shape[:2], self.num_heads * self.head_dim))
        return (attended, weights) if output_attentions else (attended,)

    def heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim).swapaxes(1, 2)


class FlaxCLIPMLP(nn.Module):
    config: Any
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config, act = self.config, self.config.hidden_act
        self.activation_fn = act if callable(act) else ACTIVATIONS[act]
        self.fc1 = nn.Dense(config.intermediate_size, dtype=self.dtype, kernel_init=normal(config, "mlp.fc1.weight"))
        self.fc2 = nn.Dense(config.hidden_size, dtype=self.dtype, kernel_init=normal(config, "mlp.fc2.weight"))

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class FlaxCLIPEncoderLayer(nn.Module):
    config: Any
    dtype: Any = jnp.float32
    layer: int | None = None

    def setup(self) -> None:
        self.self_attn = FlaxCLIPAttention(self.config, self.dtype, **beyond(self))
        self.layer_norm1 = layer_norm(self.config, self.dtype)
        self.mlp = FlaxCLIPMLP(self.config, self.dtype)
        self.layer_norm2 = layer_norm(self.config, self.dtype)

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        rows: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        """As `FlaxCLIPAttention`: (states, and attention weights if asked for)."""
        x = hidden_states
        asked, inside = () if rows is None else (rows,), self.layer_norm1(x)
        attended, *weights = self.self_attn(inside, attention_mask, deterministic, output_attentions, *asked)
        x = (x if rows is None else one_token(x, rows)) + attended
        x = x + self.mlp(self.layer_norm2(x))
        return (x, *weights)


class FlaxCLIPLayerCollection(Network):
    """The layers of a tower, named "0", "1", … as in published trees, and their collected outputs."""

    def setup(self) -> None:
        layer = FlaxCLIPEncoderLayer
        if self.gradient_checkpointing:
            policy = checkpoint_policy(self.gradient_checkpointing)
            layer = nn.remat(layer, static_argnums=(3, 4), policy=policy)  # counted with self: the two flags
        numbers = range(self.config.num_hidden_layers)
        heads = [{"layer": i} if self.config.pruned_heads else {} for i in numbers]
        self.layers = [layer(self.config, self.dtype, **heads[i], name=str(i)) for i in numbers]

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        rows: jax.Array | None = None,
    ) -> Any:
        """hidden_states [B, S, D]; rows [B]: the last layer computes only these: [B, 1, D]."""
        x, states, attentions = hidden_states, [hidden_states], []
        for i, layer in enumerate(self.layers):
            asked = () if rows is None or i < len(self.layers) - 1 else (rows,)
            x, *weights = layer(x, attention_mask, deterministic, output_attentions, *asked)
            states.append(x)
            attentions += weights
        if rows is not None and not self.layers:
            x = one_token(x, rows)
        out = BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return out if return_dict else out.to_tuple()


class FlaxCLIPEncoder(Network):
    """A tower's layers. A text config makes it causal."""

    def setup(self) -> None:
        self.layers = FlaxCLIPLayerCollection(self.config, self.dtype, **beyond(self))

    def __call__(self, inputs_embeds: jax.Array, *args: Any, **kwargs: Any) -> Any:
        """As `FlaxCLIPLayerCollection`."""
        return self.layers(inputs_embeds, *args, **kwargs)


# -- towers -----------------------------------------------------------------------------------------------------------


class FlaxCLIPTextTransformer(Network):
    """The text tower: what `FlaxCLIPTextModel` returns."""

    def setup(self) -> None:
        self.embeddings = FlaxCLIPTextEmbeddings(self.config, self.dtype)
        self.encoder = FlaxCLIPEncoder(self.config, self.dtype, **beyond(self))
        self.final_layer_norm = layer_norm(self.config, self.dtype)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        return_dict: bool | None = True,
    ) -> Any:
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        input_ids, attention_mask = as_rows(input_ids, attention_mask)
        x = self.embeddings(input_ids, position_ids)  # [B, S, D]
        encoded = self.encoder(x, attention_mask, deterministic, flags.attentions, flags.hidden_states)
        last_hidden_state = self.final_layer_norm(encoded.last_hidden_state)
        pooled = one_token(last_hidden_state, self.end_of_text(input_ids))[:, 0]
        return tower_output(encoded, last_hidden_state, pooled, flags.return_dict)

    pooled = pooled_text

    def end_of_text(self, input_ids: jax.Array) -> jax.Array:
        """The position of the end-of-text token: [B, S] -> [B]."""
        if self.config.eos_token_id == 2:  # configs older than 4.31: the highest id is the end (transformers #24773)
            return input_ids.argmax(axis=-1)
        # The first one, because padding may be the same token; position 0 if there is none.
        return (input_ids == self.config.eos_token_id).argmax(axis=-1)


class FlaxCLIPVisionTransformer(Network):
    """The vision tower: what `FlaxCLIPVisionModel` returns, of pixels [B, h, w, C]."""

    def setup(self) -> None:
        self.embeddings = FlaxCLIPVisionEmbeddings(self.config, self.dtype)
        self.pre_layrnorm = layer_norm(self.config, self.dtype)
        self.encoder = FlaxCLIPEncoder(self.config, self.dtype, **beyond(self))
        self.post_layernorm = layer_norm(self.config, self.dtype)

    def __call__(
        self,
        pixel_values: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = True,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        more = (True,) if interpolate_pos_encoding else ()
        x = self.pre_layrnorm(self.embeddings(pixel_values, *more))  # [B, N, D]
        encoded = self.encoder(x, None, deterministic, flags.attentions, flags.hidden_states)
        last_hidden_state = encoded.last_hidden_state
        pooled = self.post_layernorm(last_hidden_state[:, 0])  # only the class token is normalised
        return tower_output(encoded, last_hidden_state, pooled, flags.return_dict)

    pooled = pooled_image


def vision_tower(owner: Any, config: Any = None) -> nn.Module:
    """The tower for a vision config: a ViT, or OpenAI's ResNet, whose output is an embedding of `projection_dim`."""
    config = owner.config if config is None else config
    if isinstance(config, CLIPResNetVisionConfig):
        return FlaxCLIPResNetVisionTransformer(
            config, owner.dtype, projection_dim=owner.config.projection_dim, **beyond(owner)
        )
    return FlaxCLIPVisionTransformer(config, owner.dtype, **beyond(owner))


# -- public classes ---------------------------------------------------------------------------------------------------
# Each is a Linen module and its wrapper, which has the parameters and compiles the module's calls (`wrappers.py`).


class FlaxCLIPTextModule(Network):
    def setup(self) -> None:
        self.text_model = FlaxCLIPTextTransformer(self.config, self.dtype, **beyond(self))

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        return_dict: bool | None = True,
    ) -> Any:
        """input_ids, attention_mask (1 keeps, 0 hides), position_ids: [B, S] integers."""
        return self.text_model(
            input_ids, attention_mask, position_ids, deterministic, output_attentions, output_hidden_states, return_dict
        )


class FlaxCLIPTextModel(FlaxCLIPTextPreTrainedModel):
    """The text tower. Returns BaseModelOutputWithPooling: last_hidden_state [B, S, D] after the final norm,
    pooler_output [B, D] at the end-of-text token."""

    module_class = FlaxCLIPTextModule
    weight_scope = "text"


class FlaxCLIPVisionModule(Network):
    def setup(self) -> None:
        self.vision_model = vision_tower(self)

    def __call__(
        self,
        pixel_values: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        return_dict: bool | None = True,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values: [B, image_size, image_size, C], or any size with `interpolate_pos_encoding`."""
        return self.vision_model(
            pixel_values, deterministic, output_attentions, output_hidden_states, return_dict, interpolate_pos_encoding
        )


class FlaxCLIPVisionModel(FlaxCLIPVisionPreTrainedModel):
    """The vision tower. Returns BaseModelOutputWithPooling: last_hidden_state [B, N, D] not normalised,
    pooler_output [B, D] the normalised class token."""

    module_class = FlaxCLIPVisionModule
    weight_scope = "vision"


class FlaxCLIPModule(Network):
    def setup(self) -> None:
        config = self.config
        text, vision = (with_factor(own, config) for own in (config.text_config, config.vision_config))
        self.text_model = FlaxCLIPTextTransformer(text, self.dtype, **beyond(self))
        self.vision_model = vision_tower(self, vision)
        self.visual_projection = vision_projection(vision, config.projection_dim, self.dtype)
        self.text_projection = projection(text, "text_projection", config.projection_dim, self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(config.logit_scale_init_value), ())

    get_text_features, get_image_features = text_features, image_features

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        pixel_values: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """Texts [B_t, S] and pixels [B_i, h, w, C] -> FlaxCLIPOutput."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        collect = flags.attentions, flags.hidden_states, True
        image = self.vision_model(pixel_values, deterministic, *collect, interpolate_pos_encoding)
        text = self.text_model(input_ids, attention_mask, position_ids, deterministic, *collect)
        image_embeds = normalize(self.visual_projection(image.pooler_output))  # [B_i, P]
        text_embeds = normalize(self.text_projection(text.pooler_output))  # [B_t, P]
        # Computed in the embeddings' precision, because a half-precision scale has only three digits.
        logit_scale = self.logit_scale.astype(jnp.promote_types(self.logit_scale.dtype, text_embeds.dtype))
        logits_per_text = text_embeds @ image_embeds.T * jnp.exp(logit_scale)  # [B_t, B_i]
        out = FlaxCLIPOutput(logits_per_text.T, logits_per_text, text_embeds, image_embeds, text, image)
        return out if flags.return_dict else out.to_tuple()


class FlaxCLIPModel(FlaxCLIPPreTrainedModel):
    """Both towers and the shared space. Returns FlaxCLIPOutput, which has no `loss` (v4.37)."""

    module_class = FlaxCLIPModule
    weight_scope = "full"


class FlaxCLIPTextModelWithProjectionModule(Network):
    def setup(self) -> None:
        self.text_model = FlaxCLIPTextTransformer(self.config, self.dtype, **beyond(self))
        self.text_projection = projection(self.config, "text_projection", self.config.projection_dim, self.dtype)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        return_dict: bool | None = True,
    ) -> Any:
        """input_ids, attention_mask (1 keeps, 0 hides), position_ids: [B, S] integers."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        collect = flags.attentions, flags.hidden_states, True
        text = self.text_model(input_ids, attention_mask, position_ids, deterministic, *collect)
        text_embeds = self.text_projection(text.pooler_output)
        out = CLIPTextModelOutput(text_embeds, text.last_hidden_state, text.hidden_states, text.attentions)
        return out if flags.return_dict else out.to_tuple()


class FlaxCLIPTextModelWithProjection(FlaxCLIPTextPreTrainedModel):
    """The text tower and its projection. Returns CLIPTextModelOutput with text_embeds [B, P], not normalised."""

    module_class = FlaxCLIPTextModelWithProjectionModule
    weight_scope = "text_projection"


class FlaxCLIPVisionModelWithProjectionModule(Network):
    def setup(self) -> None:
        self.vision_model = vision_tower(self)
        self.visual_projection = vision_projection(self.config, self.config.projection_dim, self.dtype)

    def __call__(
        self,
        pixel_values: jax.Array | None = None,
        deterministic: bool = True,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        return_dict: bool | None = True,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values: [B, image_size, image_size, C], or any size with `interpolate_pos_encoding`."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        collect = flags.attentions, flags.hidden_states, True
        image = self.vision_model(pixel_values, deterministic, *collect, interpolate_pos_encoding)
        image_embeds = self.visual_projection(image.pooler_output)
        out = CLIPVisionModelOutput(image_embeds, image.last_hidden_state, image.hidden_states, image.attentions)
        return out if flags.return_dict else out.to_tuple()


class FlaxCLIPVisionModelWithProjection(FlaxCLIPVisionPreTrainedModel):
    """The vision tower and its projection. Returns CLIPVisionModelOutput with image_embeds [B, P], not normalised."""

    module_class = FlaxCLIPVisionModelWithProjectionModule
    weight_scope = "vision_projection"


def normalize(x: jax.Array) -> jax.Array:
    """Unit length along the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


remember(globals())
