"""Byte-level byte-pair encoding: one piece of text in, a tuple of token ids out.

A piece is what the CLIP pattern matched: a word, a digit, a run of punctuation. Its UTF-8 bytes become characters of
the byte alphabet, the last one carries the end-of-word mark, and neighbours are merged by rank.
"""

from __future__ import annotations

import heapq
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from clip_core.errors import InputError

END_OF_WORD = "</w>"

# OpenAI's byte alphabet: printable Latin-1 bytes stand for themselves, the other 68 become U+0100, U+0101, …
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_REMAPPED = [byte for byte in range(256) if byte not in _PRINTABLE]
_TO_ALPHABET = {byte: 256 + i for i, byte in enumerate(_REMAPPED)}
BYTE_TO_CHAR: dict[int, str] = {byte: chr(_TO_ALPHABET.get(byte, byte)) for byte in _PRINTABLE + _REMAPPED}
CHAR_TO_BYTE: dict[str, int] = {char: byte for byte, char in BYTE_TO_CHAR.items()}

_NO_MERGE = 1 << 60
_LONG_WORD = 200  # length from which the heap is faster than scanning; its time is nearly linear in the length
_CACHE_LIMIT = 500_000  # cached words; beyond it new words are computed each time, so memory is bounded


def to_alphabet(text: str) -> str:
    """The UTF-8 bytes of `text`, each as one character of the byte alphabet.

    Raises InputError for a lone surrogate, which has no UTF-8 form.
    """
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    try:
        return text.encode("utf-8").decode("latin-1").translate(_TO_ALPHABET)
    except UnicodeEncodeError as error:
        raise InputError(f"text: holds a lone surrogate, which is no character: {text!r:.80}") from error


