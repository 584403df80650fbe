"""`triclip demo`: name the bundled pictures with the embedded model, search them and a sheet of icons, draw both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_core.hub import DEFAULT_MODEL, resolve_folder

from .grid import draw_found, draw_grid
from .pipeline import Clip

PICTURES = resolve_folder(DEFAULT_MODEL) / "pictures"
FOUND = 3  # answers printed
DRAWN = 8  # pictures drawn of each search


def show(output: Path, backend: str | None = None) -> int:
    """Print ranked tables and write `similarity.png` and, of the sheet, `search.png` into `output`. The exit code."""
    about = json.loads((PICTURES / "demo.json").read_text(encoding="utf-8"))
    clip = Clip.from_pretrained(backend=backend)
    show_pictures(clip, about["pictures"], output)
    if "sheet" in about:
        show_sheet(clip, about["sheet"], output)
    return 0


def show_pictures(clip: Clip, listed: list[dict[str, Any]], output: Path) -> None:
    """Which name, and which sentence, fits each picture."""
    pictures = [PICTURES / entry["file"] for entry in listed]
    names, prompts = ([entry[key] for entry in listed] for key in ("name", "prompt"))
    vectors = clip.encode_image(pictures)
    print(f"{len(pictures)} pictures by a vendor whose drawings the model never saw.\n")
    print("Which name fits each picture?")
    ranked = clip.classify(vectors, names)
    for name, row in zip(names, ranked, strict=True):
        guesses = ", ".join(f"{label} {probability:.0%}" for label, probability in row[:FOUND])
        print(f"  {'+' if row[0][0] == name else ' '} {name:<26} {guesses}")

    print("\nWhich pictures fit each sentence? No sentence was in the training captions.")
    cosines = clip.similarity(vectors, prompts)  # [pictures, sentences]
    for column, prompt in enumerate(prompts):
        best = np.argsort(-cosines[:, column], kind="stable")[:FOUND]
        found = ", ".join(f"{names[i]} {cosines[i, column]:.2f}" for i in best)
        print(f"  {'+' if best[0] == column else ' '} {prompt:<44} {found}")

    right_names = sum(row[0][0] == name for name, row in zip(names, ranked, strict=True))
    right_pictures = int((cosines.argmax(axis=0) == np.arange(len(prompts))).sum())
    count = len(pictures)
    print(f"\nRight at the first rank: {right_names}/{count} names, {right_pictures}/{count} sentences (+).")
    path = draw_grid(pictures, prompts, cosines, output / "similarity.png")
    print(f"The grid of all similarities is in {path}")


def show_sheet(clip: Clip, sheet: dict[str, Any], output: Path) -> None:
    """A sheet of icons searched by sentences; several icons may be right for one."""
    icons, names = tiles(sheet), sheet["names"]
    sentences = [search["sentence"] for search in sheet["searches"]]
    right = [set(search["right"]) for search in sheet["searches"]]
    cosines = clip.similarity(clip.encode_image(icons, progress=False), sentences)
    order = np.argsort(-cosines, axis=0, kind="stable")
    print(f"\n{len(icons)} icons of a family the model never saw, searched by sentences. Right ones have a +.")
    for column, sentence in enumerate(sentences):
        best = order[:FOUND, column]
        found = ", ".join(f"{'+' if names[i] in right[column] else ''}{names[i]}" for i in best)
        print(f"  {'+' if names[best[0]] in right[column] else ' '} {sentence:<44} {found}")
    first = sum(names[order[0, column]] in own for column, own in enumerate(right))
    among = sum(any(names[i] in own for i in order[:FOUND, column]) for column, own in enumerate(right))
    print(f"\nRight at the first rank: {first}/{len(sentences)}, among the first {FOUND}: {among}/{len(sentences)}.")
    found_icons = [[(icons[i], names[i] in own) for i in order[:DRAWN, column]] for column, own in enumerate(right)]
    print(f"What was found is in {draw_found(sentences, found_icons, output / 'search.png')}")


def tiles(sheet: dict[str, Any]) -> list[Image.Image]:
    """The icons of a sheet, from the left and the top."""
    side, columns = sheet["side"], sheet["columns"]
    with Image.open(PICTURES / sheet["file"]) as whole:
        picture = whole.convert("RGB")
    places = [divmod(number, columns) for number in range(len(sheet["names"]))]
    return [picture.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)) for y, x in places]
