"""Options of a call, checked once; truncation and padding of rows.

Truncation and padding are the slow tokenizer's, written in Python in transformers; the fast kind uses parts of them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clip_core.batch import Encoding
from clip_core.errors import InputError

logger = logging.getLogger("clip_core.text.tokenizer")

NO_LIMIT = int(1e30)  # `model_max_length` of a tokenizer without a limit
_LARGE = int(1e20)
PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("only_first", "only_second", "longest_first", "do_not_truncate")
SIDES = ("right", "left")


class InputTypeError(InputError, TypeError):
    """An argument of the wrong type; also a ValueError, which transformers raises for texts."""


@dataclass(frozen=True)
class Options:
    """The options of a call; see `TokenizerBase.__call__`."""

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
    split_special_tokens: bool = False
    verbose: bool = True

    @property
    def pads(self) -> bool:
        """Whether rows are padded."""
        return self.padding != "do_not_pad"

    @property
    def truncates(self) -> bool:
        """Whether rows are truncated."""
        return self.truncation != "do_not_truncate"


def checked_side(name: str, side: Any) -> str:
    """The side, "right" or "left"; raises ValueError for others."""
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
        number = value.__index__()  # accepts NumPy's integers
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


def check_texts(name: str, value: Any) -> None:
    """Raise unless `value` is a string, a list of strings, or a list of lists of strings."""
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    inner = first[0] if isinstance(first, (list, tuple)) and first else ""
    if not isinstance(value, (str, list, tuple)) or not isinstance(first, (str, list, tuple, type(None))):
        found = type(value).__name__ if not isinstance(value, (list, tuple)) else f"a list of {type(first).__name__}"
        raise InputTypeError(f"{name}: wanted a string or a list of strings, found {found}")
    if isinstance(value, (list, tuple)) and value and first is None:
        raise InputTypeError(f"{name}: wanted a string or a list of strings, found a list with None in it")
    if not isinstance(inner, str):
        raise InputTypeError(f"{name}: wanted lists of strings, found a list of {type(inner).__name__}")


class Defaults(Protocol):
    """The attributes of a tokenizer that `resolve` uses."""

    is_fast: bool
    padding_side: str
    model_max_length: int
    split_special_tokens: bool
    pad_token: Any

    def _warn_once(self, verbose: bool, key: str, message: str) -> None: ...

    def _unknown_keywords(self, names: Mapping[str, Any]) -> None: ...


def resolve(tokenizer: Defaults, padding: Any, truncation: Any, further: Mapping[str, Any], /, **given: Any) -> Options:
    """Options from a call's arguments, with the tokenizer's defaults and v4.37's warnings filled in.

    Args:
        further: the call's other keywords: `padding_side`; `pad_to_max_length` and `truncation_strategy`, which
            v4.37 deprecates; for a slow tokenizer `split_special_tokens`. Others go to the tokenizer's
            `_unknown_keywords`.

    Raises InputError (a ValueError) for an invalid value, TypeError for an invalid type.
    """
    further = dict(further)
    verbose = given.get("verbose", True)
    max_length = _checked_number("max_length", given.pop("max_length", None))
    multiple = _checked_number("pad_to_multiple_of", given.pop("pad_to_multiple_of", None)) or None
    stride = _checked_number("stride", given.pop("stride", 0)) or 0
    side = checked_side("padding_side", further.pop("padding_side", None) or tokenizer.padding_side)
    old = (further.pop("pad_to_max_length", False), further.pop("truncation_strategy", "do_not_truncate"))
    split = tokenizer.split_special_tokens
    if not tokenizer.is_fast:
        split = further.pop("split_special_tokens", split)
    if further:
        tokenizer._unknown_keywords(further)
    if max_length is not None and padding is False and truncation is None:
        tokenizer._warn_once(
            verbose,
            "Truncation-not-explicitly-activated",
            "Truncation was not explicitly activated but `max_length` is provided a specific value: use "
            "`truncation=True` to truncate to max length explicitly. Defaulting to 'longest_first'.",
        )
        truncation = "longest_first"
    padding, truncation = _with_old_names(padding, truncation, max_length, *old, verbose)
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
        split_special_tokens=bool(split),
        **given,
    )


def _with_old_names(
    padding: Any, truncation: Any, max_length: int | None, pad_to_max_length: Any, strategy: Any, verbose: bool
) -> tuple[Any, Any]:
    """`padding` and `truncation`, from the deprecated names of v4.37 if the new ones aren't given."""
    if padding is False and pad_to_max_length:
        if verbose:
            warnings.warn("pad_to_max_length is deprecated: use padding='max_length'", FutureWarning)
        padding = "longest" if max_length is None else "max_length"
    elif padding is True and pad_to_max_length and verbose:
        warnings.warn("pad_to_max_length=True is ignored because padding=True")
    if truncation is None and getattr(strategy, "value", strategy) != "do_not_truncate":
        if verbose:
            warnings.warn("truncation_strategy is deprecated: use truncation", FutureWarning)
        truncation = strategy
    return padding, truncation


