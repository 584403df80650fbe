"""Input checks of the towers: the core's checks, on tensors and the modules' sizes.

Sizes are those of the current tables, which may have been replaced; a user's own module in a table's place is not
checked.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clip_core.errors import InputError
from clip_core.inputs import (
    check_id_range,
    check_ids,
    check_integers,
    check_mask,
    check_patch_range,
    check_patches,
    check_pixels,
    check_position_range,
    check_positions,
)

from .shortcuts import may_skip


class Room(NamedTuple):
    """A text embedding's limits, named as in configs."""

    vocab_size: int
    max_position_embeddings: int


class Pictures(NamedTuple):
    """What a vision embedding takes, under the names that configs have for it."""

    num_channels: int
    image_size: int
    patch_size: int


def check_text(input_ids: Tensor | None, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
    """The ids as [B, S], after checks of types and dtypes, which apply to any embedding."""
    check_tensors(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
    if not isinstance(input_ids, torch.fx.Proxy):  # a proxy stands for any input
        if input_ids is None or not all(input_ids.shape[-1:]):
            check_ids(None, None if input_ids is None else input_ids.shape)
        check_integers("input_ids", _name(input_ids))
        if position_ids is not None:
            check_integers("position_ids", _name(position_ids))
    return input_ids.reshape(-1, input_ids.shape[-1])


def check_tokens(embeddings: Any, input_ids: Tensor | None, position_ids: Tensor | None, shape: torch.Size) -> None:
    """Check shapes always, values only without a device synchronisation or a graph break.

    shape: [B, S] of the tokens.
    """
    if isinstance(shape, torch.fx.Proxy):
        return
    tokens, table = embeddings.token_embedding, embeddings.position_embedding
    places = embeddings.position_ids.shape[-1]
    if position_ids is None:
        check_ids(Room(0, places), shape)
    else:
        check_positions(position_ids.shape, shape)
        if can_look(position_ids) and position_ids.numel() and may_skip(table):
            check_position_range(Room(0, table.num_embeddings), *(int(v) for v in position_ids.aminmax()))
    if input_ids is not None and can_look(input_ids) and input_ids.numel() and may_skip(tokens):
        check_id_range(Room(tokens.num_embeddings, places), *(int(v) for v in input_ids.aminmax()))


def check_visible(attention_mask: Tensor | None, x: Tensor) -> None:
    """Check `attention_mask` [B, S] against the tokens x [B, S, D]."""
    if attention_mask is not None and isinstance(attention_mask, Tensor):
        check_mask(attention_mask.shape, x.shape[:2])


def check_image(embeddings: Any, pixel_values: Tensor | None, interpolate: bool) -> None:
    """Check for pixels of the module's size or, if the positions were replaced, of as many patches as positions."""
    check_tensors(pixel_values=pixel_values)
    if isinstance(pixel_values, torch.fx.Proxy):
        return
    shape, conv = None if pixel_values is None else pixel_values.shape, embeddings.patch_embedding
    if not isinstance(conv, nn.Conv2d):  # somebody's own takes what it takes
        if shape is None:
            check_pixels(embeddings.config, None)
        return
    places, stride = embeddings.position_ids.shape[-1], conv.stride[0]
    own = (embeddings.image_size // stride) ** 2 + 1 == places
    if own or interpolate or shape is None or len(shape) != 4:
        check_pixels(Pictures(conv.in_channels, embeddings.image_size, stride), shape, interpolate)
    elif (found := math.prod(size // stride for size in shape[2:])) != places - 1:
        raise InputError(f"pixel_values: wanted as many patches as there are positions, {places - 1}, found {found}")


def check_chosen(patches: Tensor, batch: int, count: int) -> None:
    """As `check_tokens`, for chosen patches."""
    check_integers("patches", _name(patches))
    check_patches(patches.shape, batch)
    if can_look(patches) and patches.numel():
        check_patch_range(count, *(int(v) for v in patches.aminmax()))


def check_tensors(**inputs: Any) -> None:
    for name, value in inputs.items():
        if value is not None and not isinstance(value, Tensor | torch.fx.Proxy):
            raise TypeError(f"{name}: wanted a torch.Tensor, found {type(value).__name__}")


def can_look(x: Any) -> bool:
    """Whether values can be read without a device synchronisation, a broken graph or a failing transform."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    hidden = torch._C._functorch.is_functorch_wrapped_tensor(x) or torch._C._len_torch_dispatch_stack() > 0
    return x.device.type == "cpu" and not hidden


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
