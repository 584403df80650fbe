"""The data set in memory: pictures, splits, and captions drawn at random."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from build_data import FLAG_GROUP
from vendors import VENDORS

HELD_OUT_VENDOR = "fluent-emoji-flat"
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
# Words that make a mirrored picture wrong; letters, digits and clocks are left alone too.
SIDED = ("left", "right", "letter", "button", "clock", "o'clock", "thirty", "keycap", "flag", "sign", "input", "arrow",
         "east", "west", "clockwise", "moon", "question", "exclamation", "hundred", "globe", "symbol", "abc",
         "number", "divide", "slash", "japanese", "calendar", "medal")  # fmt: skip


@dataclass
class Pictures:
    """Rows of one split: `rows` index the data set's pictures, `names` the emoji each shows."""

    rows: np.ndarray
    names: np.ndarray


class EmojiData:
    """Everything built by build_data.py, split.

    Args:
        scratch: the folder build_data.py wrote.
        held_out_vendor: its whole design family stays out of training, and it is the test vendor.
        also_out: further families to leave out (used while choosing settings, never for the shipped model).
    """

    def __init__(self, scratch: Path, held_out_vendor: str = HELD_OUT_VENDOR, also_out: tuple[str, ...] = ()) -> None:
        self.entries = json.loads((scratch / "emoji.json").read_text())
        arrays = np.load(scratch / "pictures.npz")
        self.rgba, self.white = arrays["rgba"], arrays["white"]
        self.emoji, self.vendor = arrays["emoji"], arrays["vendor"]
        self.labels = [entry["label"] for entry in self.entries]
        self.is_flag = np.array([entry["group"] == FLAG_GROUP for entry in self.entries])
        held_out = np.array([entry["held_out"] for entry in self.entries])
        test_vendor = next(number for number, vendor in enumerate(VENDORS) if vendor.name == held_out_vendor)
        out = {VENDORS[test_vendor].family, *also_out}
        in_training = np.array([vendor.family not in out for vendor in VENDORS])[self.vendor]
        self.train = self.select(in_training & ~held_out[self.emoji])
        seen = np.zeros(len(self.entries), bool)
        seen[self.train.names] = True
        self.vendor_split = self.select((self.vendor == test_vendor) & seen[self.emoji])
        self.names_split = self.select(in_training & held_out[self.emoji])
        self.both_split = self.select((self.vendor == test_vendor) & held_out[self.emoji])
        self.train_names = np.unique(self.train.names)
        self.monochrome = np.array([vendor.monochrome for vendor in VENDORS])[self.vendor]
        self.flippable = np.array([not any(word in label for word in SIDED) for label in self.labels])

    def select(self, chosen: np.ndarray) -> Pictures:
        rows = np.flatnonzero(chosen)
        return Pictures(rows, self.emoji[rows])

    def captions(self) -> list[str]:
        """Every caption string of the training names, templates apart: what the vocabulary is learnt from."""
        out = []
        for number in self.train_names:
            entry = self.entries[number]
            out += [entry["label"]] * 2 + entry["names"] + entry["keywords"]
        return out

    def caption(self, number: int, rng: random.Random) -> str:
        """A caption of emoji `number`: a name, keywords, name and keywords, a made-up phrase, or a definition."""
        entry = self.entries[number]
        label, keywords = entry["label"], entry["keywords"] + entry["wider"]
        others = entry["names"] + entry["synonyms"]
        kind = rng.random()
        if kind < 0.2 or not keywords:
            return rng.choice(TEMPLATES).format(rng.choice(others) if others and rng.random() < 0.5 else label)
        if kind < 0.3 and others:
            return rng.choice(others)
        if kind < 0.5 and entry["definition"]:
            clauses = entry["definition"]
            return rng.choice(clauses) if rng.random() < 0.5 else " ".join(clauses)
        picked = rng.sample(keywords, min(len(keywords), rng.choice((1, 2, 2, 3, 4))))
        if kind < 0.65:
            words = rng.sample([*keywords, label, *others], 2)
            return rng.choice(PHRASES).format(*words)
        text = rng.choice((" ", ", ")).join(picked)
        if kind < 0.75:
            return f"{label}, {text}" if rng.random() < 0.5 else f"{text} {label}"
        return rng.choice(TEMPLATES).format(text) if kind > 0.95 else text
