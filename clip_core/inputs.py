"""Flags and input checks of every forward pass.

The checks need only shapes and, if a backend has them at no cost, the lowest and highest id, so that their messages
are the same in every framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import InputError


class Flags(NamedTuple):
    """The three output flags, resolved against the config."""

    attentions: bool
    hidden_states: bool
    return_dict: bool


def resolve_flags(
    config: Any, output_attentions: bool | None, output_hidden_states: bool | None, return_dict: bool | None
) -> Flags:
    """The flags of a call; None means the config's value."""
    return Flags(
        config.output_attentions if output_attentions is None else output_attentions,
        config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        config.use_return_dict if return_dict is None else return_dict,
    )


def encoder_flags(flags: Flags) -> dict[str, bool]:
    """The keywords by which a tower calls its encoder, whose outputs it takes by name."""
    return {"output_attentions": flags.attentions, "output_hidden_states": flags.hidden_states, "return_dict": True}


def check_ids(config: Any, shape: Sequence[int] | None) -> None:
    """Check that `input_ids` are given, [batch, sequence], and no longer than the model has positions."""
    if shape is None:
        raise InputError("input_ids: wanted [batch, sequence] token ids, found None")
    if len(shape) < 1 or shape[-1] == 0:
        raise InputError(f"input_ids: wanted [batch, sequence] with at least one token, found shape {tuple(shape)}")
    limit = config.max_position_embeddings
    if shape[-1] is not None and shape[-1] > limit:
        raise InputError(
            f"input_ids: wanted at most {limit} tokens (max_position_embeddings), found {shape[-1]}: "
            f"tokenize with truncation=True, max_length={limit}"
        )


def check_id_range(config: Any, lowest: int, highest: int) -> None:
    """Check that `input_ids` are inside the vocabulary."""
    if lowest < 0 or highest >= config.vocab_size:
        found = lowest if lowest < 0 else highest
        raise InputError(f"input_ids: wanted ids from 0 to {config.vocab_size - 1} (vocab_size), found {found}")


def check_integers(name: str, dtype: str) -> None:
    """Check that ids or positions have an integer dtype, given by name."""
    if "int" not in dtype:
        raise InputError(f"{name}: wanted integers, found {dtype}")


def check_positions(shape: Sequence[int], ids_shape: Sequence[int]) -> None:
    """Check that `position_ids` are one row for every text, or one for all."""
    batch, length = ids_shape
    if tuple(shape) not in ((batch, length), (1, length), (length,)):
        raise InputError(f"position_ids: wanted the shape {(batch, length)} or {(1, length)}, found {tuple(shape)}")


def check_position_range(config: Any, lowest: int, highest: int) -> None:
    """Check that `position_ids` are inside the table of positions."""
    limit = config.max_position_embeddings
    if lowest < 0 or highest >= limit:
        found = lowest if lowest < 0 else highest
        raise InputError(f"position_ids: wanted 0 to {limit - 1} (max_position_embeddings), found {found}")


def check_pairs(texts: int, images: int) -> None:
    """Check that `return_loss` has as many texts as images."""
    if texts != images:
        raise InputError(f"return_loss: wanted as many texts as images, found {texts} texts and {images} images")


def check_mask(shape: Sequence[int], ids_shape: Sequence[int]) -> None:
    """Check that `attention_mask` has the shape of `input_ids`."""
    if tuple(shape) != tuple(ids_shape):
        raise InputError(f"attention_mask: wanted the shape of input_ids {tuple(ids_shape)}, found {tuple(shape)}")


def check_pixels(config: Any, shape: Sequence[int] | None, interpolate: bool = False) -> None:
    """Check that `pixel_values` are [batch, channels, height, width], of the config's size unless interpolating."""
    if shape is None:
        raise InputError("pixel_values: wanted [batch, channels, height, width] pixels, found None")
    size = config.image_size
    wanted = (
        f"[batch, {config.num_channels}, >= {config.patch_size}, >= {config.patch_size}]"
        if interpolate
        else f"[batch, {config.num_channels}, {size}, {size}]"
    )
    fits = len(shape) == 4 and shape[1] == config.num_channels
    if fits and interpolate:
        fits = min(shape[2], shape[3]) >= config.patch_size
    elif fits:
        fits = tuple(shape[2:]) == (size, size)
    if not fits:
        other_size = not interpolate and len(shape) == 4 and shape[1] == config.num_channels
        hint = ": for other sizes pass interpolate_pos_encoding=True" if other_size else ""
        raise InputError(f"pixel_values: wanted {wanted}, found {tuple(shape)}{hint}")


def check_patches(shape: Sequence[int], batch: int) -> None:
    """Check that `patches` are one row of patch numbers for every picture."""
    if len(shape) != 2 or shape[0] != batch:
        raise InputError(f"patches: wanted [batch, chosen] for {batch} pictures, found {tuple(shape)}")


def check_patch_range(count: int, lowest: int, highest: int) -> None:
    """Check that `patches` are inside the grid."""
    if lowest < 0 or highest >= count:
        found = lowest if lowest < 0 else highest
        raise InputError(f"patches: wanted patches from 0 to {count - 1}, found {found}")
