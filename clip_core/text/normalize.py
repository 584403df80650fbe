"""Normalisation of text before it is split into pieces, in three profiles.

`slow`: ftfy, whitespace, lower case; without ftfy a cleaner that drops controls and puts spaces around CJK characters.
`fast`: NFC, whitespace, lower case, character by character.
`openai`: ftfy, HTML entities twice, whitespace, lower case.

transformers 4.37.2's fast tokenizer splits with Oniguruma (Unicode 14) and composes with a Unicode 9 table, while
`regex`, `unicodedata` and `str.lower` follow newer versions. To give its ids on any Python, the tables below list the
characters assigned in between (up to Unicode 18) that would change a result, found by running every code point through
tokenizers 0.15.2.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

# Letters and numbers that belong to the fast tokenizer's class "anything else".
LETTERS = """
558 58B-58C 88F C5C CDC 1C89-1C8A 208F 209D-209F A7CB-A7CF A7D2 A7D4 A7DA-A7DD A7E2 A7F1 AB6C-AB6D 105C0-105F3
107BB-107BF 10940-10959 10D4A-10D65 10D6F-10D85 10EC2-10EC7 10ED9-10EEE 1123F-11240 11380-11389 1138B 1138E
11390-113B5 113B7 113D1 113D3 11B0A 11BC0-11BE0 11DB0-11DDB 11DF1 11F02 11F04-11F10 11F12-11F33 1342F 13441-13446
13460-143FA 16100-1611D 16D40-16D6C 16EA0-16EB8 16EBB-16ED3 16FF2-16FF3 187F8-187FF 18CD6-18CDA 18CFF 18D09-18D20
18D80-18DF2 18E00-19191 191A0-191D2 1B123-1B128 1B132 1B155 1B168 1D6A6 1DF1F-1DF81 1DF90-1DF96 1DFCD-1DFFF
1E030-1E06D 1E4D0-1E4EB 1E5D0-1E5ED 1E5F0 1E6C0-1E6DE 1E6E0-1E6E2 1E6E4-1E6E5 1E6E7-1E6ED 1E6F0-1E6F4 1E6FE-1E6FF
2B739-2B73F 2B81E 2CEA2-2CEAD 2EBF0-2EE5D 31350-33479 3D000-3FC3F
"""
NUMBERS = """
10D40-10D49 116D0-116E3 11BF0-11BF9 11DE0-11DE9 11F50-11F59 1246F 12475-1247F 12550-12686 16130-16139 16D70-16D79
16FF4-16FF6 1CCF0-1CCF9 1D2C0-1D2D3 1E4F0-1E4F9 1E5F1-1E5FA
"""

# Combining marks that it treats as starters, and letters whose composition it doesn't know (the last line).
MARKS = """
5C8-5C9 7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1AF0 1DF6-1DFA A82C 10D24-10D27 10D69-10D6D 10EAB-10EAC
10ECB-10ECF 10EF0-10EFB 10EFD-10EFF 10F46-10F50 10F82-10F85 11070 1133B 1145E 11839-1183A 1193D-1193E 11943 119E0
11A34 11A47 11A99 11D42 11D44-11D45 11D97 11F41-11F42 16FF0-16FF1 1D127-1D128 1D250-1D252 1D25B-1D25C 1D25F
1D280-1D281 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF 1E6E3 1E6E6 1E6EE-1E6EF 1E6F5
105C0-105F3 11380-113D3 11930 16100-1613F 16D40-16D7F
"""

# Capitals whose small letter it doesn't know.
CAPITALS = """
1C89 A7CB-A7CC A7CE A7D2 A7D4 A7DA A7DC-A7DD A7E2 AB6C-AB6D 10D50-10D65 16EA0-16EB8 1DF40 1DF48 1DF4A 1DF4D 1DF51
1DF68 1DF6A 1DF6C 1DF6E 1DF72 1DF74 1DF76 1DF78 1DF7A 1DF7C 1DF7E
"""


def char_ranges(table: str) -> str:
    """A table above as the inside of a character class, for both `re` and `regex`."""
    return "".join("-".join(rf"\U{int(end, 16):08X}" for end in item.split("-")) for item in table.split())


# The pieces of OpenAI's pattern. `regex` is imported lazily: it takes a third of the core's import time.
SPECIALS = r"<\|startoftext\|>|<\|endoftext\|>|"
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# GPT-2's pattern, which the fast tokenizer's byte-level step applies to every piece once more.
GPT2_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Unicode's white space, as `\s` in both patterns (`str.isspace` differs slightly).
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
SPACE_RUN = re.compile(f"[{SPACES}]+")
# `str.split` also splits at these four, which Unicode (and so the patterns) doesn't call white space.
INFORMATION_SEPARATORS = re.compile("[\x1c-\x1f]")
_STARTERS_ONLY = re.compile(f"([{char_ranges(MARKS)}])")
_LOWER_EXCEPTIONS = re.compile(f"[\u03a3{char_ranges(CAPITALS)}]")


def slow_pattern(specials: tuple[str, ...] = ("<|startoftext|>", "<|endoftext|>")) -> Any:
    """OpenAI's pattern as the slow tokenizer compiles it: special tokens included, case ignored."""
    import regex

    return regex.compile("|".join([*map(regex.escape, specials), PIECES]), regex.IGNORECASE)