def _with_model_limit(
    tokenizer: Defaults, pads: str, cuts: str, max_length: int | None, verbose: bool
) -> tuple[str, str, int | None]:
    """Use `model_max_length` without a `max_length`; a tokenizer without a limit neither pads nor truncates to it."""
    if max_length is not None:
        return pads, cuts, max_length
    unlimited = tokenizer.model_max_length > _LARGE
    if pads == "max_length":
        if unlimited:
            message = "Asking to pad to max_length but there is no maximum length: no padding."
            tokenizer._warn_once(verbose, "Asking-to-pad-to-max_length", message)
            pads = "do_not_pad"
        else:
            max_length = tokenizer.model_max_length
    if cuts != "do_not_truncate":
        if unlimited:
            message = "Asking to truncate but there is no maximum length: no truncation."
            tokenizer._warn_once(verbose, "Asking-to-truncate-to-max_length", message)
            cuts = "do_not_truncate"
        else:
            max_length = tokenizer.model_max_length
    return pads, cuts, max_length


# ---- padding --------------------------------------------------------------------------------------------------------


def padding_length(lengths: Sequence[int], strategy: str, max_length: int | None, multiple: int | None) -> int | None:
    """The length to pad to, or None for no padding."""
    if strategy == "do_not_pad" or not lengths:
        return None
    length = max(lengths) if strategy == "longest" or max_length is None else max_length
    return -(-length // multiple) * multiple if multiple else length


@dataclass(frozen=True)
class Padder:
    """Pads rows to one length.

    Args:
        main: the name of the ids, which have the row's length (`input_ids`).
        fillings: name -> padding value; other names are not padded.
        side: "right" or "left".
        mask: whether to return `attention_mask`; it is made if missing.
    """

    main: str
    fillings: Mapping[str, int]
    side: str
    mask: bool

    def row(self, row: Mapping[str, Any], length: int | None) -> dict[str, Any]:
        """One row's values, padded to `length` (None: not padded)."""
        padded = dict(row)
        size = len(row[self.main])
        missing = 0 if length is None else max(0, length - size)
        if self.mask and "attention_mask" not in padded:
            padded["attention_mask"] = [1] * size
        for name, filling in self.fillings.items():
            if name in padded and missing and (self.mask or name != "attention_mask"):
                column, extra = list(padded[name]), [filling] * missing
                padded[name] = column + extra if self.side == "right" else extra + column
        return padded

    def rows(self, encoded: Mapping[str, Any], length: int | None) -> dict[str, Any]:
        """`row` for every row of a batch."""
        rows = [
            self.row({name: values[i] for name, values in encoded.items()}, length)
            for i in range(len(encoded[self.main]))
        ]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def batch(
        self, encoded: Mapping[str, Any], strategy: str, max_length: int | None, multiple: int | None
    ) -> dict[str, Any]:
        """One encoding (a list of ids) or a batch of them (a list of such lists), padded by a strategy."""
        ids = encoded[self.main]
        if not ids:
            return {**encoded, "attention_mask": []} if self.mask else dict(encoded)
        if not isinstance(ids[0], (list, tuple)):
            return self.row(encoded, padding_length([len(ids)], strategy, max_length, multiple))
        if any(len(values) != len(ids) for values in encoded.values()):
            sizes = {name: len(values) for name, values in encoded.items()}
            raise InputError(f"encoded_inputs: wanted as many values for each name, found {sizes}")
        return self.rows(encoded, padding_length([len(row) for row in ids], strategy, max_length, multiple))


def as_lists(encoded: Mapping[str, Any], main: str) -> tuple[dict[str, Any], Any]:
    """Values as plain lists, and the `return_tensors` name of the type of `main` (None for lists)."""
    found: dict[str, Any] = {}
    kind = None
    for name, value in encoded.items():
        found[name], this_kind = to_list(value)
        if name == main:
            kind = this_kind
    return found, kind


def to_list(value: Any) -> tuple[Any, str | None]:
    """An array or tensor of any framework, or a list that may contain some, as plain lists; and its kind."""
    if isinstance(value, np.ndarray):
        return value.tolist(), "np"
    if isinstance(value, (list, tuple)):
        items = [to_list(item) for item in value]
        return [item for item, _ in items], items[0][1] if items else None
    if isinstance(value, np.generic):
        return value.item(), "np"
    module = type(value).__module__.split(".")[0]
    if module == "torch":
        return value.detach().cpu().tolist(), "pt"
    if module == "tensorflow":
        return value.numpy().tolist(), "tf"
    if module.startswith("jax"):
        return np.asarray(value).tolist(), "jax"
    return value, None


def collate(rows: Any, main: str) -> dict[str, Any]:
    """A list of encodings as one mapping of lists; a mapping unchanged.

    Raises InputError if `main` is missing, or a row lacks a name of the first row.
    """
    if isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], Mapping):
        try:
            rows = {name: [row[name] for row in rows] for name in rows[0]}
        except KeyError as error:
            raise InputError(f"encoded_inputs: every row needs the same names; one lacks {error}") from error
    if not isinstance(rows, Mapping) or main not in rows:
        found = list(rows) if isinstance(rows, Mapping) else type(rows).__name__
        raise InputError(f"encoded_inputs: wanted encodings with {main!r}, found {found}")
    return dict(rows)


