"""Write what the trainer reads: one record per emoji name, three evaluation sets, the vocabulary, the configuration.

    python examples/emoji/training_data.py SCRATCH

SCRATCH is build_data.py's folder. Writes into SCRATCH/emoji/:
- train.jsonl: a line per training name with all its pictures and CAPTIONS captions, half of them the name itself. A
  batch holds every name at most once, so no two of its pairs mean the same.
- vendor.jsonl, names.jsonl, both.jsonl: the held-out splits, a line per picture with the bare name.
- pictures/: what they name. Training pictures keep their transparency, and a margin that random crops move in.
- tokenizer/: the vocabulary, learnt from the training captions.
- train.yaml: the configuration, a copy of the one beside this script.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import bpe
import numpy as np
from dataset import HELD_OUT_VENDOR, EmojiData, Pictures
from PIL import Image, ImageOps

MERGES = 1534
CAPTIONS = 192
CAPTION_SEED = 1
MARGIN = 4  # pixels of transparency around a training picture of 64
CONFIG = Path(__file__).with_name("train.yaml")


def training_picture(premultiplied: np.ndarray) -> Image.Image:
    """A stored picture (premultiplied RGBA) with straight alpha and its margin."""
    height, width = premultiplied.shape[:2]
    picture = Image.frombytes("RGBa", (width, height), premultiplied.tobytes()).convert("RGBA")
    return ImageOps.expand(picture, MARGIN, fill=(0, 0, 0, 0))


def write_pictures(data: EmojiData, folder: Path) -> dict[int, list[str]]:
    """Every training picture, mirrored ones too where a mirrored one is right: name of the emoji -> relative paths.

    A colour picture is listed twice: a monochrome set teaches the outline only.
    """
    paths: dict[int, list[str]] = {}
    (folder / "pictures" / "train").mkdir(parents=True, exist_ok=True)
    for row, number in zip(data.train.rows.tolist(), data.train.names.tolist(), strict=True):
        picture = training_picture(data.rgba[row])
        mirrored = data.flippable[number]
        for suffix in ("", "-mirrored") if mirrored else ("",):
            path = f"pictures/train/{row}{suffix}.png"
            (ImageOps.mirror(picture) if suffix else picture).save(folder / path)
            # Each picture counts alike, whether or not it may be mirrored.
            repeats = (1 if data.monochrome[row] else 2) * (1 if mirrored else 2)
            paths.setdefault(number, []).extend([path] * repeats)
    return paths


def write_training(data: EmojiData, folder: Path) -> int:
    """train.jsonl and its pictures; returns the number of names."""
    random_numbers = random.Random(CAPTION_SEED)
    paths = write_pictures(data, folder)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for number in data.train_names.tolist():
            drawn = [data.caption(number, random_numbers) for _ in range(CAPTIONS // 2)]
            captions = [data.labels[number]] * (CAPTIONS - len(drawn)) + drawn
            record = {"name": data.labels[number], "image": paths[number], "caption": captions}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return len(paths)


def write_split(data: EmojiData, split: Pictures, name: str, folder: Path) -> None:
    """An evaluation set: pictures on white at the model's size, each with its bare name."""
    (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for row, number in zip(split.rows.tolist(), split.names.tolist(), strict=True):
            path = f"pictures/{name}/{row}.png"
            Image.fromarray(data.white[row]).save(folder / path)
            file.write(json.dumps({"image": path, "caption": data.labels[number]}, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--held-out-vendor", default=HELD_OUT_VENDOR)
    parser.add_argument("--also-out", nargs="*", default=[], help="further design families to leave out")
    args = parser.parse_args()
    data = EmojiData(args.scratch, args.held_out_vendor, tuple(args.also_out))
    folder = args.scratch / "emoji"
    folder.mkdir(exist_ok=True)
    names = write_training(data, folder)
    for name in ("vendor", "names", "both"):
        write_split(data, getattr(data, f"{name}_split"), name, folder)
    bpe.write_vocabulary(folder / "tokenizer", bpe.learn(data.captions(), MERGES))
    shutil.copyfile(CONFIG, folder / CONFIG.name)
    print(f"{names} names with {len(data.train.rows)} pictures in {folder}")


if __name__ == "__main__":
    main()
