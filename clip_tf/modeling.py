"""CLIP in Keras 3 on TensorFlow: layers, towers, public classes, in that order.

B batch, S sequence, D hidden size, H heads, P projection, C channels, N patches + 1. Attributes carry the canonical
names of `clip_core.weights`. Public classes and towers take pixels as [B, C, h, w]; the patch embedding transposes.
"""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

import keras
import tensorflow as tf

from clip_core.config import CLIPConfig, CLIPResNetVisionConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.outputs import BaseModelOutput, CLIPOutput, CLIPTextModelOutput, CLIPVisionModelOutput, tower_output

from .bridge import MainLayer, TFPreTrainedModel, Tower, by_main_layer
from .inputs import check_image, check_paired, check_text, switches, unpacked
from .layers import ACTIVATIONS, Embedding, Layer, LayerNorm, Linear, PatchConv, at_least_float32, dtype_of, sizes
from .masks import flag, given, layer_arguments, masked, one_token, text_masks
from .pooling import chosen_tokens, pooled_image, pooled_text
from .resnet import TFCLIPResNetVisionTransformer, vision_projection
from .shortcuts import grid_positions, mlp, pooled

# -- layers -----------------------------------------------------------------------------------------------------------


class TFCLIPVisionEmbeddings(Layer):
    """Pixels -> patch tokens behind a class token, with positions."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.num_positions = (config.image_size // config.patch_size) ** 2 + 1
        self.patch_embedding = PatchConv(config.num_channels, config.hidden_size, config.patch_size)
        self.position_embedding = Embedding(self.num_positions, config.hidden_size)

    def build(self, input_shape: Any = None) -> None:
        self.class_embedding = self.add_weight((self.config.hidden_size,), "zeros", name="class_embedding")
        super().build()

    def call(
        self, pixel_values: tf.Tensor, interpolate_pos_encoding: bool = False, patches: tf.Tensor | None = None
    ) -> tf.Tensor:
        pixel_values = check_image(self, pixel_values, interpolate_pos_encoding)
        x = tf.transpose(tf.cast(pixel_values, self.compute_dtype), (0, 2, 3, 1))  # [B, H, W, C]
        x = self.patch_embedding(x)  # [B, h, w, D]
        height, width = (size // self.config.patch_size for size in pixel_values.shape[2:])
        x = tf.reshape(x, (-1, height * width, self.config.hidden_size))  # [B, N - 1, D]
        class_token = tf.cast(self.class_embedding, x.dtype)[None, None]
        x = tf.concat([tf.repeat(class_token, tf.shape(x)[0], axis=0), x], axis=1)  # [B, N, D]
        x = x + tf.cast(grid_positions(self.position_embedding, height, width), x.dtype)
        return x if patches is None else chosen_tokens(x, patches)


class TFCLIPTextEmbeddings(Layer):
    """Token ids -> token vectors, with positions."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
    ) -> tf.Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.token_embedding(input_ids)  # [B, S, D]
        if position_ids is None:
            position_ids = tf.range(sizes(inputs_embeds)[1])[None]
        return inputs_embeds + self.position_embedding(position_ids)


