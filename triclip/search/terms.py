"""What people type to search: words, pictures, URLs of pictures, each with a sign and a weight.

golden retriever + photo.jpg - 0.5 * fruit
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clip_core.errors import InputError
from clip_core.image.input import HEIF_SUFFIXES, picture_suffixes

WORDS, PICTURE, URL = "words", "picture", "url"
_PIECES = re.compile(r'"([^"]*)"|\s([+-])\s|((?:(?!\s[+-]\s)[^"])+)')
_WEIGHTED = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*[*:]\s*(.+)", re.DOTALL)
_SIGNS = {"+": 1.0, "-": -1.0, "−": -1.0}


class Term(NamedTuple):
    """kind: WORDS, PICTURE (a file) or URL (of one). weight: below 0 for what is not wanted."""

    text: str
    kind: str
    weight: float = 1.0


def parse_terms(arguments: Sequence[str]) -> list[Term]:
    """Terms of a command line's arguments: signs stand alone, or within one argument between spaces.

    A weight goes in front, `2 * dog` or `2:dog`; arguments without a sign between them are the words of one term; what
    stands in double quotes is words with its signs. Raises InputError for signs without a term and a weight of 0;
    FileNotFoundError for what looks like a path to a picture that is not there.
    """
    terms: list[Term] = []
    sign, words = 1.0, []  # type: float, list[str]
    open_sign = False
    for piece, is_sign in _pieces(arguments):
        if not is_sign:
            words.append(piece)
            continue
        if words:
            terms.append(as_term(" ".join(words), sign))
        elif terms or open_sign:
            raise InputError(f"query: wanted words or a picture before {piece!r}, found nothing")
        sign, words, open_sign = _SIGNS[piece], [], True
    if words:
        terms.append(as_term(" ".join(words), sign))
    elif open_sign:
        raise InputError("query: wanted words or a picture after the last sign, found nothing")
    return terms


def _pieces(arguments: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """(text, whether it is a sign) of arguments; one that is a file's name is one piece."""
    for argument in arguments:
        if argument in _SIGNS:
            yield argument, True
        elif os.path.isfile(argument):
            yield argument, False
        else:
            for quoted, sign, plain in _PIECES.findall(f" {argument} " if argument[:1] in "+-" else argument):
                if sign:
                    yield sign, True
                elif text := (quoted or plain.strip()):
                    yield text, False


def as_term(text: str, sign: float = 1.0) -> Term:
    """One term: a file that is there, a URL, or words. Raises as `parse_terms`."""
    match = None if os.path.isfile(text) else _WEIGHTED.fullmatch(text)
    weight = sign
    if match:
        weight, text = sign * float(match[1]), match[2]
        if weight == 0:
            raise InputError(f"query: wanted a weight other than 0, found {match[0]!r}")
    if text.startswith(("http://", "https://")):
        return Term(text, URL, weight)
    path = os.path.expanduser(text)
    if os.path.isfile(path):
        return Term(path, PICTURE, weight)
    if _looks_like_a_path(text):
        raise FileNotFoundError(f"{text}: no such picture (--text {text!r} searches for these words)")
    return Term(text, WORDS, weight)


def _looks_like_a_path(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in picture_suffixes() | HEIF_SUFFIXES or text.startswith(
        ("./", "../", "/", "~/")
    )
