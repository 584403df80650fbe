"""Position ids that stay right when a model is built on the meta device and filled later."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WithPositions(nn.Module):
    """An embedding with `position_ids` [1, N], a buffer that is not saved.

    For a model built on the meta device, `to_empty` would leave them uninitialised, and `load_state_dict(assign=True)`
    would leave them on the meta device.
    """

    position_ids: torch.Tensor

    def register_positions(self, count: int) -> None:
        """Called once by the constructor."""
        self.register_buffer("position_ids", torch.arange(count)[None], persistent=False)
        self.register_load_state_dict_post_hook(_fill)

    def _apply(self, fn: Callable, recurse: bool = True) -> Any:
        before = self._buffers.get("position_ids")
        out = super()._apply(fn, recurse)
        after = self._buffers.get("position_ids")
        if before is None or after is None or after is before or after.is_meta or type(after) is not torch.Tensor:
            return out
        if before.is_meta:
            after.copy_(torch.arange(after.shape[-1]).expand_as(after))
        elif after.shape == before.shape:
            after.copy_(before)  # `to_empty` allocates without values
        return out


class WithGrid(WithPositions):
    """A vision tower's positions: the class token's, then a grid."""

    def grid_positions(self) -> Tensor:
        """The learned positions [N, D], by a call, because the module may have hooks or be replaced."""
        return self.position_embedding(self.position_ids)[0]

    def positions(self, height: int, width: int) -> Tensor:
        """The learned grid of positions, resampled (bicubic) to another grid; the class position is kept."""
        weight = self.grid_positions()
        grid = math.isqrt(weight.shape[0] - 1)
        if (height, width) == (grid, grid):
            return weight
        square = weight[1:].T.reshape(1, -1, grid, grid)  # [1, D, g, g]
        square = F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([weight[:1], square.flatten(2)[0].T])


def _fill(module: nn.Module, incompatible: Any) -> None:
    """Make position ids on the device of assigned weights."""
    buffer = module._buffers.get("position_ids")
    weight = module.position_embedding.weight
    if buffer is not None and buffer.is_meta and not weight.is_meta:
        module.position_ids = torch.arange(buffer.shape[-1], device=weight.device).expand_as(buffer)
