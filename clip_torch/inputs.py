"""What the towers settle before they compute: the core's checks, on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clip_core.config import CLIPTextConfig
from clip_core.inputs import (
    check_id_range,
    check_ids,
    check_integers,
    check_mask,
    check_patch_range,
    check_patches,
    check_position_range,
    check_positions,
)


def check_text(
    config: CLIPTextConfig, input_ids: Tensor | None, attention_mask: Tensor | None, position_ids: Tensor | None
) -> None:
    """Shapes always; values only where looking costs no device synchronisation and breaks no graph."""
    check_tensors(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
    check_ids(config, None if input_ids is None else input_ids.shape)
    check_integers("input_ids", str(input_ids.dtype).removeprefix("torch."))
    rows = input_ids.reshape(-1, input_ids.shape[-1]).shape
    if attention_mask is not None:
        check_mask(attention_mask.shape, rows)
    if can_look(input_ids) and input_ids.numel():
        check_id_range(config, *(int(v) for v in input_ids.aminmax()))
    if position_ids is not None:
        check_integers("position_ids", str(position_ids.dtype).removeprefix("torch."))
        check_positions(position_ids.shape, rows)
        if can_look(position_ids) and position_ids.numel():
            check_position_range(config, *(int(v) for v in position_ids.aminmax()))


def check_chosen(patches: Tensor, batch: int, count: int) -> None:
    """As `check_text`, of the patches that are looked at."""
    check_integers("patches", str(patches.dtype).removeprefix("torch."))
    check_patches(patches.shape, batch)
    if can_look(patches) and patches.numel():
        check_patch_range(count, *(int(v) for v in patches.aminmax()))


def check_tensors(**inputs: Any) -> None:
    for name, value in inputs.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name}: wanted a torch.Tensor, found {type(value).__name__}")


def can_look(x: Tensor) -> bool:
    """Whether values can be read without a device synchronisation, a broken graph or a failing transform."""
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor
    return x.device.type == "cpu" and not tracing and not torch._C._functorch.is_functorch_wrapped_tensor(x)