@functools.lru_cache(maxsize=16)
def fast_pattern(source: str = PIECES) -> Any:
    r"""A pattern as the fast tokenizer's engine reads it: `\p{L}` and `\p{N}` mean those of Unicode 14."""
    import regex

    letters, numbers = (f"[\\p{{{kind}}}--[{char_ranges(gaps)}]]" for kind, gaps in (("L", LETTERS), ("N", NUMBERS)))
    adapted = source.replace(r"\p{L}", letters).replace(r"\p{N}", numbers)
    return regex.compile(adapted, regex.V1)


# ---- the fast profile -----------------------------------------------------------------------------------------------


def nfc(text: str) -> str:
    """NFC by the fast tokenizer's tables (Unicode 9: later combining marks keep their places)."""
    if text.isascii():
        return text
    if _STARTERS_ONLY.search(text) is None:
        return unicodedata.normalize("NFC", text)
    parts = _STARTERS_ONLY.split(text)  # odd places hold the marks
    return "".join(part if i % 2 else unicodedata.normalize("NFC", part) for i, part in enumerate(parts))


def is_starter_only(char: str) -> bool:
    """Whether the fast tokenizer's tables don't know this character's combining class or composition."""
    return _STARTERS_ONLY.match(char) is not None


def lower(text: str) -> str:
    """Lower case character by character: unlike in `str.lower`, a final sigma becomes an ordinary one."""
    if _LOWER_EXCEPTIONS.search(text) is None:
        return text.lower()
    capitals = re.compile(f"[{char_ranges(CAPITALS)}]")
    return "".join(char if capitals.match(char) else char.lower() for char in text)


def fast_normalize(text: str) -> str:
    """NFC, runs of white space as one space, lower case."""
    return lower(SPACE_RUN.sub(" ", nfc(text)))


def replace_surrogates(text: str) -> str:
    """Lone surrogates replaced by three replacement characters each, as the fast tokenizer receives them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


# ---- the slow profile -----------------------------------------------------------------------------------------------


def find_ftfy() -> Callable[[str], str] | None:
    """`ftfy.fix_text` when ftfy is installed, else None."""
    try:
        import ftfy
    except ImportError:
        return None
    return ftfy.fix_text


def ftfy_keeps(text: str) -> bool:
    """Whether ftfy is certain not to change this text: printable ASCII without an HTML entity."""
    return text.isascii() and text.isprintable() and "&" not in text


def slow_clean(text: str, fix_text: Callable[[str], str] | None) -> str:
    """The slow tokenizer's cleaned text, with ftfy's `fix_text` or without (None)."""
    if fix_text is None:
        return basic_clean(text)
    fixed = text if ftfy_keeps(text) else fix_text(text)
    return SPACE_RUN.sub(" ", fixed).strip().lower()


_CJK = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f])"
)


def basic_clean(text: str) -> str:
    """Without ftfy: drop controls, NUL and U+FFFD, put spaces around CJK characters, NFC, lower case, single spaces."""
    kept = "".join(" " if char in "\t\n\r" else char for char in text if char in "\t\n\r" or _is_kept(char))
    words = unicodedata.normalize("NFC", _CJK.sub(r" \1 ", kept)).split()
    return " ".join(" ".join(word.lower() for word in words).split())


def _is_kept(char: str) -> bool:
    return char != "\ufffd" and unicodedata.category(char)[0] != "C"


# ---- OpenAI's own ---------------------------------------------------------------------------------------------------


def openai_clean(text: str, fix_text: Callable[[str], str]) -> str:
    """The cleaned text of OpenAI's and open_clip's tokenizers."""
    fixed = text if ftfy_keeps(text) else fix_text(text)
    if "&" in fixed:
        import html

        fixed = html.unescape(html.unescape(fixed))
    return SPACE_RUN.sub(" ", fixed).strip().lower()


# ---- where characters come from -------------------------------------------------------------------------------------
# `fast_normalize` with the origin of each character: slower, so it runs only for offsets and word ids. The rules are
# those of NormalizedString in the library `tokenizers` (0.15.2), so that offsets are equal.

# The origin of a character that was inserted before the first one.
NOWHERE = -1


def aligned_normalize(text: str, start: int) -> tuple[str, list[int]]:
    """`fast_normalize(text)` and the original position of each character, if `text` begins at `start`."""
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
    """Collapse runs of white space to one space, whose origin is the run's last character."""
    chars: list[str] = []
    moved: list[int] = []
    done = 0
    for match in SPACE_RUN.finditer(text):
        chars.append(text[done : match.start()] + " ")
        moved += [*origins[done : match.start()], origins[match.end() - 1]]
        done = match.end()
    return "".join([*chars, text[done:]]), [*moved, *origins[done:]]


def _composition(text: str) -> list[tuple[str, int]]:
    """NFC of `text` as changes for `_apply`: decompose, sort marks by class, compose, and add up the changes."""
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
    starter: int | None = None  # index in `result` of the character with which marks may compose
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
