"""What a tokenizer, an image processor or a processor returns, and its tensor conversion.

`BatchEncoding` and `BatchFeature` are `collections.UserDict`s, as in v4.37: they copy, merge (`|`) and are recognised
as such.
A framework is imported here only when `return_tensors` asks for it by name.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .errors import InputError


def _torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _tensorflow(array: np.ndarray) -> Any:
    import tensorflow as tf

    # Ids and masks are int32 in TensorFlow, as they are from transformers.
    return tf.constant(array.astype(np.int32) if array.dtype == np.int64 else array)


def _jax(array: np.ndarray) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(array)


_CONVERTERS: dict[str, Callable[[np.ndarray], Any]] = {
    "np": lambda array: array,
    "numpy": lambda array: array,
    "pt": _torch,
    "torch": _torch,
    "tf": _tensorflow,
    "jax": _jax,
}


def to_tensor(array: np.ndarray, return_tensors: Any) -> Any:
    """One NumPy array as the tensor type that `return_tensors` names.

    Accepts "np", "pt", "tf", "jax", or an enum whose `value` is one of them (transformers' TensorType).
    Raises ValueError for another name, ImportError when that framework is not installed.
    """
    name = getattr(return_tensors, "value", return_tensors)
    if name not in _CONVERTERS:
        raise ValueError(f"return_tensors: wanted one of 'np', 'pt', 'tf', 'jax', found {return_tensors!r}")
    try:
        return _CONVERTERS[name](array)
    except ModuleNotFoundError as error:
        extra = {"pt": "torch", "torch": "torch", "tf": "tf", "jax": "flax"}[name]
        raise ImportError(
            f"return_tensors={name!r} needs {error.name}, which is not installed: pip install 'triclip[{extra}]'"
        ) from error


def stack(name: str, rows: Any) -> np.ndarray:
    """A list of equally long rows as one array (integers as int64, the type of ids in the documented API)."""
    if isinstance(rows, np.ndarray):
        return rows
    if hasattr(rows, "__array__"):  # a tensor of any framework
        return np.asarray(rows)
    try:
        array = np.asarray(rows)
    except ValueError:
        array = np.asarray(None, dtype=object)
    if array.dtype == object:
        raise ValueError(
            f"{name}: rows differ in length, so they make no tensor: ask for padding=True (and truncation=True)"
        )
    return array.astype(np.int64) if array.dtype.kind == "i" else array


class _Batch(UserDict):
    """Values by name, with attribute access."""

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: Any = None) -> None:
        self.data: dict[str, Any] = dict(data or {})
        self.convert_to_tensors(tensor_type)

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> Any:
        """Convert every value in place; None changes nothing.

        Args:
            tensor_type: "np", "pt", "tf", "jax", or an enum with such a value.
            prepend_batch_axis: give every value a leading axis of 1.

        Raises ValueError on rows of unequal length; for "np" they become an array of arrays, as in v4.37.
        """
        kind = getattr(tensor_type, "value", tensor_type)
        for name, value in self.data.items() if kind is not None else ():
            if prepend_batch_axis:
                value = [value]
            elif _is_tensor(value, kind):
                continue
            if kind in ("np", "numpy"):
                value = _ragged(value)
            self.data[name] = to_tensor(stack(name, value), kind)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move tensors and cast floating-point ones, as `torch.Tensor.to` does; values without a `to` are unchanged.

        Ids and masks keep their dtype.
        """
        self.data = {name: _moved(value, args, kwargs) for name, value in self.data.items()}
        return self

    def __getattr__(self, name: str) -> Any:
        # `data` itself is absent while unpickling or copying; asking for it must not recurse.
        if name != "data" and name in self.data:
            return self.data[name]
        raise AttributeError(
            f"{type(self).__name__} has no {name!r}; it holds {', '.join(self.__dict__.get('data', ()))}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __contains__(self, key: object) -> bool:
        return key in self.data

    # The dict's own views: they follow changes of the batch, without UserDict's slower ones.
    def keys(self) -> Any:
        """The names."""
        return self.data.keys()

    def values(self) -> Any:
        """The values."""
        return self.data.values()

    def items(self) -> Any:
        """(name, value) pairs."""
        return self.data.items()


class BatchFeature(_Batch):
    """What an image processor returns: `pixel_values`, as a mapping with attribute access.

    Args:
        data: the values by name.
        tensor_type: "np", "pt", "tf" or "jax" converts every value; None leaves them as they are.
    """

    def __getitem__(self, key: str) -> Any:
        if not isinstance(key, str):
            raise KeyError(f"{key!r}: wanted a name, one of {', '.join(self.data)}")
        return self.data[key]


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (excluded)."""

    start: int
    end: int


class CharSpan(NamedTuple):
    """Characters `start` to `end` (excluded)."""

    start: int
    end: int


class BatchEncoding(_Batch):
    """What a tokenizer or a processor returns: `input_ids`, `attention_mask`, …, as a mapping with attribute access.

    From a fast tokenizer it also answers by token: `tokens()`, `word_ids()`, `sequence_ids()`, `char_to_token()`, …
    These are computed when first asked for. They are not pickled.

    Args:
        data: the values by name.
        encoding: one Encoding or a list of them, one for each row; or a function that makes the list when first
            asked; None for a slow tokenizer.
        tensor_type: "np", "pt", "tf" or "jax" converts every value; None leaves them as they are.
        prepend_batch_axis: give every value a leading axis of 1 before converting.
        n_sequences: value of the property of that name; default: derived from the encodings.
    """

    _make_encodings: Callable[[], list[Encoding]] | None = None
    _made_encodings: list[Encoding] | None = None
    _n_sequences: int | None = None

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Any = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        if encoding is not None and not callable(encoding):
            made = list(encoding) if isinstance(encoding, (list, tuple)) else [encoding]
            encoding = lambda: made  # noqa: E731
        self._make_encodings = encoding
        self._n_sequences = n_sequences
        self.data = dict(data or {})
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __deepcopy__(self, memo: dict) -> BatchEncoding:
        twin = copy.copy(self)
        twin.data = copy.deepcopy(self.data, memo)
        return twin

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if self.is_fast:
            return self._encodings()[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.data.items()}
        raise KeyError(f"{key!r}: wanted a name, or a slice of rows (row numbers work with a fast tokenizer only)")

    def first_row(self) -> BatchEncoding:
        """The first row's values without the leading axis."""
        return BatchEncoding({name: rows[0] for name, rows in self.data.items()}, self._make_encodings)

    @property
    def is_fast(self) -> bool:
        """Whether a fast tokenizer made it; only then do the methods by token work."""
        return self._make_encodings is not None

    @property
    def encodings(self) -> list[Encoding] | None:
        """One Encoding for each row; None from a slow tokenizer."""
        return self._encodings() if self.is_fast else None

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs; None from a slow tokenizer, unless given to the constructor."""
        if self._n_sequences is None and self.is_fast and self._encodings():
            return self._encodings()[0].n_sequences
        return self._n_sequences

    def _encodings(self) -> list[Encoding]:
        if self._make_encodings is None:
            raise ValueError("questions by token, word or character need a fast tokenizer (CLIPTokenizerFast)")
        if self._made_encodings is None:
            self._made_encodings = self._make_encodings()
        return self._made_encodings

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The text of every token of a row."""
        return self._encodings()[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The index of the word each token of a row is from; None for special tokens."""
        return self._encodings()[batch_index].word_ids

    words = word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 or 1 per token of a row: of the first text or of its pair; None for special tokens."""
        return self._encodings()[batch_index].sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Which text a token is from."""
        row, index = self._locate(batch_or_token_index, token_index)
        return row.sequence_ids[index]

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Which word a token is from."""
        row, index = self._locate(batch_or_token_index, token_index)
        return row.word_ids[index]

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters a token covers; None for special tokens."""
        row, index = self._locate(batch_or_token_index, token_index)
        return CharSpan(*row.offsets[index]) if row.sequence_ids[index] is not None else None

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word; None when it has none."""
        row, index = self._locate(batch_or_word_index, word_index)
        found = [
            i
            for i, (word, sequence) in enumerate(zip(row.word_ids, row.sequence_ids, strict=True))
            if word == index and sequence == sequence_index
        ]
        return TokenSpan(found[0], found[-1] + 1) if found else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; None when it has none."""
        span = self.word_to_tokens(batch_or_word_index, word_index, sequence_index)
        row, _ = self._locate(batch_or_word_index, word_index)
        return CharSpan(row.offsets[span.start][0], row.offsets[span.end - 1][1]) if span else None

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that covers a character; None when none does."""
        row, char = self._locate(batch_or_char_index, char_index)
        for i, ((start, end), sequence) in enumerate(zip(row.offsets, row.sequence_ids, strict=True)):
            if sequence == sequence_index and start <= char < end:
                return i
        return None

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that covers a character; None when none does."""
        token = self.char_to_token(batch_or_char_index, char_index, sequence_index)
        row, _ = self._locate(batch_or_char_index, char_index)
        return row.word_ids[token] if token is not None else None

    def _locate(self, batch_or_index: int, index: int | None) -> tuple[Encoding, int]:
        """(row, index within it) from one number (row 0) or two."""
        row, position = (0, batch_or_index) if index is None else (batch_or_index, index)
        return self._encodings()[row], position


def _ragged(rows: Any) -> Any:
    """Rows of unequal length as an array of arrays, as in transformers for NumPy only; anything else unchanged."""
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows) or len({*map(len, rows)}) <= 1:
        return rows
    found = np.empty(len(rows), dtype=object)
    found[:] = [np.asarray(row) for row in rows]
    return found


def _is_tensor(value: Any, kind: str) -> bool:
    """Whether a value is already a tensor of that framework."""
    module = type(value).__module__.split(".")[0]
    if isinstance(value, np.ndarray):
        return kind in ("np", "numpy")
    return hasattr(value, "shape") and {"torch": "pt", "tensorflow": "tf", "jax": "jax", "jaxlib": "jax"}.get(
        module
    ) == {"torch": "pt"}.get(kind, kind)


def _moved(value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """`value.to(*args, **kwargs)`; for a tensor that isn't floating-point without the dtype."""
    if not hasattr(value, "to"):
        return value
    is_floating = getattr(value, "is_floating_point", None)
    if not callable(is_floating) or is_floating():
        return value.to(*args, **kwargs)
    place = dict(kwargs)
    place.pop("dtype", None)
    if (other := place.pop("other", None)) is not None:
        place["device"] = other.device
    flags = ["non_blocking", "copy"]
    for arg in args:
        if isinstance(arg, bool):
            place[flags.pop(0)] = arg
        elif hasattr(arg, "device"):  # a tensor stands for its device and dtype
            place["device"] = arg.device
        elif arg is not None and type(arg).__name__ != "dtype":
            place["device"] = arg
    return value.to(**place) if place else value


# -- one text of a fast tokenizer --------------------------------------------------------------------------------------

_COLUMNS = ("ids", "type_ids", "tokens", "word_ids", "offsets", "special_tokens_mask", "attention_mask", "sequence_ids")


@dataclass
class Encoding:
    """The tokens of one text (or of one window of it), a list per property, as in the library `tokenizers` (0.15.2).

    Args:
        ids: token ids.
        type_ids: zeros: CLIP has no segments.
        tokens: the tokens' text.
        word_ids: index of the word (or piece of text) each token is from; None for special tokens.
        offsets: (start, end) in characters of the text as it was given; (0, 0) for special tokens.
        special_tokens_mask: 1 for special tokens and padding.
        attention_mask: 0 for padding.
        sequence_ids: 0 for the first text, 1 for its pair, None for special tokens.
        overflowing: the further windows, when truncation cut something off.
    """

    ids: list[int] = field(default_factory=list)
    type_ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    word_ids: list[int | None] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    special_tokens_mask: list[int] = field(default_factory=list)
    attention_mask: list[int] = field(default_factory=list)
    sequence_ids: list[int | None] = field(default_factory=list)
    overflowing: list[Encoding] = field(default_factory=list)

    @classmethod
    def of(cls, ids: list[int], tokens: list[str], word_ids: list, offsets: list, sequence: int | None) -> Encoding:
        """Plain tokens of the text number `sequence`; None marks special tokens."""
        special = int(sequence is None)
        n = len(ids)
        return cls(ids, [0] * n, tokens, word_ids, offsets, [special] * n, [1] * n, [sequence] * n)

    @classmethod
    def special(cls, token: str, token_id: int) -> Encoding:
        """One special token."""
        return cls.of([token_id], [token], [None], [(0, 0)], None)

    @classmethod
    def padding(cls, token: str, token_id: int) -> Encoding:
        """One padding token."""
        return replace(cls.special(token, token_id), attention_mask=[0])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_sequences(self) -> int:
        """1, or 2 for a pair."""
        return 1 + (1 in self.sequence_ids)

    def columns(self) -> Iterator[tuple[str, list]]:
        """Every property as (name, list)."""
        return ((name, getattr(self, name)) for name in _COLUMNS)

    def without_type(self, windows: bool) -> Encoding:
        """A copy with zeros for `type_ids`, in the windows too if `windows`."""
        overflowing = [window.without_type(True) for window in self.overflowing] if windows else self.overflowing
        return replace(self, type_ids=[0] * len(self), overflowing=overflowing)

    def window(self, start: int, stop: int) -> Encoding:
        """The tokens from `start` to `stop`."""
        return Encoding(**{name: column[start:stop] for name, column in self.columns()})

    def __add__(self, other: Encoding) -> Encoding:
        """Concatenation. Windows combine: each of `self` with each of `other`."""
        joined = Encoding(**{name: column + getattr(other, name) for name, column in self.columns()})
        for mine in self.overflowing:
            joined.overflowing += [mine + o for o in (replace(other, overflowing=[]), *other.overflowing)]
        joined.overflowing += [replace(self, overflowing=[]) + window for window in other.overflowing]
        return joined

    def truncated(self, length: int, stride: int, side: str) -> Encoding:
        """The first `length` tokens; the rest as `overflowing` windows that share `stride` tokens.

        Raises InputError when the stride is not below the length.
        """
        if length >= len(self):
            return self
        if length == 0:
            return Encoding(overflowing=[replace(self, overflowing=[])])
        if stride >= length:
            raise InputError(f"stride: wanted less than the {length} tokens beside special ones, found {stride}")
        windows: list[Encoding] = []
        for position in range(0, len(self), length - stride):
            if side == "right":
                start, stop = position, min(position + length, len(self))
                last = stop == len(self)
            else:
                stop = len(self) - position
                start = max(stop - length, 0)
                last = start == 0
            windows.append(self.window(start, stop))
            if last:
                break
        return replace(windows[0], overflowing=windows[1:])

    def padded(self, length: int, pad: Encoding, side: str) -> Encoding:
        """Padded to `length` with copies of the one-token `pad`, windows too."""
        overflowing = [window.padded(length, pad, side) for window in self.overflowing]
        missing = length - len(self)
        if missing <= 0:
            return replace(self, overflowing=overflowing)
        columns = {}
        for name, column in self.columns():
            filling = getattr(pad, name) * missing
            columns[name] = column + filling if side == "right" else filling + column
        return Encoding(**columns, overflowing=overflowing)