class TFCLIPAttention(Layer):
    """Multi-head self-attention with four plain projections."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.num_heads = config.num_attention_heads - len(set(config.pruned_heads.get(layer, ())))
        self.dropout = config.attention_dropout
        inner = self.num_heads * self.head_dim
        self.k_proj = Linear(width, inner)
        self.v_proj = Linear(width, inner)
        self.q_proj = Linear(width, inner)
        self.out_proj = Linear(inner, width)

    def call(
        self,
        hidden_states: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        causal_attention_mask: tf.Tensor | None = None,
        output_attentions: bool | None = True,
        training: bool = False,
        seed: tf.Tensor | None = None,
        rows: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """hidden_states [B, S, D]; masks [B or 1, 1, S, S] are added to the scores; seed [2] of the dropout, or None
        for none. Returns states and, unless not asked for, attention weights [B, H, S, S].

        rows [B]: the positions to compute, one for each sequence: [B, 1, D], with masks [B, 1, 1, S].
        """
        x = hidden_states
        queries = x if rows is None else one_token(x, rows)
        q = self.heads(self.q_proj(queries))  # [B, H, S, d]
        k, v = self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        # Softmax in float32 at least: bfloat16 keeps three digits, and float16 has no room for the masks.
        scores = at_least_float32(tf.matmul(q * self.head_dim**-0.5, k, transpose_b=True))  # [B, H, S, S]
        weights = tf.cast(tf.nn.softmax(masked(scores, attention_mask, causal_attention_mask)), v.dtype)
        visible = weights if seed is None else tf.nn.experimental.stateless_dropout(weights, self.dropout, seed)
        context = tf.transpose(tf.matmul(visible, v), (0, 2, 1, 3))  # [B, S, H, d]
        out = self.out_proj(tf.reshape(context, (-1, sizes(queries)[1], self.num_heads * self.head_dim)))
        return (out, weights) if output_attentions else (out,)

    def heads(self, x: tf.Tensor) -> tf.Tensor:
        return tf.transpose(tf.reshape(x, (-1, sizes(x)[1], self.num_heads, self.head_dim)), (0, 2, 1, 3))


class TFCLIPMLP(Layer):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.activation_fn = config.hidden_act if callable(config.hidden_act) else ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def call(self, hidden_states: tf.Tensor) -> tf.Tensor:
        fused = mlp(self.fc1, self.activation_fn, self.fc2, hidden_states)
        return self.fc2(self.activation_fn(self.fc1(hidden_states))) if fused is None else fused


class TFCLIPEncoderLayer(Layer):
    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.self_attn = TFCLIPAttention(config, layer)
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = TFCLIPMLP(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def call(
        self,
        hidden_states: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        causal_attention_mask: tf.Tensor | None = None,
        output_attentions: bool | None = True,
        training: bool = False,
        seed: tf.Tensor | None = None,
        rows: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """As `TFCLIPAttention`."""
        masks = {"attention_mask": attention_mask, "causal_attention_mask": causal_attention_mask}
        more = {**flag(self.self_attn, output_attentions), "training": training, **given(seed=seed, rows=rows)}
        attended, *weights = self.self_attn(self.layer_norm1(hidden_states), **masks, **more)
        x = (hidden_states if rows is None else one_token(hidden_states, rows)) + attended
        x = x + self.mlp(self.layer_norm2(x))
        return (x, *weights)


class TFCLIPEncoder(Layer):
    """The layers of a tower, and their collected outputs."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = [TFCLIPEncoderLayer(config, i) for i in range(config.num_hidden_layers)]
        self.tracked = tuple(self.layers)
        self.seeds = keras.random.SeedGenerator()
        self.gradient_checkpointing = False

    def call(
        self,
        hidden_states: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        causal_attention_mask: tf.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        rows: tf.Tensor | None = None,
    ) -> Any:
        """hidden_states [B, S, D]; masks [B or 1, 1, S, S] are added to the scores.

        rows [B]: the last layer computes only these: [B, 1, D].
        """
        collect, as_dict = switches(self.config, output_attentions, output_hidden_states, return_dict)
        if tuple(self.layers) != self.tracked:  # Keras does not notice changes of a list
            self.layers, self.tracked = list(self.layers), tuple(self.layers)
        plans = layer_arguments(len(self.layers), attention_mask, causal_attention_mask, rows)
        x = one_token(hidden_states, rows) if rows is not None and not plans else hidden_states
        states, attentions = [x], []
        for layer, plan in zip(self.layers, plans, strict=True):
            # Drawn here, so that a recomputed layer drops the same weights.
            seed = self.seeds.next() if training and self.config.attention_dropout else None
            more = {**flag(layer, collect["output_attentions"]), "training": training, **given(seed=seed)}
            run = partial(layer, **plan, **more)
            x, *weights = (tf.recompute_grad(run) if self.gradient_checkpointing and training else run)(x)
            states.append(x)
            attentions += weights
        out = BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(states) if collect["output_hidden_states"] else None,
            attentions=tuple(attentions) if collect["output_attentions"] else None,
        )
        return out if as_dict else out.to_tuple()


