"""OpenAI's ResNet vision tower (RN50, RN101, RN50x4, x16, x64) in Flax.

B batch, C channels, h and w a map's sides, D channels of the last map, H heads, P projection. Maps are [B, h, w, C]
inside, [B, C, h, w] in outputs. Names are OpenAI's and open_clip's.

Running statistics are parameters, "mean" and "var", so that a model has one tree: their gradients are 0, and an
optimizer must leave them alone. In training (`deterministic=False`) a batch is normalised by its own; the new running
ones are in the collection "batch_stats" where a caller makes it mutable, and `with_statistics` puts them in place:

    out, new = model.module.apply({"params": params}, ..., deterministic=False, mutable=["batch_stats"])
    params = with_statistics(params, new["batch_stats"])
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from clip_core.config import CLIPResNetVisionConfig, CLIPVisionConfig
from clip_core.errors import InputError
from clip_core.init import resnet_deviation
from clip_core.inputs import resolve_flags
from clip_core.outputs import BaseModelOutputWithPooling

from .inputs import check_nhwc
from .layers import projection


class Part(nn.Module):
    """The fields of every part of the tower."""

    config: CLIPResNetVisionConfig
    dtype: Any = jnp.float32

    def convolution(self, channels: int, size: int = 1, stride: int = 1, name: str | None = None) -> nn.Conv:
        """Without bias, padded by half of its size on both sides."""
        factor, edge = self.config.initializer_factor, size // 2

        def init(rng: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            height, width, inside, outside = shape
            deviation = factor * resnet_deviation((outside, inside, height, width), None)
            return deviation * jax.random.normal(rng, shape, dtype)

        padding = [(edge, edge)] * 2
        options = {"use_bias": False, "dtype": self.dtype, "kernel_init": init}
        return nn.Conv(channels, (size, size), stride, padding, **options, name=name)

    def norm(self, channels: int, zero: bool = False, name: str | None = None) -> BatchNorm:
        return BatchNorm(self.config, self.dtype, channels, zero, name=name)


class BatchNorm(Part):
    """Normalises each channel of [B, h, w, C], in float32 at least. zero: a fresh one's scale."""

    channels: int = 0
    zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        zeros, ones, shape = nn.initializers.zeros, nn.initializers.ones, (self.channels,)
        scale = self.param("scale", zeros if self.zero else ones, shape)
        bias = self.param("bias", zeros, shape)
        running = [self.param(name, init, shape) for name, init in (("mean", zeros), ("var", ones))]
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = (jax.lax.stop_gradient(value).astype(y.dtype) for value in running)
        if not deterministic:
            before, count = (mean, var), math.prod(x.shape[:3])
            mean = y.mean((0, 1, 2))
            var = jnp.square(y - mean).mean((0, 1, 2))
            # As PyTorch has it: the batch is normalised by the biased variance, the running one follows the unbiased.
            self.follow(before, (mean, var * (count / max(count - 1, 1))))
        factor = jax.lax.rsqrt(var + self.config.batch_norm_eps) * scale.astype(y.dtype)
        return ((y - mean) * factor + bias.astype(y.dtype)).astype(x.dtype)

    def follow(self, before: tuple[jax.Array, ...], found: tuple[jax.Array, ...]) -> None:
        """Give the new running statistics to a caller who asks for them."""
        if not self.is_mutable_collection("batch_stats"):
            return
        for name, old, new in zip(("mean", "var"), before, found, strict=True):
            moved = old + self.config.batch_norm_momentum * (jax.lax.stop_gradient(new) - old)
            self.put_variable("batch_stats", name, moved)


class ShortCut(Part):
    """What a stage's first block does to its input: pooled, of another width, normalised."""

    channels: int = 0
    stride: int = 1

    def setup(self) -> None:
        self.parts = [self.convolution(self.channels, name="0"), self.norm(self.channels, name="1")]

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        convolution, norm = self.parts
        return norm(convolution(pooled(x, self.stride)), deterministic)


class Bottleneck(Part):
    """A block: [B, h, w, C] -> [B, h / stride, w / stride, 4 * width]. An average pool does what a stride would."""

    width: int = 0
    stride: int = 1
    first: bool = False

    def setup(self) -> None:
        width = self.width
        self.conv1, self.bn1 = self.convolution(width), self.norm(width)
        self.conv2, self.bn2 = self.convolution(width, 3), self.norm(width)
        self.conv3, self.bn3 = self.convolution(4 * width), self.norm(4 * width, zero=True)
        if self.first:
            self.downsample = ShortCut(self.config, self.dtype, 4 * width, self.stride)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        out = nn.relu(self.bn1(self.conv1(x), deterministic))
        out = nn.relu(self.bn2(self.conv2(out), deterministic))
        out = self.bn3(self.conv3(pooled(out, self.stride)), deterministic)
        return nn.relu(out + (self.downsample(x, deterministic) if self.first else x))


class Stage(Part):
    """Blocks "0", "1", ... of which the first has another grid and width."""

    width: int = 0
    blocks: int = 1
    stride: int = 1

    def setup(self) -> None:
        self.parts = [
            Bottleneck(self.config, self.dtype, self.width, 1 if i else self.stride, i == 0, name=str(i))
            for i in range(self.blocks)
        ]

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        for part in self.parts:
            x = part(x, deterministic)
        return x


