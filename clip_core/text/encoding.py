"""One encoded text with all that is known of each token: windows of truncation, special tokens, padding, offsets.

Behaviour of the `tokenizers` library (0.15.2). The second half normalises once more, this time keeping where each
character came from: slower than `fast_normalize`, so it runs only when offsets or word ids are asked for. Its
bookkeeping follows that library's NormalizedString, so that offsets come out the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from clip_core.errors import InputError
from clip_core.text.normalize import SPACE_RUN, is_starter_only, lower, nfc

_COLUMNS = ("ids", "type_ids", "tokens", "word_ids", "offsets", "special_tokens_mask", "attention_mask", "sequence_ids")


@dataclass
class Encoding:
    """The tokens of one text (or of one window of it), a list per property.

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
        """With zeros for `type_ids`; those of the windows only if asked."""
        overflowing = [window.without_type(True) for window in self.overflowing] if windows else self.overflowing
        return replace(self, type_ids=[0] * len(self), overflowing=overflowing)

    def window(self, start: int, stop: int) -> Encoding:
        """The tokens from `start` to `stop`."""
        return Encoding(**{name: column[start:stop] for name, column in self.columns()})

    def __add__(self, other: Encoding) -> Encoding:
        """Both in a row. Windows combine: every one of mine with every one of the other's."""
        joined = Encoding(**{name: column + getattr(other, name) for name, column in self.columns()})
        for mine in self.overflowing:
            joined.overflowing += [mine + o for o in (replace(other, overflowing=[]), *other.overflowing)]
        joined.overflowing += [replace(self, overflowing=[]) + window for window in other.overflowing]
        return joined

    def truncated(self, length: int, stride: int, side: str) -> Encoding:
        """At most `length` tokens; the rest goes into `overflowing` windows that share `stride` tokens.

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
        """Filled up with copies of `pad` (one token) to `length`; windows too."""
        overflowing = [window.padded(length, pad, side) for window in self.overflowing]
        missing = length - len(self)
        if missing <= 0:
            return replace(self, overflowing=overflowing)
        columns = {}
        for name, column in self.columns():
            filling = getattr(pad, name) * missing
            columns[name] = column + filling if side == "right" else filling + column
        return Encoding(**columns, overflowing=overflowing)


def truncate_pair(
    first: Encoding, second: Encoding | None, length: int, strategy: str, stride: int, side: str
) -> tuple[Encoding, Encoding | None]:
    """Both texts cut so that together they have at most `length` tokens.

    Raises InputError when the strategy names a text that isn't there or that is too short to give up so much.
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
    """How many tokens each of two texts keeps: the longer gives first, then both alike."""
    short, long = sorted((n_first, n_second))
    long = short if short > length else max(short, length - short)
    if short + long > length:
        short = length // 2
        long = short + length % 2
    return (long, short) if n_first > n_second else (short, long)


def padding_length(lengths: Sequence[int], strategy: str, max_length: int | None, multiple: int | None) -> int | None:
    """The length to pad to, or None for no padding."""
    if strategy == "do_not_pad" or not lengths:
        return None
    length = max(lengths) if strategy == "longest" or max_length is None else max_length
    return -(-length // multiple) * multiple if multiple else length


# ---- where characters come from -------------------------------------------------------------------------------------

# The origin of a character that was inserted before the first one.
NOWHERE = -1


def aligned_normalize(text: str, start: int) -> tuple[str, list[int]]:
    """`fast_normalize(text)` and, per character, the position it is from, where `text` begins at `start`."""
    origins = list(range(start, start + len(text)))
    composed = nfc(text)
    if composed != text:
        composed, origins = _apply(_composition(text), origins)
    collapsed, origins = _collapse(composed, origins)
    lowered = lower(collapsed)
    if len(lowered) != len(collapsed):
        changes = [(new, int(i > 0)) for char in collapsed for i, new in enumerate(lower(char))]
        lowered, origins = _apply(changes, origins)
    return lowered, origins


def span(origins: list[int], first: int, last: int) -> tuple[int, int]:
    """(start, end) in the original text of the normalised characters `first` to `last`, both included."""
    start, end = origins[first], origins[last]
    return (0 if start == NOWHERE else start), (0 if end == NOWHERE else end + 1)


def _apply(changes: Iterable[tuple[str, int]], origins: list[int]) -> tuple[str, list[int]]:
    """Rewrite a text: (char, 0) replaces one character, (char, -n) replaces it and drops n more, (char, 1) inserts."""
    chars: list[str] = []
    moved: list[int] = []
    position = 0
    for char, change in changes:
        chars.append(char)
        if change > 0:
            moved.append(origins[position - 1] if position else NOWHERE)
        else:
            moved.append(origins[min(position, len(origins) - 1)])
            position += 1 - change
    return "".join(chars), moved


def _collapse(text: str, origins: list[int]) -> tuple[str, list[int]]:
    """White space runs to one space, which counts as the run's last character."""
    chars: list[str] = []
    moved: list[int] = []
    done = 0
    for match in SPACE_RUN.finditer(text):
        chars.append(text[done : match.start()] + " ")
        moved += [*origins[done : match.start()], origins[match.end() - 1]]
        done = match.end()
    return "".join([*chars, text[done:]]), [*moved, *origins[done:]]


def _composition(text: str) -> list[tuple[str, int]]:
    """NFC of `text` as changes for `_apply`: decompose, sort marks by class, compose, adding the changes up."""
    pieces = [(char, int(i > 0)) for source in text for i, char in enumerate(_decompose(source))]
    ordered: list[tuple[str, int]] = []
    marks: list[tuple[str, int]] = []
    for piece in pieces:
        if _mark_class(piece[0]):
            marks.append(piece)
            continue
        ordered += sorted(marks, key=lambda mark: _mark_class(mark[0]))
        marks = []
        ordered.append(piece)
    return _recompose(ordered + sorted(marks, key=lambda mark: _mark_class(mark[0])))


def _recompose(pieces: list[tuple[str, int]]) -> list[tuple[str, int]]:
    result: list[tuple[str, int]] = []
    starter: int | None = None  # index in `result` of the character that marks may join
    last_class = 0
    for char, change in pieces:
        mark_class = _mark_class(char)
        if starter is not None and (starter == len(result) - 1 or last_class < mark_class):
            joined = nfc(result[starter][0] + char)
            if len(joined) == 1:
                result[starter] = (joined, result[starter][1] + change - 1)
                continue
        result.append((char, change))
        last_class = mark_class
        if mark_class == 0:
            starter = len(result) - 1
    return result


def _decompose(char: str) -> str:
    return char if is_starter_only(char) else unicodedata.normalize("NFD", char)


def _mark_class(char: str) -> int:
    return 0 if is_starter_only(char) else unicodedata.combining(char)
