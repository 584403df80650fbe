"""The fast normalisation once more, this time keeping where each character came from.

Slower than `fast_normalize`, so it runs only when offsets or word ids are asked for. The bookkeeping follows the
`tokenizers` library's NormalizedString, so that offsets come out the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from clip_core.text.normalize import SPACE_RUN, is_starter_only, lower, nfc

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
