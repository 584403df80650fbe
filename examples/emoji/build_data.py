"""Build the emoji data set: fetch the packages, rasterise the pictures, collect the words, fix the splits.

    python examples/emoji/build_data.py SCRATCH

writes SCRATCH/packages/ (unpacked npm packages), SCRATCH/emoji.json (names, captions, splits) and SCRATCH/pictures.npz.
Fetching needs `npm`; rasterising needs `resvg-py`. Steps whose result exists are not repeated.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import tarfile
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from vendors import SHORTCODE_SETS, VENDORS, WORD_PACKAGES, icon_pictures, normal_code, package_folder, slug_tables
from wordnet import WordNet

STORED = 64  # pixels of a stored picture; training crops and warps it to the model's size
RASTER = 96  # pixels of the rasterised picture, before it is reduced
MODEL = 48  # pixels of the model's input
HELD_OUT_NAMES = 200
SPLIT_SEED = 20240
COMPONENT_GROUP = 2  # skin tones and hair: parts, not pictures
FLAG_GROUP = 9


def fetch(packages: Path) -> None:
    """Download and unpack every package that is not there yet, at the versions the recipe names."""
    packages.mkdir(parents=True, exist_ok=True)
    wanted = [(vendor.package, vendor.version) for vendor in VENDORS] + list(WORD_PACKAGES)
    for package, version in wanted:
        folder = package_folder(packages, package, version)
        if folder.exists():
            continue
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        made = subprocess.run(command, cwd=packages, check=True, capture_output=True, text=True).stdout.split()[-1]
        partial = folder.with_suffix(".partial")
        with tarfile.open(packages / made) as archive:
            archive.extractall(partial, filter="data")
        (partial / "package").rename(folder)
        partial.rmdir()
        (packages / made).unlink()


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


def rasterise(job: tuple[str, bool]) -> tuple[np.ndarray, np.ndarray] | None:
    """One SVG as a (STORED, STORED, 4) premultiplied RGBA array and a (MODEL, MODEL, 3) RGB array on white.

    The second is what `CLIPImageProcessor` makes of the flattened picture: a bicubic resize. None for an empty picture.
    """
    import resvg_py

    text, mirrored = job
    data = bytes(resvg_py.svg_to_bytes(svg_string=text, width=RASTER, height=RASTER))
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    if picture.size != (RASTER, RASTER):
        square = Image.new("RGBA", (max(picture.size),) * 2)
        square.paste(picture, tuple((side - own) // 2 for side, own in zip(square.size, picture.size, strict=True)))
        picture = square.resize((RASTER, RASTER), Image.Resampling.LANCZOS)
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if picture.getextrema()[3][1] == 0:
        return None
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    stored = picture.convert("RGBa").resize((STORED, STORED), Image.Resampling.BOX)
    stored_array = np.frombuffer(stored.tobytes(), np.uint8).reshape(STORED, STORED, 4)
    return stored_array, np.asarray(white.resize((MODEL, MODEL), Image.Resampling.BICUBIC))


def build_pictures(packages: Path, entries: list[dict], workers: int) -> dict[str, np.ndarray]:
    """Every vendor's pictures, with the emoji and vendor each belongs to."""
    tables = slug_tables(entries, packages)
    index = {entry["code"]: number for number, entry in enumerate(entries)}
    found: dict[str, list] = {"rgba": [], "white": [], "emoji": [], "vendor": []}
    with ProcessPoolExecutor(workers) as pool:
        for number, vendor in enumerate(VENDORS):
            icons = list(icon_pictures(package_folder(packages, vendor.package, vendor.version), tables))
            jobs = [(svg, mirrored) for _, svg, mirrored in icons]
            drawn = zip(icons, pool.map(rasterise, jobs, chunksize=32), strict=True)
            made = [(code, result) for (code, *_), result in drawn if result]
            for code, (rgba, white) in made:
                for key, value in zip(found, (rgba, white, index[code], number), strict=True):
                    found[key].append(value)
            print(f"{vendor.name}: {len(made)} pictures of {len({code for code, _ in made})} emoji", flush=True)
    return {key: np.stack(value) if key in ("rgba", "white") else np.array(value) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    packages = args.scratch / "packages"
    fetch(packages)
    entries = read_words(packages)
    target = args.scratch / "pictures.npz"
    if not target.exists():
        partial = args.scratch / "pictures.partial.npz"
        np.savez(partial, **build_pictures(packages, entries, args.workers))
        partial.rename(target)
    pictures = np.load(target)
    emoji, vendor = pictures["emoji"].tolist(), pictures["vendor"].tolist()
    vendors_of: dict[str, set[str]] = {}
    for number, by in zip(emoji, vendor, strict=True):
        vendors_of.setdefault(entries[number]["code"], set()).add(VENDORS[by].name)
    held_out = choose_held_out(entries, vendors_of)
    for entry in entries:
        entry["held_out"] = entry["code"] in held_out
        entry["concept"] = concept(entry["code"])
        del entry["shortcodes"]
    (args.scratch / "emoji.json").write_text(json.dumps(entries, ensure_ascii=False, indent=0))
    print(f"{len(emoji)} pictures, {len(entries)} emoji, {len(held_out)} names held out")


if __name__ == "__main__":
    main()
