"""Position ids that are right however a model comes to its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class WithPositions(nn.Module):
    """An embedding with `position_ids` [1, N], a buffer that is in no file.

    What fills a model built on the meta device fills what is in files: `to_empty` would leave these numbers as the
    memory was, and `load_state_dict(assign=True)` would leave them on the meta device.
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
            after.copy_(before)  # `to_empty` makes room without the numbers
        return out


def _fill(module: nn.Module, incompatible: Any) -> None:
    """Puts position ids beside weights that were assigned."""
    buffer = module._buffers.get("position_ids")
    weight = module.position_embedding.weight
    if buffer is not None and buffer.is_meta and not weight.is_meta:
        module.position_ids = torch.arange(buffer.shape[-1], device=weight.device).expand_as(buffer)