class AttentionPool(Part):
    """The mean of a map asks all of its places: [B, h, w, D] -> ([B, P], weights [B, H, 1, h * w + 1])."""

    projection_dim: int = 0

    def setup(self) -> None:
        width = self.config.hidden_size
        init = nn.initializers.normal(self.config.initializer_factor * resnet_deviation((width, width), self.config))
        places = (self.config.image_size // 32) ** 2 + 1
        self.positional_embedding = self.param("positional_embedding", init, (places, width))
        self.k_proj = nn.Dense(width, dtype=self.dtype, kernel_init=init)
        self.q_proj = nn.Dense(width, dtype=self.dtype, kernel_init=init)
        self.v_proj = nn.Dense(width, dtype=self.dtype, kernel_init=init)
        self.c_proj = nn.Dense(self.projection_dim, dtype=self.dtype, kernel_init=init)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, h * w, D]
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1) + self.positional_embedding.astype(x.dtype)
        q = self.heads(self.q_proj(x[:, :1]))  # [B, H, 1, d]
        k, v = self.heads(self.k_proj(x)), self.heads(self.v_proj(x))  # [B, H, N, d]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        scores = jnp.matmul(q * q.shape[-1] ** -0.5, k.swapaxes(2, 3), preferred_element_type=wide)
        weights = nn.softmax(scores).astype(v.dtype)
        context = jnp.matmul(weights, v).swapaxes(1, 2)  # [B, 1, H, d]
        return self.c_proj(context.reshape(len(x), -1)), weights

    def heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.config.num_attention_heads, -1).swapaxes(1, 2)


class FlaxCLIPResNetVisionTransformer(Part):
    """OpenAI's ResNet in the place of the vision tower: pixels [B, h, w, C] -> BaseModelOutputWithPooling.

    last_hidden_state [B, D, h / 32, w / 32]: the map of the last stage; pooler_output [B, P]: what the attention that
    pools makes of it, the embedding itself (there is no projection behind it); hidden_states: the maps of the stem and
    of the four stages; attentions: one, of the pooling, [B, H, 1, places + 1], the first for their mean.

    projection_dim: of the shared space; 0: the config's. gradient_checkpointing leaves it alone.

    Raises InputError for pixels of another size, and for `interpolate_pos_encoding`, which no ResNet has.
    """

    gradient_checkpointing: bool | str = False
    projection_dim: int = 0

    def setup(self) -> None:
        config, width = self.config, self.config.width
        half = width // 2
        self.conv1, self.bn1 = self.convolution(half, 3, 2), self.norm(half)
        self.conv2, self.bn2 = self.convolution(half, 3), self.norm(half)
        self.conv3, self.bn3 = self.convolution(width, 3), self.norm(width)
        self.layer1 = Stage(config, self.dtype, width, config.layers[0], 1)
        self.layer2 = Stage(config, self.dtype, 2 * width, config.layers[1], 2)
        self.layer3 = Stage(config, self.dtype, 4 * width, config.layers[2], 2)
        self.layer4 = Stage(config, self.dtype, 8 * width, config.layers[3], 2)
        self.attnpool = AttentionPool(config, self.dtype, self.projection_dim or config.projection_dim)

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
        if interpolate_pos_encoding:
            raise InputError("interpolate_pos_encoding: a ResNet tower has pictures of its config's size only")
        check_nhwc(self.config, pixel_values, False)
        x = self.stem(jnp.asarray(pixel_values).astype(self.dtype), deterministic)
        maps = [x]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x, deterministic)
            maps.append(x)
        embeds, weights = self.attnpool(x)
        maps = [jnp.transpose(x, (0, 3, 1, 2)) for x in maps]
        states = tuple(maps) if flags.hidden_states else None
        out = BaseModelOutputWithPooling(maps[-1], embeds, states, (weights,) if flags.attentions else None)
        return out if flags.return_dict else out.to_tuple()

    def stem(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """[B, h, w, C] -> [B, h / 4, w / 4, width]."""
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = nn.relu(norm(convolution(x), deterministic))
        return pooled(x, 2)


def pooled(x: jax.Array, size: int) -> jax.Array:
    """The mean of each square; what is left over is cut off."""
    return x if size == 1 else nn.avg_pool(x, (size, size), (size, size))


def with_statistics(params: Any, batch_stats: Any) -> dict[str, Any]:
    """Parameters with the running statistics of a training step, from the collection "batch_stats"."""
    new = flatten_dict(batch_stats)
    return unflatten_dict({path: new.get(path, leaf).astype(leaf.dtype) for path, leaf in flatten_dict(params).items()})


def vision_projection(config: CLIPVisionConfig, projection_dim: int, dtype: Any) -> Any:
    """From what the tower pools to the shared space; a ResNet's is there already."""
    if isinstance(config, CLIPResNetVisionConfig):
        return _as_it_is
    return projection(config, "visual_projection", projection_dim, dtype)


def _as_it_is(x: jax.Array) -> jax.Array:
    return x
