"""Icons of @iconify/json: which sets, which of their icons, under which names, and what words come with them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "OFL-1.1", "Unlicense", "BSD-3-Clause"}
BRAND_CATEGORIES = {"Logos"}  # whole sets of brands
BRAND_SETS = {"academicons", "vscode-icons", "material-icon-theme", "file-icons", "devicon", "devicon-plain",
              "catppuccin", "skill-icons", "gcp", "k8s", "unjs", "flat-ui", "fa6-brands", "fa-brands"}  # fmt: skip
FLAG_SETS = {"flag", "flagpack", "circle-flags", "cif"}  # country codes for names; the emoji sets have the flags
# Animated, letters alone, care symbols, or a set that another one here holds whole.
OTHER_SETS = {"svg-spinners", "ginetex", "material-symbols-light", "heroicons-outline", "heroicons-solid", "bxs", "bx",
              "fa6-solid", "fa6-regular", "fa-solid", "fa-regular", "mono-icons", "pepicons", "uim", "uit"}  # fmt: skip
# Names of brands that general sets hold too; what is an English word besides is kept.
BRAND_NAMES = ("simple-icons", "logos", "cib", "fa7-brands", "bxl", "devicon", "skill-icons", "token")
BRAND_PREFIXES = ("brand", "logo", "logos", "social")
STYLES = {"outline", "outlined", "filled", "fill", "solid", "line", "linear", "bold", "thin", "light", "regular",
          "duotone", "twotone", "rounded", "round", "sharp", "broken", "alt", "small", "color", "remix", "duo",
          "negative", "24px", "variant", "tone"}  # fmt: skip
# The one size and the styles taken of a set that draws one icon many times over; elsewhere every style is taken.
KEPT_STYLES = {
    "iconmind": ("outline-regular", "duotone-bold"),
    "keyline-icons": ("", "fill", "sharp-duotone"),
    "material-symbols": ("", "outline"),
    "ph": ("", "fill", "bold"),
    "solar": ("linear", "bold", "bold-duotone"),
}
# Sets whose single names are things, worth having though no other set draws them.
THINGS = {"game-icons", "pinhead", "temaki", "healthicons", "roentgen", "maki", "map", "osmic", "fluent-color",
          "streamline-freehand-color", "streamline-ultimate-color", "streamline-kameleon-color", "meteocons",
          "medical-icon", "dinkie-icons", "glyphs-poly", "flat-color-icons", "lucide-lab"}  # fmt: skip
HELD_OUT_FAMILY = "ph"
PICTURES = 14  # of a name, at most
PICTURE_SEED = 20242
SIZE = re.compile(r"-(\d\d)-(regular|filled|light|color)$")


@dataclass
class Icon:
    """One picture: where it is from, the words of its name, and the other words its set gives it."""

    set: str
    id: str
    name: str
    svg: str
    aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def kept_sets(folder: Path) -> dict[str, dict]:
    """Key -> collections.json's entry of every set that is used: an open licence, no brands, no emoji, no flags."""
    collections = json.loads((folder / "collections.json").read_text())
    return {
        key: entry
        for key, entry in collections.items()
        if entry["license"].get("spdx") in LICENCES
        and entry.get("category") not in (*BRAND_CATEGORIES, "Emoji")
        and key not in BRAND_SETS | FLAG_SETS | OTHER_SETS
        and not key.startswith("fluent-emoji")
    }


def name_words(icon: str, suffixes: list[str], prefixes: list[str]) -> tuple[str, str]:
    """(words of an icon's name without what says its style, the style): 'user-add-line' -> ('user add', 'line')."""
    style = next((part for part in sorted(suffixes, key=len, reverse=True) if part and icon.endswith("-" + part)), "")
    stem = icon[: -len(style) - 1] if style else icon
    before = next((part for part in prefixes if part and stem.startswith(part + "-")), "")
    stem = stem[len(before) + 1 :] if before else stem
    words = re.sub(r"([a-z])(\d+)$", r"\1-\2", stem.lower()).replace("_", "-").split("-")
    words = [word for word in words if word]
    while len(words) > 1 and (words[-1] in STYLES or words[-1].isdigit()):
        style = f"{words[-1]} {style}".strip()
        words.pop()
    return " ".join(words), f"{before} {style}".strip()


def brand_words(folder: Path, english: set[str]) -> set[str]:
    """Words that name a brand and are no English word."""
    found: set[str] = set()
    for key in BRAND_NAMES:
        for icon in json.loads((folder / "json" / f"{key}.json").read_text())["icons"]:
            found.update(word for word in icon.split("-")[:1] if len(word) > 2)
    return found - english


