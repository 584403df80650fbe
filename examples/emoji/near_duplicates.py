"""How alike the vendors' pictures of one emoji are: the check behind holding out one design family.

    python examples/emoji/near_duplicates.py SCRATCH [--held-out fluent-emoji-flat]

Every picture is cut to its ink, brought to 32 x 32 grey pixels and standardised; two pictures of one emoji are called
near duplicates when their correlation is at least 0.95. (Grey, because a recoloured copy is still a copy.) The rate
is printed for each pair of sets, flags apart, beside the same rate between pictures of *different* emoji (chance).
Near duplicates of the held-out set that remain in training are listed in SCRATCH/near_duplicates.json and shown in
SCRATCH/near_duplicates.png; evaluate.py gives a figure without them.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from build_data import FLAG_GROUP
from PIL import Image
from vendors import VENDORS

SIDE = 32
ALIKE = 0.95


def fingerprint(white: np.ndarray) -> np.ndarray:
    """A (48, 48, 3) picture on white as a unit vector: its ink's bounding square in grey, mean 0."""
    grey = Image.fromarray(white).convert("L")
    box = grey.point(lambda value: 255 if value < 250 else 0).getbbox() or (0, 0, *grey.size)
    vector = np.asarray(grey.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32).ravel()
    vector -= vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def compare(prints: np.ndarray, left: dict[int, int], right: dict[int, int], emoji: list[int]) -> tuple[list[int], str]:
    """The emoji that two sets draw alike, and their rate beside that of unrelated pairs, as text."""
    if not emoji:
        return [], f"{0:6d}"
    one, other = (prints[[rows[number] for number in emoji]] for rows in (left, right))
    alike = (one * other).sum(1) >= ALIKE
    chance = (one * np.roll(other, 7, 0)).sum(1) >= ALIKE
    found = [number for number, yes in zip(emoji, alike, strict=True) if yes]
    return found, f"{len(emoji):6d} {alike.mean():6.1%} {chance.mean():6.1%}"


def draw_pairs(pairs: list[tuple[int, int]], white: np.ndarray) -> Image.Image:
    """Pairs of pictures side by side, sixteen pairs to a row."""
    columns = 16
    sheet = Image.new("RGB", (columns * 104, max(1, -(-len(pairs) // columns)) * 52), "white")
    for number, pair in enumerate(pairs):
        for side, row in enumerate(pair):
            sheet.paste(Image.fromarray(white[row]), (number % columns * 104 + side * 50, number // columns * 52))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--held-out", default="fluent-emoji-flat")
    args = parser.parse_args()
    entries = json.loads((args.scratch / "emoji.json").read_text())
    data = np.load(args.scratch / "pictures.npz")
    white = data["white"]
    prints = np.stack([fingerprint(picture) for picture in white])
    rows: list[dict[int, int]] = [{} for _ in VENDORS]
    for row, (emoji, vendor) in enumerate(zip(data["emoji"].tolist(), data["vendor"].tolist(), strict=True)):
        rows[vendor].setdefault(emoji, row)
    held_out = next(number for number, vendor in enumerate(VENDORS) if vendor.name == args.held_out)
    pairs = []
    print(f"{'pair':56s}  emoji  alike chance | flags  alike chance")
    for a, b in combinations(range(len(VENDORS)), 2):
        common = sorted(rows[a].keys() & rows[b].keys())
        flags = [number for number in common if entries[number]["group"] == FLAG_GROUP]
        alike, others = compare(prints, rows[a], rows[b], sorted(set(common) - set(flags)))
        alike_flags, text = compare(prints, rows[a], rows[b], flags)
        print(f"{VENDORS[a].name + ' / ' + VENDORS[b].name:56s} {others} |{text}")
        if held_out in (a, b) and VENDORS[a].family != VENDORS[b].family:
            pairs += [(rows[held_out][number], rows[a + b - held_out][number]) for number in alike + alike_flags]
    names = sorted({entries[data["emoji"][own]]["label"] for own, _ in pairs})
    print(f"{args.held_out} drawn alike outside its family: {len(names)} emoji: {', '.join(names)}")
    (args.scratch / "near_duplicates.json").write_text(json.dumps(names))
    draw_pairs(pairs, white).save(args.scratch / "near_duplicates.png")


if __name__ == "__main__":
    main()
