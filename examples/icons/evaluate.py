"""Recall of a model on the five held-out splits, beside chance and two baselines.

    python examples/icons/evaluate.py SCRATCH clip_core/models/icons [--output figures.json]

Prints a Markdown table. A picture's prompt is its bare name unless --templates asks for the model's own prompts. The
splits are those of splits.py; "family" is also given apart for names that other sets are trained on, and the others.
- pixel 1-NN answers with the name of the nearest training picture (squared distance on white at the model's size). It
  can't know a held-out name; on "names" and "both" it is given, in brackets, the training vendors' pictures of those
  names, a query's own design family left out.
- name words: the nearest training picture's name again, and candidates by how many of its words they share.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from retrieval import Gallery, chance, recall, word_scores
from splits import EMOJI_FAMILY, Data
from training_data import SPLITS

from triclip.pipeline import Clip

SIDE = 48


def on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("RGB")


def small(data: Data, rows: list[int]) -> np.ndarray:
    """uint8 [N, SIDE, SIDE, 3] on white."""
    pictures = (on_white(data.picture(row)).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for row in rows)
    return np.stack([np.asarray(picture) for picture in pictures])


def text_vectors(clip: Clip, names: list[str], templates: list[str]) -> np.ndarray:
    vectors = sum(clip.encode_text([template.format(name) for name in names], progress=False) for template in templates)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def model_figures(clip: Clip, data: Data, rows: list[int], templates: list[str]) -> dict[str, dict]:
    """Recall of pictures to names; where every name has one picture, of words to pictures too."""
    names = [data.pictures[row]["name"] for row in rows]
    candidates = sorted(set(names))
    wanted = np.searchsorted(candidates, names)
    pictures = [on_white(data.picture(row)) for row in rows]
    scores = clip.encode_image(pictures, batch_size=64, progress=False) @ text_vectors(clip, candidates, templates).T
    out = {"model": recall(scores, wanted)}
    if len(names) == len(candidates):
        out["model, words to pictures"] = recall(scores.T, np.argsort(wanted))
    return out


def baselines(data: Data, split: str, rows: list[int], gallery: Gallery) -> dict[str, dict]:
    """Pixel 1-NN and name words, from the training pictures; the bracketed figures of the held-out names."""
    names = [data.pictures[row]["name"] for row in rows]
    candidates = sorted(set(names))
    wanted = np.searchsorted(candidates, names)
    queries = small(data, rows)
    nearest, scores = gallery.search(queries, candidates)
    out = {"pixel 1-NN": recall(scores, wanted), "name words": recall(word_scores(nearest, candidates), wanted)}
    if split in ("names", "both"):
        out["(pixel 1-NN, given pictures of them)"] = recall(given(data, rows, queries, candidates), wanted)
    return out


def given(data: Data, rows: list[int], queries: np.ndarray, candidates: list[str]) -> np.ndarray:
    """Pixel 1-NN's scores from the training vendors' pictures of the held-out names, a query's own family left out."""
    theirs = data.split("names", set())
    pictures, names = small(data, theirs), np.array([data.pictures[row]["name"] for row in theirs])
    own, families = (np.array([EMOJI_FAMILY[data.pictures[row]["set"]] for row in part]) for part in (rows, theirs))
    out = np.empty((len(rows), len(candidates)), np.float32)
    for family in np.unique(own):
        others = families != family
        gallery = Gallery(pictures[others], list(names[others]))
        out[own == family] = gallery.search(queries[own == family], candidates)[1]
    return out


def without(data: Data, split: str, rows: list[int], trained: set[str]) -> dict[str, list[int]]:
    """Further cuts of a split, by what they are called."""
    if split == "family":
        seen = [row for row in rows if data.pictures[row]["name"] in trained]
        unseen = [row for row in rows if data.pictures[row]["name"] not in trained]
        return {"family, names seen": seen, "family, names never trained on": unseen}
    return {}


def evaluate(clip: Clip, data: Data, templates: list[str], with_baselines: bool) -> dict[str, dict]:
    """Split -> counts, and who -> R@1, R@5, R@10."""
    records = data.records()
    trained = {record.name for record in records}
    gallery = None
    if with_baselines:
        rows = [row for record in records for row in record.rows]
        gallery = Gallery(small(data, rows), [record.name for record in records for _ in record.rows])
    figures = {}
    for split in SPLITS:
        rows = data.split(split, trained)
        for name, part in {split: rows, **without(data, split, rows, trained)}.items():
            count = len({data.pictures[row]["name"] for row in part})
            figures[name] = {"pictures": len(part), "names": count, **model_figures(clip, data, part, templates)}
            if gallery is not None and name == split:
                figures[name] |= baselines(data, split, part, gallery)
            figures[name]["chance"] = chance(count)
    return figures


def table(figures: dict[str, dict]) -> str:
    lines = ["| split | pictures | names | who | R@1 | R@5 | R@10 |", "|---|---|---|---|---|---|---|"]
    for split, found in figures.items():
        for who, values in found.items():
            if isinstance(values, dict):
                cells = " | ".join(f"{100 * value:.1f}%" for value in values.values())
                lines.append(f"| {split} | {found['pictures']} | {found['names']} | {who} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--templates", action="store_true", help="average the model's own prompts over each name")
    parser.add_argument("--model-only", action="store_true", help="leave the baselines out")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    clip = Clip.from_pretrained(args.model)
    data = Data(args.scratch)
    figures = evaluate(clip, data, list(clip.templates) if args.templates else ["{}"], not args.model_only)
    print(table(figures))
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
