"""Captions drawn at random from a name's words."""

from __future__ import annotations

import random
from dataclasses import dataclass

from splits import Record
from wordnet import WordNet

TEMPLATES = (
    "a picture of {}", "{} emoji", "an icon of {}", "a drawing of {}", "{} icon", "a {}", "the {} symbol",
    "a picture of a {}", "a small picture of a {}", "clip art of {}",
)  # fmt: skip
# Little words around two others, so that the text tower learns to look past them.
PHRASES = (
    "a {} with a {}", "a {} and a {}", "the {} of a {}", "{} in the {}", "{} on a {}", "{} for {}",
    "something like {} or {}", "it is a {} with {}", "a kind of {} that is {}", "when there is {} and {}",
    "somebody with a {}, {}", "the {} that {}",
)  # fmt: skip


@dataclass
class Words:
    """What a record may be called: its name, other names, keywords with wider meanings, a definition's clauses."""

    name: str
    others: list[str]
    keywords: list[str]
    definition: list[str]

    def all(self) -> list[str]:
        return [self.name, *self.others, *self.keywords, *self.definition]


def words_of(record: Record, meanings: WordNet) -> Words:
    """An emoji's words come from its entry (CLDR and WordNet), an icon's from its sets and WordNet."""
    entry = record.emoji
    aliases, tags = list(record.aliases), list(record.tags)
    if entry:
        others = [*entry["names"], *entry["synonyms"], *aliases]
        return Words(
            record.name, unique(others), unique([*entry["keywords"], *entry["wider"], *tags]), entry["definition"]
        )
    sense = meanings.find(record.name, [*tags, *aliases]) or meanings.first(record.name)
    if sense is None:
        return Words(record.name, unique(aliases), unique(tags), [])
    others = [*aliases, *(word for word in sense.synonyms if word != record.name)]
    return Words(record.name, unique(others), unique([*tags, *sense.wider]), list(sense.definition))


def unique(words: list[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]


def caption(words: Words, rng: random.Random) -> str:
    """A name, keywords, name and keywords, a made-up phrase, or a definition."""
    kind = rng.random()
    if kind < 0.2 or not words.keywords:
        plain = rng.choice(words.others) if words.others and rng.random() < 0.5 else words.name
        return rng.choice(TEMPLATES).format(plain)
    if kind < 0.3 and words.others:
        return rng.choice(words.others)
    if kind < 0.5 and words.definition:
        return rng.choice(words.definition) if rng.random() < 0.5 else " ".join(words.definition)
    picked = rng.sample(words.keywords, min(len(words.keywords), rng.choice((1, 2, 2, 3, 4))))
    if kind < 0.65:
        return rng.choice(PHRASES).format(*rng.sample([*words.keywords, words.name, *words.others], 2))
    text = rng.choice((" ", ", ")).join(picked)
    if kind < 0.75:
        return f"{words.name}, {text}" if rng.random() < 0.5 else f"{text} {words.name}"
    return rng.choice(TEMPLATES).format(text) if kind > 0.95 else text
