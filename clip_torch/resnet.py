"""OpenAI's ResNet vision tower (RN50, RN101, RN50x4, x16, x64) in PyTorch, and which tower a config asks for.

B batch, C channels, h and w a map's sides, D channels of the last map, H heads, P projection. Names are OpenAI's and
open_clip's. Batch norms have PyTorch's meaning of training: batches' own statistics, and running ones that follow.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.config import CLIPResNetVisionConfig, CLIPVisionConfig
from clip_core.errors import InputError
from clip_core.init import resnet_deviation
from clip_core.inputs import check_pixels, resolve_flags
from clip_core.outputs import BaseModelOutputWithPooling

from .inputs import check_tensors


class BatchNorm(nn.BatchNorm2d):
    """In float32 at least: halves have too few digits for statistics, and processors differ in what they have."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(input)
        batch, momentum = self.training, self.momentum
        if batch and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, var = self.running_mean.float(), self.running_var.float()
        out = F.batch_norm(input.float(), mean, var, self.weight.float(), self.bias.float(), batch, momentum, self.eps)
        if batch:
            self.running_mean.copy_(mean)
            self.running_var.copy_(var)
        return out.to(input.dtype)


class Bottleneck(nn.Module):
    """A block: x [B, C, h, w] -> [B, 4 * width, h / stride, w / stride]. An average pool does what a stride would."""

    def __init__(self, config: CLIPResNetVisionConfig, inside: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        outside = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), _norm(config, width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(config, width)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(width, outside, 1, bias=False), _norm(config, outside)
        self.downsample: nn.Module | None = None
        if first:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            convolution = nn.Conv2d(inside, outside, 1, bias=False)
            parts = [("-1", pool), ("0", convolution), ("1", _norm(config, outside))]
            self.downsample = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """The mean of a map asks all of its places: [B, D, h, w] -> ([B, P], weights [B, H, 1, h * w + 1])."""

    def __init__(self, config: CLIPResNetVisionConfig, projection_dim: int) -> None:
        super().__init__()
        self.config = config
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.positional_embedding = nn.Parameter(torch.empty((config.image_size // 32) ** 2 + 1, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, projection_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(2).transpose(1, 2)  # [B, h * w, D]
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding.to(x.dtype)
        q = self.heads(self.q_proj(x[:, :1]))  # [B, H, 1, d]
        k, v = self.heads(self.k_proj(x)), self.heads(self.v_proj(x))  # [B, H, N, d]
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
        return self.c_proj((weights @ v).transpose(1, 2).flatten(2)[:, 0]), weights

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CLIPResNetVisionTransformer(nn.Module):
    """OpenAI's ResNet in the place of the vision tower: pixels [B, C, h, w] -> BaseModelOutputWithPooling.

    last_hidden_state [B, D, h / 32, w / 32]: the map of the last stage; pooler_output [B, P]: what the attention that
    pools makes of it, the embedding itself (there is no projection behind it); hidden_states: the maps of the stem and
    of the four stages; attentions: one, of the pooling, [B, H, 1, places + 1], the first for their mean.

    Args:
        config: the tower's.
        projection_dim: of the shared space; default the config's.

    Gradient checkpointing leaves it alone: a batch norm that is computed twice would move its statistics twice.

    Raises InputError for pixels of another size, and for `interpolate_pos_encoding`, which no ResNet has.
    """

    def __init__(self, config: CLIPResNetVisionConfig, projection_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.width
        half = width // 2
        self.conv1 = nn.Conv2d(config.num_channels, half, 3, stride=2, padding=1, bias=False)
        self.bn1 = _norm(config, half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), _norm(config, half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), _norm(config, width)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _stage(config, width, width, config.layers[0], 1)
        self.layer2 = _stage(config, 4 * width, 2 * width, config.layers[1], 2)
        self.layer3 = _stage(config, 8 * width, 4 * width, config.layers[2], 2)
        self.layer4 = _stage(config, 16 * width, 8 * width, config.layers[3], 2)
        self.attnpool = AttentionPool(config, projection_dim or config.projection_dim)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        self.check(pixel_values, interpolate_pos_encoding)
        x = self.stem(pixel_values.to(self.conv1.weight.dtype))
        maps = [x]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        pooled, weights = self.attnpool(x)
        out = BaseModelOutputWithPooling(
            x, pooled, tuple(maps) if flags.hidden_states else None, (weights,) if flags.attentions else None
        )
        return out if flags.return_dict else out.to_tuple()

    def check(self, pixel_values: Tensor | None, interpolate: bool) -> None:
        if interpolate:
            raise InputError("interpolate_pos_encoding: a ResNet tower has pictures of its config's size only")
        check_tensors(pixel_values=pixel_values)
        if not isinstance(pixel_values, torch.fx.Proxy):
            check_pixels(self.config, None if pixel_values is None else pixel_values.shape)

    def stem(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, width, h / 4, w / 4]."""
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(convolution(x)))
        return self.avgpool(x)


def _norm(config: CLIPResNetVisionConfig, channels: int) -> BatchNorm:
    return BatchNorm(channels, config.batch_norm_eps, config.batch_norm_momentum)


def _stage(config: CLIPResNetVisionConfig, inside: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(config, inside, width, stride, True)
    return nn.Sequential(first, *(Bottleneck(config, 4 * width, width, 1, False) for _ in range(blocks - 1)))


@torch.no_grad()
def draw(module: nn.Module, factor: float) -> bool:
    """Draw a ResNet's module's own weights, by `clip_core.init`; False: it is none."""
    if isinstance(module, Bottleneck):
        for part in (module.conv1, module.conv2, module.conv3, *(module.downsample or ())):
            _draw_convolution(part, factor)
        module.bn3.weight.zero_()  # so that a block begins as its short cut; its norms were drawn before it
    elif isinstance(module, CLIPResNetVisionTransformer):
        for part in (module.conv1, module.conv2, module.conv3):
            _draw_convolution(part, factor)
    elif isinstance(module, AttentionPool):
        for name, weight in module.named_parameters():
            if not name.endswith("bias"):
                weight.normal_(std=factor * resnet_deviation(tuple(weight.shape), module.config))
    elif isinstance(module, BatchNorm):
        module.reset_parameters()
    else:
        return False
    return True


def _draw_convolution(part: nn.Module, factor: float) -> None:
    if isinstance(part, nn.Conv2d):
        part.weight.normal_(std=factor * resnet_deviation(tuple(part.weight.shape), None))


def vision_projection(config: CLIPVisionConfig, projection_dim: int) -> nn.Module:
    """The projection of a vision tower's pooled output; a ResNet's is an embedding already."""
    if isinstance(config, CLIPResNetVisionConfig):
        return nn.Identity()
    return nn.Linear(config.hidden_size, projection_dim, bias=False)
