"""Names and words of the emoji, and the names that are held out of training."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

from vendors import SHORTCODE_SETS, WORD_PACKAGES, normal_code, package_folder
from wordnet import WordNet

HELD_OUT_NAMES = 200
SPLIT_SEED = 20240
COMPONENT_GROUP = 2  # skin tones and hair: parts, not pictures
FLAG_GROUP = 9


def read_words(packages: Path) -> list[dict]:
    """One entry per emoji without skin tone: code, label, group, and words of every kind."""
    base, lib, wordnet = (package_folder(packages, *package) for package in WORD_PACKAGES)
    library = json.loads((lib / "dist" / "emoji-en-US.json").read_text())
    library = {normal_code("-".join(f"{ord(c):x}" for c in key)): words for key, words in library.items()}
    shortcodes: dict[str, list[str]] = {}
    for name in SHORTCODE_SETS:
        for code, words in json.loads((base / "en" / "shortcodes" / f"{name}.json").read_text()).items():
            shortcodes.setdefault(normal_code(code), []).extend([words] if isinstance(words, str) else words)
    meanings = WordNet(wordnet)
    entries = []
    for item in json.loads((base / "en" / "data.json").read_text()):
        if item.get("group") in (None, COMPONENT_GROUP):
            continue
        code = normal_code(item["hexcode"])
        label = plain(item["label"])
        keywords = dict.fromkeys(plain(word) for word in [*item.get("tags", []), *library.get(code, [])])
        names = [plain(unicodedata.name(item["emoji"][0], ""))] if "-" not in code else []
        names += [plain(word) for word in shortcodes.get(code, [])]
        sense = None if item["group"] == FLAG_GROUP else meanings.find(label, list(keywords))
        entries.append(
            {
                "code": code, "label": label, "group": item["group"], "shortcodes": shortcodes.get(code, []),
                "names": [word for word in dict.fromkeys(names) if word and word != label],
                "keywords": [word for word in keywords if word and word != label],
                "synonyms": [word for word in sense.synonyms if word != label] if sense else [],
                "wider": sense.wider if sense else [], "definition": sense.definition if sense else [],
            }
        )  # fmt: skip
    return entries


def plain(text: str) -> str:
    """Lower case, with typographic quotes and underscores made plain."""
    for old, new in (("’", "'"), ("“", ""), ("”", ""), ("_", " "), ("⊛ ", "")):
        text = text.replace(old, new)
    return " ".join(text.lower().split())


def concept(code: str) -> str:
    """What an emoji shows, whoever shows it: one key for the man's, woman's, person's and right-facing variants."""
    parts = [part for part in code.split("-") if part not in ("200d", "2640", "2642", "27a1")]
    if len(parts) > 1 and parts[0] in ("1f468", "1f469", "1f9d1"):
        return "role-" + "-".join(parts[1:])
    return "-".join(parts)


def choose_held_out(entries: list[dict], vendors_of: dict[str, set[str]]) -> set[str]:
    """HELD_OUT_NAMES codes, whole concepts at a time, none of them a flag, each drawn by at least five vendors."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        groups.setdefault(concept(entry["code"]), []).append(entry["code"])
    flags = {entry["code"] for entry in entries if entry["group"] == FLAG_GROUP}
    order = sorted(groups)
    random.Random(SPLIT_SEED).shuffle(order)
    chosen: set[str] = set()
    for key in order:
        codes = groups[key]
        good = all(code not in flags and len(vendors_of.get(code, ())) >= 5 for code in codes)
        if good and len(codes) <= 3 and len(chosen) + len(codes) <= HELD_OUT_NAMES:
            chosen |= set(codes)
    return chosen
