"""The pictures build_data.py drew, and which of them are trained on: every split is fixed here, before any training.

- vendor: Fluent Emoji's flat cut, names that are trained on (from other sets). Its whole family is in no training.
- names: 200 emoji names drawn with a fixed seed, whole concepts at a time, pictures of the training sets. Icons and
  clip art whose name, aliases or keywords hold all words of such a name, or of one of its other names, are left out
  too; of other names of a single word ("file" of "file folder"), those that are just that word.
- both: Fluent's pictures of those 200.
- family: Phosphor's regular cut. All six cuts are in no training, nor is any picture of any set that looks like one of
  them (correlation of the ink >= ALIKE with any picture of the family, whatever its name).
- clipart: CLIPART titles of openclipart that no record of the training has for its name.
"""

from __future__ import annotations

import io
import json
import random
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from build_data import common_words
from draw import unit_prints
from iconify import HELD_OUT_FAMILY, THINGS
from PIL import Image
from vendors import VENDORS

HELD_OUT_VENDOR = "fluent-emoji-flat"
ALIKE = 0.95
CLIPART = 500
CLIPART_SEED = 20241
KINDS = ("emoji", "icon", "clipart")
SMALL_WORDS = {"a", "an", "the", "of", "and", "with", "in", "on", "or", "to", "for"}
EMOJI_FAMILY = {vendor.name: vendor.family for vendor in VENDORS}
MONOCHROME = {vendor.name for vendor in VENDORS if vendor.monochrome}


@dataclass
class Record:
    """Everything trained on under one name: rows of its pictures, and words."""

    name: str
    rows: list[int] = field(default_factory=list)
    aliases: dict[str, None] = field(default_factory=dict)
    tags: dict[str, None] = field(default_factory=dict)
    emoji: dict | None = None


def stems(text: str) -> set[str]:
    """The words of a text, in the singular, small words left out."""
    words = re.findall(r"[a-z0-9]+", text.lower().replace("'s", ""))
    return {
        word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word for word in words
    } - SMALL_WORDS


def is_worth(name: str, sets: set[str]) -> bool:
    """Whether a name has a record: several sets draw it, it is one word, or its set is one of things."""
    return len(sets) > 1 or bool(sets & {*THINGS, "openclipart"}) or (" " not in name and len(name) > 2)


