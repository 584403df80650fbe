"""How alike the vendors' pictures of one emoji are: the check behind holding out one design family.

    python examples/emoji/near_duplicates.py SCRATCH [--held-out fluent-emoji-flat]

Every picture is cut to its ink, brought to 32 x 32 grey pixels and standardised; two pictures of one emoji are called
near duplicates when their correlation is at least 0.95. (Grey, because a recoloured copy is still a copy.) The rate
is printed for each pair of sets, flags apart, beside the same rate between pictures of *different* emoji (chance).
Near duplicates of the held-out set that remain in training are listed, and shown in SCRATCH/near_duplicates.png.
"""

from __future__ import annotations

import argparse
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--held-out", default="fluent-emoji-flat")
    args = parser.parse_args()
    entries = json.loads((args.scratch / "emoji.json").read_text())
    data = np.load(args.scratch / "pictures.npz")
    prints = np.stack([fingerprint(white) for white in data["white"]])
    table: list[dict[int, int]] = [{} for _ in VENDORS]
    for row, (emoji, vendor) in enumerate(zip(data["emoji"].tolist(), data["vendor"].tolist(), strict=True)):
        table[vendor].setdefault(emoji, row)
    flags = {number for number, entry in enumerate(entries) if entry["group"] == FLAG_GROUP}
    held_out = next(number for number, vendor in enumerate(VENDORS) if vendor.name == args.held_out)
    listed = []
    print(f"{'pair':56s} emoji  alike  chance   flags  alike")
    for a in range(len(VENDORS)):
        for b in range(a + 1, len(VENDORS)):
            common = sorted(table[a].keys() & table[b].keys())
            rates = []
            for group in ([c for c in common if c not in flags], [c for c in common if c in flags]):
                left, right = (prints[[t[c] for c in group]] for t in (table[a], table[b]))
                alike = (left * right).sum(1) >= ALIKE if group else np.zeros(0, bool)
                chance = (left * np.roll(right, 7, 0)).sum(1) >= ALIKE if group else alike
                rates += [len(group), float(alike.mean()) if group else 0.0, float(chance.mean()) if group else 0.0]
                if held_out in (a, b) and VENDORS[a].family != VENDORS[b].family:
                    group = [emoji for emoji, yes in zip(group, alike, strict=True) if yes]
                    listed += [(table[held_out][emoji], table[a + b - held_out][emoji]) for emoji in group]
            pair = f"{VENDORS[a].name} / {VENDORS[b].name}"
            print(f"{pair:56s} {rates[0]:5d} {rates[1]:6.1%} {rates[2]:7.1%} {rates[3]:7d} {rates[4]:6.1%}")
    labels = [entries[data["emoji"][own]]["label"] for own, _ in listed]
    print(f"alike {args.held_out} outside its family: {len(set(labels))} emoji: {', '.join(dict.fromkeys(labels))}")
    columns = 16
    sheet = Image.new("RGB", (columns * 104, max(1, -(-len(listed) // columns)) * 52), "white")
    for number, pair in enumerate(listed):
        for side, row in enumerate(pair):
            place = (number % columns * 104 + side * 50, number // columns * 52)
            sheet.paste(Image.fromarray(data["white"][row]), place)
    sheet.save(args.scratch / "near_duplicates.png")


if __name__ == "__main__":
    main()
