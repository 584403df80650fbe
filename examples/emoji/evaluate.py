"""Recall of an exported model on the three splits, beside chance and pixel nearest neighbours.

    python examples/emoji/evaluate.py SCRATCH clip_core/models/emoji [--output figures.json]

Prints a Markdown table. Pictures are flattened on white; every emoji's prompt is its bare name unless --templates asks
for the model's own prompts. The splits:
- vendor: the held-out vendor's pictures of names seen in training, among all those names (also without
  flags, and without the emoji that near_duplicates.py found drawn alike elsewhere);
- names: the training vendors' pictures of the 200 held-out names, among those 200;
- both: the held-out vendor's pictures of the 200 held-out names, among those 200.
Pixel 1-NN answers with the name of the nearest training picture. It can't know a held-out name, so on the last two
splits it is given the training vendors' pictures of those names, the query's own design family left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from dataset import EmojiData, Pictures
from retrieval import chance, nearest_names, recall
from vendors import VENDORS

from triclip.pipeline import Clip

FAMILY = np.array([vendor.family for vendor in VENDORS])


def pixel_scores(data: EmojiData, split: Pictures, gallery: Pictures, candidates: np.ndarray) -> np.ndarray:
    """Pixel 1-NN's scores (queries, candidates), a query's own family left out of the gallery."""
    out = np.full((len(split.rows), len(candidates)), -np.inf, np.float32)
    own, theirs = FAMILY[data.vendor[split.rows]], FAMILY[data.vendor[gallery.rows]]
    for family in np.unique(own):
        queries, rows = np.flatnonzero(own == family), np.flatnonzero(theirs != family)
        white = data.white[gallery.rows[rows]]
        out[queries] = nearest_names(data.white[split.rows[queries]], white, gallery.names[rows], candidates)
    return out


def all_splits(data: EmojiData, alike: list[str]) -> dict[str, tuple[Pictures, Pictures]]:
    """Name of a split -> its pictures, and the gallery of pixel 1-NN. `alike`: names of near duplicates."""
    own = np.isin(np.arange(len(data.emoji)), data.vendor_split.rows)
    copied = np.isin(data.labels, alike)
    splits = {"vendor": (data.vendor_split, data.train)}
    splits["vendor, no flags"] = (data.select(own & ~data.is_flag[data.emoji]), data.train)
    if alike:
        splits["vendor, no near duplicates"] = (data.select(own & ~copied[data.emoji]), data.train)
    splits["names"] = (data.names_split, data.names_split)
    splits["both"] = (data.both_split, data.names_split)
    return splits


def evaluate(clip: Clip, data: EmojiData, templates: list[str], alike: list[str]) -> dict[str, dict]:
    """Split -> what is asked -> R@1, R@5, R@10 (and the counts)."""
    figures: dict[str, dict] = {}
    for key, (split, gallery) in all_splits(data, alike).items():
        candidates = np.unique(split.names)
        wanted = np.searchsorted(candidates, split.names)
        prompts = [[template.format(data.labels[name]) for name in candidates] for template in templates]
        texts = sum(clip.encode_text(part, progress=False) for part in prompts)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        scores = clip.encode_image(list(data.white[split.rows]), batch_size=256, progress=False) @ texts.T
        pixels = pixel_scores(data, split, gallery, candidates)
        figures[key] = {
            "pictures": len(split.rows), "names": len(candidates), "model": recall(scores, wanted),
            "chance": chance(len(candidates)), "pixel 1-NN": recall(pixels, wanted),
        }  # fmt: skip
        if len(split.rows) == len(candidates):  # one picture per name: search by words makes sense too
            figures[key]["model, words to pictures"] = recall(scores.T, np.argsort(wanted))
    return figures


def table(figures: dict[str, dict]) -> str:
    lines = ["| split | pictures | names | who | R@1 | R@5 | R@10 |", "|---|---|---|---|---|---|---|"]
    for split, found in figures.items():
        for who in ("model", "model, words to pictures", "pixel 1-NN", "chance"):
            if who in found:
                values = " | ".join(f"{100 * value:.1f}%" for value in found[who].values())
                lines.append(f"| {split} | {found['pictures']} | {found['names']} | {who} | {values} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--held-out-vendor", default="fluent-emoji-flat")
    parser.add_argument("--templates", action="store_true", help="average the model's own prompts over each name")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    clip = Clip.from_pretrained(args.model)
    data = EmojiData(args.scratch, args.held_out_vendor)
    listed = args.scratch / "near_duplicates.json"
    alike = json.loads(listed.read_text()) if listed.exists() else []
    figures = evaluate(clip, data, list(clip.templates) if args.templates else ["{}"], alike)
    print(table(figures))
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
