"""How alike the held-out families' pictures are to those of other sets: the check behind leaving such ones out.

    python examples/icons/near_duplicates.py SCRATCH

Every picture is cut to its ink, brought to 32 x 32 grey pixels and standardised; two are near duplicates when their
correlation is at least 0.95 (grey, because a recoloured copy is still a copy). For Phosphor's regular cut and Fluent
Emoji's flat cut it prints, for each other set, the share of its pictures that have such a twin there, of any name; the
pairs go into SCRATCH/near_duplicates-SET.png, to be looked at. splits.py leaves out of training whatever is like a
picture of Phosphor; of Fluent's few twins (nearly all plain shapes) nothing is left out, as before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from draw import on_white, unit_prints
from PIL import Image
from splits import ALIKE, EMOJI_FAMILY, HELD_OUT_FAMILY, HELD_OUT_VENDOR, Data

SHOWN, COLUMNS, CELL = 256, 16, 68


def twins(data: Data, own: list[int], others: list[int]) -> list[tuple[int, int]]:
    """(picture, the most alike of the others) for every picture of `own` whose best correlation is at least ALIKE."""
    theirs = unit_prints(data.prints[others])
    scores = unit_prints(data.prints[own]) @ theirs.T
    best = scores.argmax(1)
    return [(row, others[best[number]]) for number, row in enumerate(own) if scores[number, best[number]] >= ALIKE]


def sheet(data: Data, pairs: list[tuple[int, int]]) -> Image.Image:
    """Pairs side by side, COLUMNS pairs to a row."""
    canvas = Image.new("RGB", (COLUMNS * 2 * CELL, max(1, -(-len(pairs) // COLUMNS)) * CELL), "white")
    for number, pair in enumerate(pairs):
        for side, row in enumerate(pair):
            place = (number % COLUMNS * 2 * CELL + side * (CELL - 4), number // COLUMNS * CELL)
            canvas.paste(on_white(data.picture(row)), place)
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    args = parser.parse_args()
    data = Data(args.scratch)
    by_set: dict[str, list[int]] = {}
    for row, picture in enumerate(data.pictures):
        by_set.setdefault(picture["set"], []).append(row)
    for held_out, split in ((HELD_OUT_FAMILY, "family"), (HELD_OUT_VENDOR, "vendor")):
        names = {picture["name"] for picture in data.pictures}
        own, pairs = data.split(split, names), []
        family = EMOJI_FAMILY.get(held_out)
        for name, rows in sorted(by_set.items()):
            if name == held_out or (family and EMOJI_FAMILY.get(name) == family):
                continue
            found = twins(data, own, rows)
            pairs += found
            if found:
                print(f"{held_out} / {name}: {len(found)} of {len(own)} ({len(found) / len(own):.1%})")
        print(f"{held_out}: {len({row for row, _ in pairs})} of {len(own)} have a twin in any other set")
        chosen = np.random.default_rng(0).permutation(len(pairs))[:SHOWN]
        sheet(data, [pairs[number] for number in chosen]).save(args.scratch / f"near_duplicates-{held_out}.png")


if __name__ == "__main__":
    main()
