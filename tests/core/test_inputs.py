"""Flags, and inputs that no model accepts."""

from __future__ import annotations

from typing import Any

import pytest

from clip_core import CLIPTextConfig, CLIPVisionConfig, InputError
from clip_core.inputs import (
    Flags,
    check_id_range,
    check_ids,
    check_integers,
    check_mask,
    check_pairs,
    check_pixels,
    check_position_range,
    check_positions,
    resolve_flags,
)
from conformance import cases as data

TEXT = CLIPTextConfig(**data.text())
VISION = CLIPVisionConfig(**data.vision())


@pytest.mark.parametrize("config_value", [False, True])
@pytest.mark.parametrize("argument", [None, False, True])
def test_arguments_win_over_the_config(config_value: bool, argument: bool | None) -> None:
    keys = {"output_attentions": config_value, "output_hidden_states": config_value, "return_dict": config_value}
    wanted = config_value if argument is None else argument
    config = CLIPTextConfig(**data.text(), **keys)
    assert resolve_flags(config, argument, argument, argument) == Flags(wanted, wanted, wanted)


def test_torchscript_means_tuples_unless_asked() -> None:
    config = CLIPTextConfig(**data.text(torchscript=True))
    assert resolve_flags(config, None, None, None).return_dict is False
    assert resolve_flags(config, None, None, True).return_dict is True


@pytest.mark.parametrize("shape", [(1, 1), (4, 11), (2, 3, 5), (7,)])
def test_ids_that_fit(shape: tuple[int, ...]) -> None:
    check_ids(TEXT, shape)


@pytest.mark.parametrize(
    "shape, message",
    [
        (None, "input_ids: wanted [batch, sequence] token ids, found None"),
        ((), "input_ids: wanted [batch, sequence] with at least one token, found shape ()"),
        ((2, 0), "input_ids: wanted [batch, sequence] with at least one token, found shape (2, 0)"),
        (
            (2, 12),
            "input_ids: wanted at most 11 tokens (max_position_embeddings), found 12: "
            "tokenize with truncation=True, max_length=11",
        ),
    ],
)
def test_ids_that_do_not_fit(shape: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        check_ids(TEXT, shape)
    assert str(raised.value) == message
    assert isinstance(raised.value, ValueError)


def test_the_vocabulary() -> None:
    check_id_range(TEXT, 0, 58)
    for low, high, found in ((-1, 5, -1), (0, 59, 59), (-7, 99, -7)):
        with pytest.raises(InputError, match=rf"wanted ids from 0 to 58 \(vocab_size\), found {found}$"):
            check_id_range(TEXT, low, high)


def test_masks_have_the_shape_of_the_ids() -> None:
    check_mask((2, 3), [2, 3])
    with pytest.raises(InputError, match=r"attention_mask: wanted the shape of input_ids \(2, 3\), found \(2, 4\)"):
        check_mask((2, 4), (2, 3))


@pytest.mark.parametrize(
    "shape, message",
    [
        (None, "pixel_values: wanted [batch, channels, height, width] pixels, found None"),
        ((3, 21, 21), "pixel_values: wanted [batch, 3, 21, 21], found (3, 21, 21)"),
        ((1, 21, 21, 3), "pixel_values: wanted [batch, 3, 21, 21], found (1, 21, 21, 3)"),
        (
            (1, 3, 22, 21),
            "pixel_values: wanted [batch, 3, 21, 21], found (1, 3, 22, 21): "
            "for other sizes pass interpolate_pos_encoding=True",
        ),
    ],
)
def test_pixels_that_do_not_fit(shape: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        check_pixels(VISION, shape)
    assert str(raised.value) == message


def test_interpolation_takes_any_size_of_a_patch_at_least() -> None:
    check_pixels(VISION, (1, 3, 8, 300), interpolate=True)
    for shape in ((1, 3, 7, 30), (1, 4, 30, 30)):
        with pytest.raises(InputError, match=r"wanted \[batch, 3, >= 8, >= 8\]"):
            check_pixels(VISION, shape, interpolate=True)


def test_ids_are_integers() -> None:
    for name in ("int32", "int64", "uint8", "uint16"):
        check_integers("input_ids", name)
    for name in ("float32", "bool", "bfloat16"):
        with pytest.raises(InputError, match=f"position_ids: wanted integers, found {name}"):
            check_integers("position_ids", name)


def test_positions() -> None:
    for shape in ((4, 8), (1, 8), (8,)):
        check_positions(shape, (4, 8))
    for shape in ((4, 7), (2, 8), (), (4, 8, 1)):
        with pytest.raises(InputError, match=r"position_ids: wanted the shape \(4, 8\) or \(1, 8\), found"):
            check_positions(shape, (4, 8))
    check_position_range(TEXT, 0, 10)
    for low, high, found in ((-1, 3, -1), (0, 11, 11)):
        with pytest.raises(InputError, match=rf"wanted 0 to 10 \(max_position_embeddings\), found {found}"):
            check_position_range(TEXT, low, high)


def test_a_loss_needs_pairs() -> None:
    check_pairs(3, 3)
    with pytest.raises(InputError, match="return_loss: wanted as many texts as images, found 4 texts and 2 images"):
        check_pairs(4, 2)
