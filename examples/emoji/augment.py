"""Batched augmentation in torch: warp, recolour, background. A few tensor operations for the whole batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# OpenAI's normalisation, as CLIP image processors have it by default.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator, device: str) -> Tensor:
    return torch.rand(shape, generator=generator, device=device) * (high - low) + low


def normalise(rgb: Tensor) -> Tensor:
    """RGB in [0, 1], shape (N, 3, H, W), with CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(values, device=rgb.device)[:, None, None] for values in (MEAN, STD))
    return (rgb - mean) / std


def warp_grid(n: int, size: int, flip: Tensor, generator: torch.Generator, device: str) -> Tensor:
    """Sampling grid (n, size, size, 2): rotation, scale, stretch, shear, shift, elastic bend, mirroring."""

    def draw(low: float, high: float) -> Tensor:
        return uniform((n,), low, high, generator, device)

    angle, shear = draw(-0.3, 0.3), draw(-0.15, 0.15)
    scale, stretch = draw(-0.22, 0.3).exp(), draw(-0.14, 0.14).exp()
    mirror = torch.where((draw(0, 1) < 0.5) & flip, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [
        cos * stretch * mirror,
        -sin + shear,
        draw(-0.12, 0.12),
        sin * stretch * mirror,
        cos / stretch,
        draw(-0.12, 0.12),
    ]
    theta = torch.stack(rows, 1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    bend = torch.randn(n, 2, 4, 4, generator=generator, device=device) * draw(0, 0.07)[:, None, None, None]
    bend = F.interpolate(bend, size=(size, size), mode="bilinear", align_corners=True)
    return grid + bend.permute(0, 2, 3, 1)


def recolour(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Hue turn, saturation, contrast, brightness and a slope of light, each picture its own. rgb (N, 3, H, W)."""
    n, device = len(rgb), str(rgb.device)

    def draw(low: float, high: float) -> Tensor:
        return uniform((n,), low, high, generator, device)

    hue = torch.where(draw(0, 1) < 0.15, draw(-math.pi, math.pi), draw(-0.35, 0.35))
    saturation = torch.where(draw(0, 1) < 0.12, torch.zeros(n, device=device), draw(0.4, 1.5))
    # Turning about the grey axis keeps the mean of the channels, so grey stays grey.
    axis = torch.full((3, 3), 1 / 3, device=device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)
    turn = hue.cos()[:, None, None] * (torch.eye(3, device=device) - axis) + hue.sin()[:, None, None] * cross
    rgb = torch.einsum("nij,njhw->nihw", turn * saturation[:, None, None] + axis, rgb)
    contrast, light = draw(0.65, 1.35)[:, None, None, None], draw(-0.15, 0.15)[:, None, None, None]
    rgb = (rgb - 0.5) * contrast + 0.5 + light
    ramp = torch.linspace(-1, 1, rgb.shape[-1], device=device)
    slope = uniform((n, 2), -0.15, 0.15, generator, device)
    slope = slope * (draw(0, 1) < 0.4)[:, None]
    return rgb + (slope[:, 0, None, None] * ramp[None] + slope[:, 1, None, None] * ramp[:, None])[:, None]


def background(n: int, generator: torch.Generator, device: str) -> Tensor:
    """One colour per picture, (n, 3, 1, 1): white mostly, else black or any."""
    kind = uniform((n, 1), 0, 1, generator, device)
    colour = uniform((n, 3), 0, 1, generator, device)
    colour = torch.where(kind < 0.6, torch.ones_like(colour), colour)
    return torch.where((kind > 0.6) & (kind < 0.68), torch.zeros_like(colour), colour)[:, :, None, None]


def augment(rgba: Tensor, flip: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Premultiplied RGBA bytes (N, 4, S, S) -> normalised pixel values (N, 3, size, size).

    `flip` says which pictures may be mirrored. Draws from `generator` alone, which lives on the pictures' device.
    """
    n, device = len(rgba), str(rgba.device)
    picture = rgba.float() / 255
    grid = warp_grid(n, size, flip, generator, device)
    picture = F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    soft = uniform((n, 1, 1, 1), 0, 1, generator, device)
    blurred = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1)), 3, 1)
    picture = torch.where(soft < 0.15, blurred, torch.where(soft > 0.85, 1.5 * picture - 0.5 * blurred, picture))
    alpha = picture[:, 3:].clamp(0, 1)
    colour = picture[:, :3] / alpha.clamp_min(1e-3)
    # A dark rim around the shape, as some sets draw.
    rim = F.max_pool2d(alpha, 3, 1, 1) - alpha
    outlined = uniform((n, 1, 1, 1), 0, 1, generator, device) < 0.12
    colour = recolour(colour, generator).clamp(0, 1)
    premultiplied = colour * alpha
    alpha = torch.where(outlined, alpha + rim, alpha)
    rgb = premultiplied + (1 - alpha) * background(n, generator, device)
    return normalise(rgb + 0.02 * torch.randn(rgb.shape, generator=generator, device=device))
