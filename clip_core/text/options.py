"""The arguments of a tokenizer's call, checked and resolved once."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

from clip_core.errors import InputError

logger = logging.getLogger("clip_core.tokenizer")

NO_LIMIT = int(1e30)  # `model_max_length` of a tokenizer that knows no limit
_LARGE = int(1e20)
PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("only_first", "only_second", "longest_first", "do_not_truncate")
SIDES = ("right", "left")


class InputTypeError(InputError, TypeError):
    """An argument of the wrong type. Also a ValueError: that is what transformers raises for texts."""


@dataclass(frozen=True)
class Options:
    """See `TokenizerBase.__call__` for what each means."""

    add_special_tokens: bool = True
    padding: str = "do_not_pad"
    truncation: str = "do_not_truncate"
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: str = "right"
    return_tensors: Any = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True

    @property
    def pads(self) -> bool:
        """Whether rows get filled up."""
        return self.padding != "do_not_pad"

    @property
    def truncates(self) -> bool:
        """Whether rows get cut."""
        return self.truncation != "do_not_truncate"


def checked_side(name: str, side: Any) -> str:
    """ "right" or "left", else ValueError."""
    if side not in SIDES:
        raise InputError(f"{name}: wanted 'right' or 'left', found {side!r}")
    return side


def checked_limit(name: str, value: Any) -> int:
    """A `model_max_length` as an integer of 1 or more; None and infinity are "no limit"."""
    if value is None or value == float("inf"):
        return NO_LIMIT
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"{name}: wanted a number, found {type(value).__name__} ({value!r})")
    if not value >= 1:
        raise InputError(f"{name}: wanted 1 or more, found {value}")
    return int(value)


def checked_names(name: str, value: Any) -> list[str]:
    """A list of strings."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise InputTypeError(f"{name}: wanted a list of strings, found {value!r}")
    return list(value)


def checked_text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise InputTypeError(f"{name}: wanted a string, found {type(value).__name__} ({value!r})")
    return value


def _checked_number(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        number = value.__index__()  # NumPy's integers are as good as Python's
    except AttributeError:
        raise InputTypeError(f"{name}: wanted an integer, found {type(value).__name__} ({value!r})") from None
    if number < 0:
        raise InputError(f"{name}: wanted 0 or more, found {number}")
    return number


def _choice(name: str, value: Any, true: str, false: str, choices: tuple[str, ...]) -> str:
    value = getattr(value, "value", value)
    if value is True:
        return true
    if value is False or value is None:
        return false
    if value not in choices:
        raise InputError(f"{name}: wanted True, False or one of {', '.join(map(repr, choices))}, found {value!r}")
    return value


def resolve(tokenizer: Any, padding: Any = False, truncation: Any = None, **given: Any) -> Options:
    """Options from a call's arguments, with the tokenizer's defaults and transformers' warnings filled in.

    Raises InputError (a ValueError) for a value that can't be, TypeError for a type that can't be.
    """
    verbose = given.get("verbose", True)
    max_length = _checked_number("max_length", given.pop("max_length", None))
    multiple = _checked_number("pad_to_multiple_of", given.pop("pad_to_multiple_of", None)) or None
    stride = _checked_number("stride", given.pop("stride", 0)) or 0
    side = checked_side("padding_side", given.pop("padding_side", None) or tokenizer.padding_side)
    if max_length is not None and padding is False and truncation is None:
        tokenizer._warn_once(
            verbose,
            "Truncation was not explicitly activated but `max_length` is provided a specific value: use "
            "`truncation=True` to truncate to max length explicitly. Defaulting to 'longest_first'.",
        )
        truncation = "longest_first"
    pads = _choice("padding", padding, "longest", "do_not_pad", PADDINGS)
    cuts = _choice("truncation", truncation, "longest_first", "do_not_truncate", TRUNCATIONS)
    if padding is True and max_length is not None and cuts == "do_not_truncate" and verbose:
        warnings.warn("`max_length` is ignored when `padding=True` and nothing is truncated: use padding='max_length'")
    pads, cuts, max_length = _with_model_limit(tokenizer, pads, cuts, max_length, verbose)
    if pads != "do_not_pad" and tokenizer.pad_token is None:
        raise InputError("padding: needs a pad_token; set one, e.g. tokenizer.pad_token = tokenizer.eos_token")
    if pads != "do_not_pad" and cuts != "do_not_truncate" and multiple and max_length and max_length % multiple:
        raise InputError(f"max_length: wanted a multiple of pad_to_multiple_of ({multiple}), found {max_length}")
    return Options(
        padding=pads,
        truncation=cuts,
        max_length=max_length,
        stride=stride,
        pad_to_multiple_of=multiple,
        padding_side=side,
        **given,
    )


def _with_model_limit(
    tokenizer: Any, pads: str, cuts: str, max_length: int | None, verbose: bool
) -> tuple[str, str, int | None]:
    """`model_max_length` where no `max_length` was given; where there is no limit, no padding or truncation to it."""
    if max_length is not None:
        return pads, cuts, max_length
    unlimited = tokenizer.model_max_length > _LARGE
    if pads == "max_length":
        if unlimited:
            tokenizer._warn_once(verbose, "Asking to pad to max_length but there is no maximum length: no padding.")
            pads = "do_not_pad"
        else:
            max_length = tokenizer.model_max_length
    if cuts != "do_not_truncate":
        if unlimited:
            tokenizer._warn_once(verbose, "Asking to truncate but there is no maximum length: no truncation.")
            cuts = "do_not_truncate"
        else:
            max_length = tokenizer.model_max_length
    return pads, cuts, max_length