def is_brand(name: str, brands: set[str]) -> bool:
    words = name.split()
    return words[0] in BRAND_PREFIXES or words[-1] in ("logo", "logos") or any(word in brands for word in words)


def one_size(icons: list[str]) -> list[str]:
    """Of names that differ in their size alone ('add-16-filled', 'add-24-filled') the one nearest to 24 pixels."""
    best: dict[str, str] = {}
    for icon in icons:
        match = SIZE.search(icon)
        key = f"{icon[: match.start()]}-{match[2]}" if match else icon
        size = int(match[1]) if match else 24
        if key not in best or abs(size - 24) < abs(int(SIZE.search(best[key])[1]) - 24):
            best[key] = icon
    return list(best.values())


def svg_text(icon: dict, icons: dict) -> str:
    """An icon's body as a whole SVG document, `currentColor` drawn black."""
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    body = icon["body"].replace("currentColor", "#000000")
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'


def set_icons(folder: Path, key: str, brands: set[str], tags: dict[str, list[str]]) -> Iterator[Icon]:
    """The icons of one set that are used. `tags`: name of an icon -> words that its own package gives it."""
    data = json.loads((folder / "json" / f"{key}.json").read_text())
    suffixes, prefixes = list(data.get("suffixes", {})), list(data.get("prefixes", {}))
    categories: dict[str, list[str]] = {}
    for category, members in data.get("categories", {}).items():
        for member in members:
            categories.setdefault(member, []).append(re.sub(r"([a-z])([A-Z])", r"\1 \2", category).lower())
    aliases: dict[str, list[str]] = {}
    for alias, entry in data.get("aliases", {}).items():
        if set(entry) == {"parent"}:
            aliases.setdefault(entry["parent"], []).append(name_words(alias, suffixes, prefixes)[0])
    visible = [icon for icon, entry in data["icons"].items() if not entry.get("hidden")]
    for icon in one_size(visible) if key == "fluent" else visible:
        name, style = name_words(icon, suffixes, prefixes)
        given = [word for member in (icon, name.replace(" ", "-")) for word in categories.get(member, [])]
        brand = is_brand(name, brands) or any("brand" in word or "logo" in word for word in given)
        if brand or (key in KEPT_STYLES and style not in KEPT_STYLES[key]) or (key == "ic" and "sharp" in style):
            continue
        own_tags = tags.get(icon, tags.get(name.replace(" ", "-"), []))
        others = [alias for alias in dict.fromkeys(aliases.get(icon, [])) if alias != name]
        yield Icon(key, icon, name, svg_text(data["icons"][icon], data), others, [*dict.fromkeys(own_tags + given)])


def package_tags(packages: Path) -> dict[str, dict[str, list[str]]]:
    """Set -> icon -> the tags in the set's own package."""
    lucide = json.loads(next(packages.glob("lucide-static-*/tags.json")).read_text())
    tabler = json.loads(next(packages.glob("tabler-icons-*/icons.json")).read_text())
    return {
        "lucide": lucide,
        "tabler": {name: [str(tag).replace("-", " ") for tag in entry["tags"]] for name, entry in tabler.items()},
    }


def worth_drawing(icons: list[Icon], common: Collection[str]) -> list[Icon]:
    """The icons of names that several sets draw, of single words and of sets of things; PICTURES of a name at most.

    `common`: words that a name may be made of, numbers and letters apart. The held-out family stays whole.
    """
    sets: dict[str, set[str]] = {}
    for icon in icons:
        sets.setdefault(icon.name, set()).add(icon.set)
    chosen: dict[str, list[Icon]] = {}
    for icon in icons:
        words = icon.name.split()
        known = len(words) <= 6 and all(word in common or word.isdigit() or len(word) == 1 for word in words)
        single = len(words) == 1 and len(words[0]) > 2
        if known and (len(sets[icon.name]) > 1 or single or sets[icon.name] & THINGS):
            chosen.setdefault(icon.name, []).append(icon)
    kept = [icon for icon in icons if icon.set == HELD_OUT_FAMILY]
    for name, found in sorted(chosen.items()):
        others = [icon for icon in found if icon.set != HELD_OUT_FAMILY]
        random.Random(f"{PICTURE_SEED} {name}").shuffle(others)
        kept += others[:PICTURES]
    return kept
