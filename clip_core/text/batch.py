"""What calling a tokenizer returns: a BatchEncoding that can also tell which token came from where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from clip_core.batch import BatchEncoding
from clip_core.text.encoding import Encoding


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (excluded)."""

    start: int
    end: int


class CharSpan(NamedTuple):
    """Characters `start` to `end` (excluded)."""

    start: int
    end: int


class TextBatch(BatchEncoding):
    """`input_ids`, `attention_mask` and what else was asked for, as a mapping with attribute access.

    From a fast tokenizer it also answers by token: `tokens()`, `word_ids()`, `sequence_ids()`, `char_to_token()`, …
    These are computed when first asked for. They are not pickled.

    Args:
        data: the values by name.
        encodings: makes the list of Encodings, one per row; None for a slow tokenizer.
        tensor_type: "np", "pt", "tf" or "jax" converts every value.
        prepend_batch_axis: give every value a leading axis of 1 before converting.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Callable[[], list[Encoding]] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
    ) -> None:
        self._make_encodings = encodings
        self._made_encodings: list[Encoding] | None = None
        data = dict(data or {})
        if prepend_batch_axis and tensor_type is not None:
            data = {name: [value] for name, value in data.items()}
        if getattr(tensor_type, "value", tensor_type) in ("np", "numpy"):
            data = {name: _ragged(value) for name, value in data.items()}
        super().__init__(data, tensor_type)

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "_make_encodings": None, "_made_encodings": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if self.is_fast:
            return self._encodings()[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.data.items()}
        raise KeyError(f"{key!r}: wanted a name, or a slice of rows (row numbers work with a fast tokenizer only)")

    def first_row(self) -> TextBatch:
        """The first row's values without the leading axis."""
        return TextBatch({name: rows[0] for name, rows in self.data.items()}, self._make_encodings)

    @property
    def is_fast(self) -> bool:
        """Whether a fast tokenizer made it, so that questions by token can be answered."""
        return self._make_encodings is not None

    @property
    def encodings(self) -> list[Encoding] | None:
        """One Encoding per row; None from a slow tokenizer."""
        return self._encodings() if self.is_fast else None

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs, None from a slow tokenizer."""
        return self._encodings()[0].n_sequences if self.is_fast and self._encodings() else None

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
    """Rows of unequal length as an array of arrays, as transformers does for NumPy alone; anything else as it is."""
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows) or len({*map(len, rows)}) <= 1:
        return rows
    found = np.empty(len(rows), dtype=object)
    found[:] = [np.asarray(row) for row in rows]
    return found