class BytePairEncoder:
    """Merges the characters of a word by rank and looks the results up.

    Args:
        vocab: token -> id.
        merges: "left right" per merge, best first, in training order (a part is made before it is used).
        end_of_word: the mark on a word's last character.
        unk_token: the token for unknown characters; None drops them.
        fuse_unk: neighbouring unknown characters give one unknown token.
        whole_words: whether every vocabulary entry that ends a word is also the result of its merges, so that such
            words need no merging. True of OpenAI's vocabulary (a test proves it), not of vocabularies in general.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[str],
        end_of_word: str = END_OF_WORD,
        unk_token: str | None = None,
        fuse_unk: bool = False,
        whole_words: bool = False,
    ) -> None:
        self.vocab = vocab
        self.merges = merges
        self.ranks = dict(zip(merges, range(len(merges)), strict=True))
        self.end_of_word = end_of_word
        self.unk_token = unk_token
        self.fuse_unk = fuse_unk
        self.whole_words = whole_words
        self.whole: dict[str, int] = {}
        self._cache: dict[str, tuple[int, ...]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}, "ranks": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.ranks = dict(zip(self.merges, range(len(self.merges)), strict=True))

    def keep_whole(self, pieces: Mapping[str, int]) -> None:
        """Register pieces that are tokens themselves, with their ids: special tokens that the pattern matches whole."""
        self.whole = dict(pieces)
        self._cache = {}

    def encode(self, piece: str) -> tuple[int, ...]:
        """The ids of one piece of text."""
        ids = self._cache.get(piece)
        if ids is None:
            ids = self._encode(piece)
            if len(self._cache) < _CACHE_LIMIT:
                self._cache[piece] = ids
        return ids

    def _encode(self, piece: str) -> tuple[int, ...]:
        if self.whole_words and piece not in self.whole:
            word = to_alphabet(piece)
            known = self.vocab.get(word + self.end_of_word)
            return (known,) if known is not None else tuple(map(self.vocab.__getitem__, self.symbols(word)))
        return tuple(token_id for _, token_id, _ in self.tokens(piece))

    def encode_all(self, pieces: Iterable[str]) -> list[int]:
        """The ids of several pieces, concatenated."""
        return [i for piece in pieces for i in self.encode(piece)]

    def tokens(self, piece: str) -> list[tuple[str, int, int]]:
        """The tokens of one piece as (token, id, number of bytes it covers)."""
        if piece in self.whole:
            return [(piece, self.whole[piece], len(piece))]
        found: list[tuple[str, int, int]] = []
        unk_id = self.vocab.get(self.unk_token) if self.unk_token is not None else None
        symbols = self.symbols(to_alphabet(piece))
        previous_unknown = False
        for position, symbol in enumerate(symbols):
            length = len(symbol) - (len(self.end_of_word) if position == len(symbols) - 1 else 0)
            known = self.vocab.get(symbol)
            if known is not None:
                found.append((symbol, known, length))
            elif unk_id is not None and previous_unknown and self.fuse_unk:
                found[-1] = (*found[-1][:2], found[-1][2] + length)
            elif unk_id is not None:
                found.append((str(self.unk_token), unk_id, length))
            previous_unknown = known is None
        return found

    def token_texts(self, piece: str) -> list[str]:
        """The tokens of one piece, including those outside the vocabulary."""
        return [piece] if piece in self.whole else self.symbols(to_alphabet(piece))

    def symbols(self, word: str) -> list[str]:
        """A word of the byte alphabet after all merges."""
        if not word:
            return []
        symbols = list(word)
        symbols[-1] += self.end_of_word
        return self._merge(symbols) if len(symbols) < _LONG_WORD else self._merge_long(symbols)

    def _merge(self, symbols: list[str]) -> list[str]:
        """Merge the pair of lowest rank, the leftmost of equals, until no pair has a rank."""
        rank_of = self.ranks.get
        ranks = [rank_of(f"{left} {right}", _NO_MERGE) for left, right in zip(symbols, symbols[1:], strict=False)]
        while ranks:
            best = min(ranks)
            if best == _NO_MERGE:
                break
            i = ranks.index(best)
            merged = symbols[i] + symbols[i + 1]
            symbols[i : i + 2] = [merged]
            del ranks[i]
            if i < len(ranks):
                ranks[i] = rank_of(f"{merged} {symbols[i + 1]}", _NO_MERGE)
            if i:
                ranks[i - 1] = rank_of(f"{symbols[i - 1]} {merged}", _NO_MERGE)
        return symbols

    def _merge_long(self, symbols: list[str]) -> list[str]:
        """`_merge` by a heap over a linked list: a word of 100,000 characters takes a second, not hours."""
        rank_of = self.ranks.get
        end = len(symbols)
        following = list(range(1, end + 1))
        preceding = list(range(-1, end - 1))
        heap: list[tuple[int, int, str]] = []

        def push(i: int) -> None:
            if i >= 0 and following[i] < end:
                pair = f"{symbols[i]} {symbols[following[i]]}"
                rank = rank_of(pair)
                if rank is not None:
                    heapq.heappush(heap, (rank, i, pair))

        for i in range(end - 1):
            push(i)
        while heap:
            _, i, pair = heapq.heappop(heap)
            j = following[i]
            if j >= end or not symbols[i] or f"{symbols[i]} {symbols[j]}" != pair:
                continue  # a merge beside it has changed this pair since
            symbols[i] += symbols[j]
            symbols[j] = ""
            following[i] = following[j]
            if following[i] < end:
                preceding[following[i]] = i
            push(preceding[i])
            push(i)
        return [symbol for symbol in symbols if symbol]


# ---- many texts -----------------------------------------------------------------------------------------------------
#
# The fast path from a list of strings to ids, for nearly every call. Pieces never cross white space, so the ids of a
# simple text are those of the chunks between its spaces, and a known chunk costs one look-up. Rows stay packed (int64
# in bytes) until they are copied into the batch's array. A test compares its results with the general path's.

_CHUNK_LIMIT = 500_000  # cached chunks; beyond it new ones are computed each time, so memory is bounded
_CHUNK_LENGTH = 64  # longer chunks rarely occur twice
_BLOCK = 64  # texts tested for simplicity at once
ID_SIZE = 8  # bytes of a packed id

# OpenAI's pattern for lower-case ASCII text without white space; `re` is faster at it than `regex`.
_ASCII_PIECES = re.compile("'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^a-z0-9]+")


def ascii_pieces(chunk: str) -> list[str]:
    """The pieces of an ASCII chunk in lower case."""
    return [chunk] if chunk.isalpha() else _ASCII_PIECES.findall(chunk)


def pack(ids: Iterable[int]) -> bytes:
    """Ids as bytes."""
    return array("q", ids).tobytes()


class _Chunks(dict):
    """Text between spaces -> its packed ids, computed at the first look-up."""

    def __init__(self, encode: Callable[[str], Iterable[int]]) -> None:
        super().__init__()
        self.encode = encode

    def __missing__(self, chunk: str) -> bytes:
        ids = pack(self.encode(chunk))
        if len(chunk) <= _CHUNK_LENGTH and len(self) < _CHUNK_LIMIT:
            self[chunk] = ids
        return ids


class QuickEncoder:
    """Packed ids of many texts.

    Args:
        chunk_ids: the ids of text without white space or added tokens.
        text_ids: the ids of any text.
        is_simple: whether a text's ids are those of its chunks between spaces.
    """

    def __init__(
        self,
        chunk_ids: Callable[[str], Iterable[int]],
        text_ids: Callable[[str], Iterable[int]],
        is_simple: Callable[[str], bool],
    ) -> None:
        self.chunks = _Chunks(chunk_ids)
        self.text_ids = text_ids
        self.is_simple = is_simple

    def rows(self, texts: Sequence[str]) -> list[bytes]:
        """Packed ids, no special tokens around them."""
        lookup, is_simple, ids_of = self.chunks.__getitem__, self.is_simple, self.text_ids
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


def cut(row: bytes, length: int, side: str) -> bytes:
    """At most `length` ids of a packed row, truncated on that side."""
    size = length * ID_SIZE
    if len(row) <= size:
        return row
    return row[:size] if side == "right" else row[len(row) - size :]


def unpack(rows: Sequence[bytes]) -> list[list[int]]:
    ids = np.frombuffer(b"".join(rows), np.int64).tolist()
    ends = np.cumsum([len(row) // ID_SIZE for row in rows]).tolist()
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def pad_packed(rows: Sequence[bytes], length: int, pad_id: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Packed rows, none longer than `length`, as (ids, attention mask), both int64 [rows, length]."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows)) // ID_SIZE
    positions = np.arange(length)
    if side == "right":
        inside = positions < lengths[:, None]
    else:
        inside = positions >= (length - lengths)[:, None]
    ids = np.full((len(rows), length), pad_id, np.int64)
    ids[inside] = np.frombuffer(b"".join(rows), np.int64)
    return ids, inside.astype(np.int64)
