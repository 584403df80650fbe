"""OpenAI's ResNet vision tower (RN50, RN101, RN50x4, x16, x64) in Keras.

B batch, C channels, h and w a map's sides, D channels of the last map, H heads, P projection. Maps are [B, h, w, C]
inside, [B, C, h, w] in outputs. Names are OpenAI's and open_clip's.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from clip_core.config import CLIPResNetVisionConfig, CLIPVisionConfig
from clip_core.errors import InputError
from clip_core.inputs import check_pixels
from clip_core.outputs import BaseModelOutputWithPooling

from .bridge import Tower
from .inputs import assume, switches, unchanged
from .layers import BatchNorm, Conv, Layer, Linear, at_least_float32, dtype_of, sizes


class Bottleneck(Layer):
    """A block: x [B, h, w, C] -> [B, h / stride, w / stride, 4 * width]. An average pool does what a stride would."""

    def __init__(self, config: CLIPResNetVisionConfig, inside: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.bn1 = Conv(inside, width, 1), norm(config, width)
        self.conv2, self.bn2 = Conv(width, width, 3, edge=1), norm(config, width)
        self.conv3, self.bn3 = Conv(width, 4 * width, 1), norm(config, 4 * width)
        self.downsample = [Conv(inside, 4 * width, 1), norm(config, 4 * width)] if first else []

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        out = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        out = tf.nn.relu(self.bn2(self.conv2(out), training=training))
        out = self.bn3(self.conv3(pool(out, self.stride)), training=training)
        if self.downsample:
            convolution, follows = self.downsample
            x = follows(convolution(pool(x, self.stride)), training=training)
        return tf.nn.relu(out + x)


class AttentionPool(Layer):
    """The mean of a map asks all of its places: [B, h, w, D] -> ([B, P], weights [B, H, 1, h * w + 1])."""

    def __init__(self, config: CLIPResNetVisionConfig, projection_dim: int) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.shape = ((config.image_size // 32) ** 2 + 1, width)
        self.k_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.c_proj = Linear(width, projection_dim)

    def build(self, input_shape: Any = None) -> None:
        self.positional_embedding = self.add_weight(self.shape, "zeros", name="positional_embedding")
        super().build()

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        places, width = self.shape
        x = tf.reshape(x, (-1, places - 1, width))  # [B, h * w, D]
        x = tf.concat([tf.reduce_mean(x, axis=1, keepdims=True), x], axis=1)
        x = x + tf.cast(self.positional_embedding, x.dtype)
        q = self.heads(self.q_proj(x[:, :1]))  # [B, H, 1, d]
        k, v = self.heads(self.k_proj(x)), self.heads(self.v_proj(x))  # [B, H, N, d]
        scores = at_least_float32(tf.matmul(q * q.shape[-1] ** -0.5, k, transpose_b=True))
        weights = tf.cast(tf.nn.softmax(scores), v.dtype)
        context = tf.transpose(tf.matmul(weights, v), (0, 2, 1, 3))  # [B, 1, H, d]
        return self.c_proj(tf.reshape(context, (-1, width))), weights

    def heads(self, x: tf.Tensor) -> tf.Tensor:
        split = (-1, sizes(x)[1], self.num_heads, self.shape[1] // self.num_heads)
        return tf.transpose(tf.reshape(x, split), (0, 2, 1, 3))


class TFCLIPResNetVisionTransformer(Tower):
    """OpenAI's ResNet in the place of the vision tower: pixels [B, C, h, w] -> BaseModelOutputWithPooling.

    last_hidden_state [B, D, h / 32, w / 32]: the map of the last stage; pooler_output [B, P]: what the attention that
    pools makes of it, the embedding itself (there is no projection behind it); hidden_states: the maps of the stem and
    of the four stages; attentions: one, of the pooling, [B, H, 1, places + 1], the first for their mean.

    Gradient checkpointing leaves it alone. Raises InputError for pixels of another size, for
    `interpolate_pos_encoding`, which no ResNet has, and for `patches`.
    """

    config_class = CLIPResNetVisionConfig

    def __init__(self, config: CLIPResNetVisionConfig, projection_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        width = config.width
        half = width // 2
        self.projection_dim = projection_dim or config.projection_dim
        with dtype_of(self):
            self.conv1, self.bn1 = Conv(config.num_channels, half, 3, 2, edge=1), norm(config, half)
            self.conv2, self.bn2 = Conv(half, half, 3, edge=1), norm(config, half)
            self.conv3, self.bn3 = Conv(half, width, 3, edge=1), norm(config, width)
            self.layer1 = stage(config, width, width, config.layers[0], 1)
            self.layer2 = stage(config, 4 * width, 2 * width, config.layers[1], 2)
            self.layer3 = stage(config, 8 * width, 4 * width, config.layers[2], 2)
            self.layer4 = stage(config, 16 * width, 8 * width, config.layers[3], 2)
            self.attnpool = AttentionPool(config, self.projection_dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "projection_dim": self.projection_dim}

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
        x = checked(self.config, pixel_values, interpolate_pos_encoding)
        x = self.stem(tf.transpose(tf.cast(x, self.compute_dtype), (0, 2, 3, 1)), training)
        maps = [x]
        for blocks in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in blocks:
                x = block(x, training=training)
            maps.append(x)
        embeds, weights = self.attnpool(x)
        maps = [tf.transpose(x, (0, 3, 1, 2)) for x in maps]
        states = tuple(maps) if collect["output_hidden_states"] else None
        out = BaseModelOutputWithPooling(maps[-1], embeds, states, (weights,) if collect["output_attentions"] else None)
        return out if as_dict else out.to_tuple()

    def pooled(
        self,
        pixel_values: tf.Tensor,
        interpolate_pos_encoding: bool = False,
        patches: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """`pooler_output` [B, P] alone."""
        if patches is not None:
            raise InputError("patches: a ResNet tower has none that could be left out")
        return self(
            pixel_values, return_dict=True, training=training, interpolate_pos_encoding=interpolate_pos_encoding
        )[1]

    def stem(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, h, w, C] -> [B, h / 4, w / 4, width]."""
        for convolution, follows in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = tf.nn.relu(follows(convolution(x), training=training))
        return pool(x, 2)


