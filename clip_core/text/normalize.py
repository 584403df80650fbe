"""What happens to text before it is cut into pieces: one profile per tokenizer that CLIP users compare with.

`slow`: ftfy, whitespace, lower case; without ftfy a cleaner that drops controls and sets CJK characters apart.
`fast`: NFC, whitespace, lower case, character by character.
`openai`: ftfy, HTML entities twice, whitespace, lower case.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from clip_core.text.unicode_gaps import CAPITALS, LETTERS, MARKS, NUMBERS, char_ranges

# The pieces of OpenAI's pattern. `regex` is imported when first needed: it costs a third of the core's import time.
SPECIALS = r"<\|startoftext\|>|<\|endoftext\|>|"
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# GPT-2's pattern, which the fast tokenizer's byte-level step applies to every piece once more.
GPT2_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Unicode's white space, which is what `\s` means in both patterns (and not quite what `str.isspace` says).
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
    """Unicode NFC by the fast tokenizer's tables (Unicode 9: later combining marks stay where they are)."""
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
    """Lower case character by character: a final sigma stays a plain one, unlike in `str.lower`."""
    if _LOWER_EXCEPTIONS.search(text) is None:
        return text.lower()
    capitals = re.compile(f"[{char_ranges(CAPITALS)}]")
    return "".join(char if capitals.match(char) else char.lower() for char in text)


def fast_normalize(text: str) -> str:
    """NFC, every run of white space one space, lower case."""
    return lower(SPACE_RUN.sub(" ", nfc(text)))


def replace_surrogates(text: str) -> str:
    """Lone surrogates as the fast tokenizer receives them: three replacement characters each."""
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
    """Whether ftfy surely returns this text as it is: printable ASCII without an HTML entity."""
    return text.isascii() and text.isprintable() and "&" not in text


def slow_clean(text: str, fix_text: Callable[[str], str] | None) -> str:
    """What the slow tokenizer cuts into pieces, with ftfy's `fix_text` or without (None)."""
    if fix_text is None:
        return basic_clean(text)
    fixed = text if ftfy_keeps(text) else fix_text(text)
    return SPACE_RUN.sub(" ", fixed).strip().lower()


_CJK = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f])"
)


def basic_clean(text: str) -> str:
    """The path without ftfy: no controls, NUL or U+FFFD, CJK characters apart, NFC, lower case, single spaces."""
    kept = "".join(" " if char in "\t\n\r" else char for char in text if char in "\t\n\r" or _is_kept(char))
    words = unicodedata.normalize("NFC", _CJK.sub(r" \1 ", kept)).split()
    return " ".join(" ".join(word.lower() for word in words).split())


def _is_kept(char: str) -> bool:
    return char != "\ufffd" and unicodedata.category(char)[0] != "C"


# ---- OpenAI's own ---------------------------------------------------------------------------------------------------


def openai_clean(text: str, fix_text: Callable[[str], str] | None) -> str:
    """What OpenAI's and open_clip's tokenizers cut into pieces."""
    if ftfy_keeps(text) or fix_text is None:
        fixed = text
    else:
        fixed = fix_text(text)
    if "&" in fixed:
        import html

        fixed = html.unescape(html.unescape(fixed))
    return SPACE_RUN.sub(" ", fixed).strip().lower()