class Data:
    """Pictures, names and splits. `scratch` is build_data.py's folder."""

    def __init__(self, scratch: Path) -> None:
        folders = [scratch / "pictures" / kind for kind in KINDS]
        tables = [(folder / "pictures.jsonl").read_text(encoding="utf-8") for folder in folders]
        self.pictures = [json.loads(line) for table in tables for line in table.splitlines()]
        indices = [np.load(folder / "index.npz") for folder in folders]
        self.prints = np.concatenate([index["prints"] for index in indices])
        starts = [index["starts"].tolist() for index in indices]
        self.places = [(file, *ends) for file, own in enumerate(starts) for ends in pairwise(own)]
        self._files = [np.memmap(folder / "pictures.png", np.uint8, "r") for folder in folders]
        self._alike_file = scratch / "pictures" / "alike.npy"
        self.emoji = {entry["code"]: entry for entry in json.loads((scratch / "emoji.json").read_text())}
        self.ranks = common_words(scratch / "packages")  # word -> how many are more frequent
        self.reasons: dict[str, int] = {}
        self.allowed = self._allowed()

    def png(self, row: int) -> bytes:
        file, start, end = self.places[row]
        return self._files[file][start:end].tobytes()

    def picture(self, row: int) -> Image.Image:
        return Image.open(io.BytesIO(self.png(row)))

    @cached_property
    def held_out_phrases(self) -> tuple[dict[str, list[frozenset[str]]], set[frozenset[str]]]:
        """What held-out emoji are called: (by one of their words, names that no other name may hold; names that no
        other name may be).

        The second are other names of a single word, such as "file" of "file folder": "file plus" is another thing.
        """
        inside, whole = set(), set()
        for entry in self.emoji.values():
            if entry["held_out"]:
                inside.add(frozenset(stems(entry["label"])))
                for words in map(stems, [*entry["names"], *entry["synonyms"]]):
                    (inside if len(words) > 1 else whole).add(frozenset(words))
        table: dict[str, list[frozenset[str]]] = {}
        for words in inside - {frozenset()}:
            table.setdefault(min(words), []).append(words)
        return table, whole

    def _is_held_out(self, texts: list[str]) -> bool:
        """Whether one of these texts is, or holds all words of, a held-out name."""
        inside, whole = self.held_out_phrases
        for words in map(stems, texts):
            if words in whole or any(phrase <= words for first in words for phrase in inside.get(first, ())):
                return True
        return False

    def _allowed(self) -> np.ndarray:
        """Which pictures may be trained on: bool [N]. Counts what is left out in `reasons`, by reason."""
        allowed = np.ones(len(self.pictures), bool)
        alike = self._alike_family()
        titles = self.clipart_titles
        for row, picture in enumerate(self.pictures):
            reason = None
            if picture["kind"] == "emoji":
                if EMOJI_FAMILY[picture["set"]] == "fluent":
                    reason = "held-out vendor"
                elif self.emoji[picture["code"]]["held_out"]:
                    reason = "held-out names, emoji"
            else:
                if picture["set"] == HELD_OUT_FAMILY:
                    reason = "held-out family"
                elif picture["name"] in titles:
                    reason = "held-out clip art titles"
                elif self._is_held_out([picture["name"], *picture["aliases"], *self._keywords(picture)]):
                    reason = f"held-out names, {picture['kind']}"
            if reason is None and alike[row]:
                reason = "looks like the held-out family"
            if reason:
                allowed[row] = False
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
        return allowed

    @staticmethod
    def _keywords(picture: dict) -> list[str]:
        return picture["tags"] if picture["kind"] == "clipart" else []

    def _alike_family(self) -> np.ndarray:
        """Which pictures correlate at least ALIKE with any picture of the held-out family: bool [N]. Kept in a file."""
        if self._alike_file.exists():
            return np.load(self._alike_file)
        family = np.array([picture["set"] == HELD_OUT_FAMILY for picture in self.pictures])
        theirs = unit_prints(self.prints[family]).T
        alike = np.zeros(len(family), bool)
        for start in range(0, len(family), 8192):
            part = unit_prints(self.prints[start : start + 8192])
            alike[start : start + 8192] = (part @ theirs).max(1) >= ALIKE
        np.save(self._alike_file, alike & ~family)
        return alike & ~family

    def is_common(self, name: str) -> bool:
        words = name.split()
        return 0 < len(words) <= 6 and all(word in self.ranks or word.isdigit() or len(word) == 1 for word in words)

    @cached_property
    def clipart_titles(self) -> set[str]:
        """The held-out titles: of common words, one a drawing, no name of an emoji or an icon."""
        taken = {picture["name"] for picture in self.pictures if picture["kind"] != "clipart"}
        titles = [picture["name"] for picture in self.pictures if picture["kind"] == "clipart"]
        good = sorted({title for title in titles if self.is_common(title) and title not in taken and len(title) > 3})
        return set(random.Random(CLIPART_SEED).sample(good, CLIPART))

    def records(self) -> list[Record]:
        """One record per name that is trained on, in the order of the names."""
        found: dict[str, Record] = {}
        sets: dict[str, set[str]] = {}
        for row in np.flatnonzero(self.allowed).tolist():
            picture = self.pictures[row]
            name = picture["name"]
            if picture["kind"] != "emoji" and not self.is_common(name):
                continue
            record = found.setdefault(name, Record(name))
            record.rows.append(row)
            sets.setdefault(name, set()).add(picture["set"])
            if picture["kind"] == "emoji":
                record.emoji = self.emoji[picture["code"]]
            else:
                record.aliases |= dict.fromkeys(alias for alias in picture["aliases"] if self.is_common(alias))
                record.tags |= dict.fromkeys(tag for tag in picture["tags"] if 1 < len(tag) < 40)
        return [record for name, record in sorted(found.items()) if record.emoji or is_worth(name, sets[name])]

    def split(self, name: str, trained: set[str]) -> list[int]:
        """The rows of a split. `trained`: the names that are trained on, which `vendor` is cut to."""
        kinds = {"vendor": self._vendor, "names": self._names, "both": self._both, "family": self._family,
                 "clipart": self._clipart}  # fmt: skip
        return [row for row, picture in enumerate(self.pictures) if kinds[name](picture, row, trained)]

    def _vendor(self, picture: dict, row: int, trained: set[str]) -> bool:
        return picture["set"] == HELD_OUT_VENDOR and picture["name"] in trained

    def _names(self, picture: dict, row: int, trained: set[str]) -> bool:
        own = picture["kind"] == "emoji" and EMOJI_FAMILY[picture["set"]] != "fluent"
        return own and self.emoji[picture["code"]]["held_out"]

    def _both(self, picture: dict, row: int, trained: set[str]) -> bool:
        return picture["set"] == HELD_OUT_VENDOR and self.emoji[picture["code"]]["held_out"]

    def _family(self, picture: dict, row: int, trained: set[str]) -> bool:
        return picture["set"] == HELD_OUT_FAMILY and not re.search(r"-(thin|light|bold|fill|duotone)$", picture["id"])

    def _clipart(self, picture: dict, row: int, trained: set[str]) -> bool:
        """One drawing of each held-out title."""
        return picture["kind"] == "clipart" and self._first_of_title.get(picture["name"]) == row

    @cached_property
    def _first_of_title(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for row, picture in enumerate(self.pictures):
            if picture["kind"] == "clipart" and picture["name"] in self.clipart_titles:
                found.setdefault(picture["name"], row)
        return found