def norm(config: CLIPResNetVisionConfig, channels: int) -> BatchNorm:
    return BatchNorm(channels, config.batch_norm_eps, config.batch_norm_momentum)


def stage(config: CLIPResNetVisionConfig, inside: int, width: int, blocks: int, stride: int) -> list[Bottleneck]:
    first = Bottleneck(config, inside, width, stride, True)
    return [first, *(Bottleneck(config, 4 * width, width, 1, False) for _ in range(blocks - 1))]


def pool(x: tf.Tensor, size: int) -> tf.Tensor:
    """The mean of each square; what is left over is cut off."""
    return x if size == 1 else tf.nn.avg_pool2d(x, size, size, "VALID")


@unchanged
def checked(config: CLIPResNetVisionConfig, pixel_values: tf.Tensor | None, interpolate: bool) -> tf.Tensor:
    """The pixels, with all sizes but the batch known. Sizes that are not are taken to be right, and checked later."""
    if interpolate:
        raise InputError("interpolate_pos_encoding: a ResNet tower has pictures of its config's size only")
    wanted = (None, config.num_channels, config.image_size, config.image_size)
    shape = None if pixel_values is None else pixel_values.shape
    if shape is None or shape.rank is not None:
        check_pixels(config, shape and assume(shape, wanted))
    return tf.ensure_shape(pixel_values, wanted)


def vision_projection(config: CLIPVisionConfig, projection_dim: int) -> Any:
    """The projection of a vision tower's pooled output; a ResNet's is an embedding already."""
    if isinstance(config, CLIPResNetVisionConfig):
        return tf.identity
    return Linear(config.hidden_size, projection_dim, bias=False)
