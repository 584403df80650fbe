"""The short way from a list of strings to padded ids, which is what nearly every call asks for.

Pieces never cross white space, so the ids of a simple text are those of the chunks between its spaces, and a chunk
that was seen before costs one look-up. Rows stay packed (int64 in bytes) until they are copied into the batch's array.
A test holds its results equal to the long way's.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from clip_core.text.batch import TextBatch
from clip_core.text.encoding import padding_length
from clip_core.text.options import Options
from clip_core.text.padding import pad_rows

_CHUNK_LIMIT = 500_000  # chunks kept; beyond it new ones are computed each time, so memory stays bounded
_CHUNK_LENGTH = 64  # longer chunks are rarely seen twice
_BLOCK = 64  # texts tested for simplicity at once
_SIZE = 8  # bytes of a packed id

# OpenAI's pattern for text that is ASCII, in lower case and without white space; `re` is faster at it than `regex`.
_ASCII_PIECES = re.compile("'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^a-z0-9]+")


def ascii_pieces(chunk: str) -> list[str]:
    """The pieces of an ASCII chunk in lower case."""
    return [chunk] if chunk.isalpha() else _ASCII_PIECES.findall(chunk)


def pack(ids: Iterable[int]) -> bytes:
    """Ids as bytes."""
    return array("q", ids).tobytes()


class _Chunks(dict):
    """Text between spaces -> its ids, packed; computed when first seen."""

    def __init__(self, encode: Callable[[str], Iterable[int]]) -> None:
        super().__init__()
        self.encode = encode

    def __missing__(self, chunk: str) -> bytes:
        ids = pack(self.encode(chunk))
        if len(chunk) <= _CHUNK_LENGTH and len(self) < _CHUNK_LIMIT:
            self[chunk] = ids
        return ids


class EncodesTexts:
    """Mixin for `TokenizerBase`, whose abstract methods it calls."""

    truncation_side: str

    def _forget(self: Any) -> None:
        """Drop what was derived from the tokens; called whenever they change."""
        self._chunks = _Chunks(self._chunk_ids)
        self._probes = self.added.probes()

    def _holds_no_added_token(self, text: str) -> bool:
        return self._probes is not None and not any(map(text.__contains__, self._probes))

    def _encode_texts(self: Any, texts: Sequence[str], options: Options) -> TextBatch:
        """`input_ids` and `attention_mask` of a list of strings."""
        rows = self._packed_rows(texts)
        keep = self._surely_kept(options)
        if keep is not None:
            rows = [self._cut_row(row, keep * _SIZE) for row in rows]
        if options.add_special_tokens:
            before, after = map(pack, self._around())
            rows = [before + row + after for row in rows]
        lengths = [len(row) // _SIZE for row in rows]
        self._warn_if_long(max(lengths), options)
        length = padding_length(lengths, options.padding, options.max_length, options.pad_to_multiple_of)
        masked = self._wants(options, "attention_mask")
        data: dict[str, Any] = {}
        if options.return_tensors is not None and length is not None and max(lengths) <= length:
            data["input_ids"], mask = pad_packed(rows, length, self.pad_token_id, options.padding_side)
            if masked:
                data["attention_mask"] = mask
        else:
            data = pad_rows({"input_ids": _unpack(rows)}, length, options.padding_side, self._fillings(), masked)
        return TextBatch(data, self._later(texts, options), options.return_tensors)

    def _packed_rows(self: Any, texts: Sequence[str]) -> list[bytes]:
        lookup, is_simple, ids_of = self._chunks.__getitem__, self._is_simple, self._text_ids
        rows: list[bytes] = []
        for i in range(0, len(texts), _BLOCK):
            block = texts[i : i + _BLOCK]
            if is_simple(" ".join(block)):
                rows += [b"".join(map(lookup, text.split())) for text in block]
            else:
                rows += [
                    b"".join(map(lookup, text.split())) if is_simple(text) else pack(ids_of(text)) for text in block
                ]
        return rows

    def _cut_row(self, row: bytes, size: int) -> bytes:
        if len(row) <= size:
            return row
        return row[:size] if self.truncation_side == "right" else row[len(row) - size :]

    def _later(self, texts: Sequence[str], options: Options) -> Callable | None:
        """Makes the Encodings of a batch when they are asked for; None: this kind has none."""
        return None


def _unpack(rows: Sequence[bytes]) -> list[list[int]]:
    ids = np.frombuffer(b"".join(rows), np.int64).tolist()
    ends = np.cumsum([len(row) // _SIZE for row in rows]).tolist()
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def pad_packed(rows: Sequence[bytes], length: int, pad_id: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Packed rows, none longer than `length`, as (ids, attention mask), both int64 [rows, length]."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows)) // _SIZE
    positions = np.arange(length)
    if side == "right":
        inside = positions < lengths[:, None]
    else:
        inside = positions >= (length - lengths)[:, None]
    ids = np.full((len(rows), length), pad_id, np.int64)
    ids[inside] = np.frombuffer(b"".join(rows), np.int64)
    return ids, inside.astype(np.int64)