# -- towers -----------------------------------------------------------------------------------------------------------


class TFCLIPTextTransformer(Tower):
    """The text tower: what `TFCLIPTextModel` returns."""

    config_class = CLIPTextConfig

    def __init__(self, config: CLIPTextConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        with dtype_of(self):
            self.embeddings = TFCLIPTextEmbeddings(config)
            self.encoder = TFCLIPEncoder(config)
            self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        attention_mask: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        collect, as_dict = switches(self.config, output_attentions, output_hidden_states, return_dict)
        input_ids = check_text(self.embeddings, input_ids, attention_mask, position_ids)
        x = self.embeddings(input_ids, position_ids)  # [B, S, D]
        encoded = self.encoder(x, **text_masks(attention_mask, x), **collect, return_dict=True, training=training)
        last_hidden_state = self.final_layer_norm(encoded.last_hidden_state)
        pooled = one_token(last_hidden_state, self.end_of_text(input_ids))[:, 0]
        return tower_output(encoded, last_hidden_state, pooled, as_dict)

    pooled = pooled_text

    def end_of_text(self, input_ids: tf.Tensor) -> tf.Tensor:
        """The position of the end-of-text token: [B, S] -> [B]."""
        if self.config.eos_token_id == 2:  # configs older than 4.31: the highest id is the end (transformers #24773)
            return tf.argmax(input_ids, axis=-1, output_type=tf.int32)
        # The first one, because padding may be the same token; position 0 if there is none.
        ends = tf.cast(input_ids == self.config.eos_token_id, tf.int32)
        return tf.argmax(ends, axis=-1, output_type=tf.int32)


class TFCLIPVisionTransformer(Tower):
    """The vision tower: what `TFCLIPVisionModel` returns."""

    config_class = CLIPVisionConfig

    def __init__(self, config: CLIPVisionConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        with dtype_of(self):
            self.embeddings = TFCLIPVisionEmbeddings(config)
            self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
            self.encoder = TFCLIPEncoder(config)
            self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def call(
        self,
        pixel_values: tf.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        collect, as_dict = switches(self.config, output_attentions, output_hidden_states, return_dict)
        x = self.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        x = self.pre_layrnorm(x)  # [B, N, D]
        encoded = self.encoder(x, **collect, return_dict=True, training=training)
        last_hidden_state = encoded.last_hidden_state
        pooled = self.post_layernorm(last_hidden_state[:, 0])  # only the class token is normalised
        return tower_output(encoded, last_hidden_state, pooled, as_dict)

    pooled = pooled_image


def vision_tower(config: CLIPVisionConfig, projection_dim: int | None = None) -> Tower:
    """The tower for a config: a ViT, or OpenAI's ResNet, whose output is an embedding of `projection_dim`."""
    resnet = isinstance(config, CLIPResNetVisionConfig)
    return TFCLIPResNetVisionTransformer(config, projection_dim) if resnet else TFCLIPVisionTransformer(config)


# -- main layers, each the layer "clip" of a public class --------------------------------------------------------------


class TFCLIPTextMainLayer(MainLayer):
    """The text tower, as the layer "clip" of the text models."""

    config_class = CLIPTextConfig

    def __init__(self, config: CLIPTextConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        with dtype_of(self):
            self.text_model = TFCLIPTextTransformer(config)

    @wraps(TFCLIPTextTransformer.call)
    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.text_model(*args, **kwargs)


class TFCLIPVisionMainLayer(MainLayer):
    """The vision tower, as the layer "clip" of the vision models."""

    config_class = CLIPVisionConfig

    def __init__(self, config: CLIPVisionConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        with dtype_of(self):
            self.vision_model = vision_tower(config)

    @wraps(TFCLIPVisionTransformer.call)
    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.vision_model(*args, **kwargs)


class TFCLIPTextProjectionMainLayer(TFCLIPTextMainLayer):
    """The text tower and its projection."""

    def __init__(self, config: CLIPTextConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        with dtype_of(self):
            self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    @wraps(TFCLIPTextTransformer.call)
    def call(self, *args: Any, return_dict: bool | None = None, **kwargs: Any) -> Any:
        text = self.text_model(*args, return_dict=True, **kwargs)
        text_embeds = self.text_projection(text.pooler_output)
        out = CLIPTextModelOutput(text_embeds, text.last_hidden_state, text.hidden_states, text.attentions)
        return out if switches(self.config, return_dict=return_dict)[1] else out.to_tuple()


class TFCLIPVisionProjectionMainLayer(TFCLIPVisionMainLayer):
    """The vision tower and its projection."""

    def __init__(self, config: CLIPVisionConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        with dtype_of(self):
            self.visual_projection = vision_projection(config, config.projection_dim)

    @wraps(TFCLIPVisionTransformer.call)
    def call(self, *args: Any, return_dict: bool | None = None, **kwargs: Any) -> Any:
        image = self.vision_model(*args, return_dict=True, **kwargs)
        image_embeds = self.visual_projection(image.pooler_output)
        out = CLIPVisionModelOutput(image_embeds, image.last_hidden_state, image.hidden_states, image.attentions)
        return out if switches(self.config, return_dict=return_dict)[1] else out.to_tuple()


class TFCLIPMainLayer(MainLayer):
    """Both towers, their projections and the scale, as the layer "clip" of the full model."""

    config_class = CLIPConfig

    def __init__(self, config: CLIPConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        text, vision = config.text_config, config.vision_config
        self.projection_dim = config.projection_dim
        self.text_embed_dim, self.vision_embed_dim = text.hidden_size, vision.hidden_size
        with dtype_of(self):
            self.text_model = TFCLIPTextTransformer(text)
            self.vision_model = vision_tower(vision, self.projection_dim)
            self.visual_projection = vision_projection(vision, self.projection_dim)
            self.text_projection = Linear(self.text_embed_dim, self.projection_dim, bias=False)

    def build(self, input_shape: Any = None) -> None:
        self.logit_scale = self.add_weight((), "zeros", name="logit_scale", autocast=False)
        super().build()

    @unpacked
    def get_text_features(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Text embeddings [B, P], not normalised. The `output_*` flags change nothing (v4.37)."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return self.text_projection(pooled(self.text_model, training, **inputs))

    @unpacked
    def get_image_features(
        self,
        pixel_values: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> tf.Tensor:
        """Image embeddings [B, P], not normalised. The `output_*` flags change nothing (v4.37)."""
        more = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}
        return self.visual_projection(pooled(self.vision_model, training, pixel_values=pixel_values, **more))

    def call(
        self,
        input_ids: Any = None,
        pixel_values: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        return_loss: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """Texts [B_t, S] and pixels [B_i, C, h, w] -> CLIPOutput; `return_loss` needs B_t = B_i pairs."""
        collect, as_dict = switches(self.config, output_attentions, output_hidden_states, return_dict)
        collect |= {"return_dict": True, "training": training}
        more = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}  # a wrapper may not know it
        image = self.vision_model(pixel_values, **collect, **more)
        text = self.text_model(input_ids, attention_mask=attention_mask, position_ids=position_ids, **collect)
        image_embeds = normalize(self.visual_projection(image.pooler_output))  # [B_i, P]
        text_embeds = normalize(self.text_projection(text.pooler_output))  # [B_t, P]
        if return_loss:
            check_paired(text_embeds, image_embeds)
        scale = tf.cast(tf.exp(self.logit_scale), text_embeds.dtype)
        logits_per_text = tf.matmul(text_embeds, image_embeds, transpose_b=True) * scale  # [B_t, B_i]
        loss = clip_loss(logits_per_text)[None] if return_loss else None  # [1] in v4.37's TF
        logits_per_image = tf.transpose(logits_per_text)
        out = CLIPOutput(loss, logits_per_image, logits_per_text, text_embeds, image_embeds, text, image)
        return out if as_dict else out.to_tuple()


# -- public classes ---------------------------------------------------------------------------------------------------


class TFCLIPPreTrainedModel(TFPreTrainedModel):
    """Base of the public classes: loading, saving, training, and the other methods of v4.37's Keras models."""

    config_class = CLIPConfig
    base_model_prefix = "clip"


class TFCLIPTextModel(TFCLIPPreTrainedModel):
    """The text tower. Returns BaseModelOutputWithPooling: last_hidden_state [B, S, D] after the final norm,
    pooler_output [B, D] at the end-of-text token."""

    config_class = CLIPTextConfig
    weight_scope = "text"
    main_layer_class = TFCLIPTextMainLayer

    call = by_main_layer(TFCLIPTextMainLayer.call)


class TFCLIPVisionModel(TFCLIPPreTrainedModel):
    """The vision tower. Returns BaseModelOutputWithPooling: last_hidden_state [B, N, D] not normalised,
    pooler_output [B, D] the normalised class token."""

    config_class = CLIPVisionConfig
    weight_scope = "vision"
    main_input_name = "pixel_values"
    main_layer_class = TFCLIPVisionMainLayer

    call = by_main_layer(TFCLIPVisionMainLayer.call)


class TFCLIPModel(TFCLIPPreTrainedModel):
    """Both towers and the shared space."""

    config_class = CLIPConfig
    weight_scope = "full"
    main_layer_class = TFCLIPMainLayer

    get_text_features = by_main_layer(TFCLIPMainLayer.get_text_features)
    get_image_features = by_main_layer(TFCLIPMainLayer.get_image_features)
    call = by_main_layer(TFCLIPMainLayer.call)

    def own_loss(self, y_pred: Any) -> tf.Tensor:
        return clip_loss(y_pred["logits_per_text"])


class TFCLIPTextModelWithProjection(TFCLIPPreTrainedModel):
    """The text tower and its projection. Returns CLIPTextModelOutput with text_embeds [B, P], not normalised."""

    config_class = CLIPTextConfig
    weight_scope = "text_projection"
    main_layer_class = TFCLIPTextProjectionMainLayer

    call = by_main_layer(TFCLIPTextProjectionMainLayer.call)


class TFCLIPVisionModelWithProjection(TFCLIPPreTrainedModel):
    """The vision tower and its projection. Returns CLIPVisionModelOutput with image_embeds [B, P], not normalised."""

    config_class = CLIPVisionConfig
    weight_scope = "vision_projection"
    main_input_name = "pixel_values"
    main_layer_class = TFCLIPVisionProjectionMainLayer

    call = by_main_layer(TFCLIPVisionProjectionMainLayer.call)


def normalize(x: tf.Tensor) -> tf.Tensor:
    """Unit length along the last axis."""
    return x / tf.cast(tf.norm(at_least_float32(x), axis=-1, keepdims=True), x.dtype)


def clip_loss(logits_per_text: tf.Tensor) -> tf.Tensor:
    """The symmetric contrastive loss of the paper: pair i is the only match of text i and of image i."""
    logits = at_least_float32(logits_per_text)
    target = tf.range(tf.shape(logits)[0])
    text_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    image_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(target, tf.transpose(logits))
    return (tf.reduce_mean(text_loss) + tf.reduce_mean(image_loss)) / 2