def split_pairs(items: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Items of a batch as (text, pair or None); a list or tuple of two is a pair."""
    pairs: list[tuple[Any, Any]] = []
    for item in items:
        if isinstance(item, (list, tuple)):
            if len(item) != 2:
                raise InputError(f"text: wanted a text or a pair of texts, found {len(item)} items: {item!r}")
            pairs.append((item[0], item[1]))
        else:
            pairs.append((item, None))
    return pairs


# ---- truncation -----------------------------------------------------------------------------------------------------


def truncate(
    ids: list[int], pair_ids: list[int] | None, number: int, strategy: Any, stride: int, side: str
) -> tuple[list[int], list[int] | None, list[int]]:
    """Remove `number` tokens from one text or a pair; see `TokenizerBase.truncate_sequences`."""
    strategy = getattr(strategy, "value", strategy)
    if number <= 0 or strategy == "do_not_truncate":
        return ids, pair_ids, []
    if strategy == "longest_first" and pair_ids is not None:
        return (*_cut_longest(ids, pair_ids, number, side), [])
    if strategy == "only_second":
        if pair_ids is None:
            return ids, None, []
        kept, overflow = _cut(pair_ids, number, stride, side)
        return ids, kept, overflow
    kept, overflow = _cut(ids, number, stride, side)
    return kept, pair_ids, overflow


def _cut(ids: list[int], number: int, stride: int, side: str) -> tuple[list[int], list[int]]:
    if len(ids) <= number:
        logger.error(f"truncation: can't remove {number} tokens from a text of {len(ids)}; it stays as it is")
        return ids, []
    window = min(len(ids), stride + number)
    if side == "left":
        return ids[number:], ids[:window]
    return ids[:-number], ids[-window:]


def _cut_longest(ids: list[int], pair: list[int], number: int, side: str) -> tuple[list[int], list[int]]:
    """Remove tokens from the longer text until both are equally long, then from both in turn."""
    from_longer = min(abs(len(pair) - len(ids)), number)
    half = (number - from_longer) // 2
    rest = number - from_longer - half
    from_first, from_pair = (from_longer + half, rest) if len(ids) > len(pair) else (half, from_longer + rest)
    if side == "left":
        return ids[from_first:], pair[from_pair:]
    return ids[: max(0, len(ids) - from_first)], pair[: max(0, len(pair) - from_pair)]


def check_overflow(pair: Any, options: Options) -> None:
    """Raise InputError for options that the slow kind can't serve."""
    if options.return_token_type_ids and not options.add_special_tokens:
        raise InputError("return_token_type_ids: needs add_special_tokens=True")
    if not options.return_overflowing_tokens:
        return
    if options.truncation == "longest_first" and pair is not None:
        raise InputError(  # v4.37's message, which programs match
            "Not possible to return overflowing tokens for pair of sequences with the `longest_first`. Please select "
            "another truncation strategy than `longest_first`, for instance `only_second` or `only_first`."
        )
    if options.max_length is None:
        raise InputError("return_overflowing_tokens: needs max_length, or truncation with a model_max_length")


def truncate_pair(
    first: Encoding, second: Encoding | None, length: int, strategy: str, stride: int, side: str
) -> tuple[Encoding, Encoding | None]:
    """Truncate both texts to at most `length` tokens together.

    Raises InputError if the strategy's text is missing or has too few tokens to remove.
    """
    total = len(first) + (len(second) if second is not None else 0)
    if total <= length:
        return first, second
    if length == 0:
        return first.truncated(0, stride, side), second.truncated(0, stride, side) if second is not None else None
    if strategy == "longest_first":
        if second is None:
            return first.truncated(length, stride, side), None
        n_first, n_second = _share(len(first), len(second), length)
        return first.truncated(n_first, stride, side), second.truncated(n_second, stride, side)
    target = first if strategy == "only_first" else second
    if target is None:
        raise InputError("truncation='only_second' needs a second text, found none")
    keep = len(target) - (total - length)
    if keep <= 0:
        raise InputError(f"truncation={strategy!r}: that text is too short to give up {total - length} tokens")
    if target is first:
        return first.truncated(keep, stride, side), second
    return first, target.truncated(keep, stride, side)


def _share(n_first: int, n_second: int, length: int) -> tuple[int, int]:
    """The number of tokens that each of two texts keeps: the longer is shortened first, then both equally."""
    short, long = sorted((n_first, n_second))
    long = short if short > length else max(short, length - short)
    if short + long > length:
        short = length // 2
        long = short + length % 2
    return (long, short) if n_first > n_second else (short, long)
