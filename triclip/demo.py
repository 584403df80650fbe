"""`triclip demo`: classify the bundled pictures with the embedded model, search them by words, and draw a grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clip_core.hub import MODELS

from .grid import draw_grid
from .pipeline import Clip

PICTURES = MODELS / "emoji" / "pictures"


def show(output: Path, backend: str | None = None) -> int:
    """Print two ranked tables and write `similarity.png` into the folder `output`. Returns the exit code."""
    about = json.loads((PICTURES / "demo.json").read_text(encoding="utf-8"))
    pictures = [PICTURES / entry["file"] for entry in about["pictures"]]
    names = [entry["name"] for entry in about["pictures"]]
    prompts = [entry["prompt"] for entry in about["pictures"]]
    clip = Clip.from_pretrained("emoji", backend=backend)
    vectors = clip.encode_image(pictures)

    print(f"{len(pictures)} pictures by a vendor whose drawings the model never saw.\n")
    print("Which name fits each picture?")
    ranked = clip.classify(vectors, names)
    for name, row in zip(names, ranked, strict=True):
        guesses = ", ".join(f"{label} {probability:.0%}" for label, probability in row[:3])
        print(f"  {'+' if row[0][0] == name else ' '} {name:<26} {guesses}")

    print("\nWhich pictures fit each sentence? No sentence was in the training captions.")
    cosines = clip.similarity(vectors, prompts)  # [pictures, sentences]
    for column, prompt in enumerate(prompts):
        best = np.argsort(-cosines[:, column], kind="stable")[:3]
        found = ", ".join(f"{names[i]} {cosines[i, column]:.2f}" for i in best)
        print(f"  {'+' if best[0] == column else ' '} {prompt:<44} {found}")

    right_names = sum(row[0][0] == name for name, row in zip(names, ranked, strict=True))
    right_pictures = int((cosines.argmax(axis=0) == np.arange(len(prompts))).sum())
    count = len(pictures)
    print(f"\nRight at the first rank: {right_names}/{count} names, {right_pictures}/{count} sentences (+).")
    path = draw_grid(pictures, prompts, cosines, output / "similarity.png")
    print(f"The grid of all similarities is in {path}")
    return 0
