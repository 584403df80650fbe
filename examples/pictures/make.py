"""Draws the figures of docs/pictures.md with the embedded model, as small PNGs.

    python examples/pictures/make.py docs/images/gallery [NAME ...]

Needs the extras viz, train and torch; `conformance` compares all backends that are installed. A few minutes on two
cores, most of them for the two short training runs of `loss`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_core.hub import MODELS
from triclip import Clip, metrics, viz
from triclip.conform import conform, draw_report
from triclip.explain import explain
from triclip.train.load import load_config
from triclip.train.loop import train

PICTURES = MODELS / "emoji" / "pictures"
ABOUT = json.loads((PICTURES / "demo.json").read_text(encoding="utf-8"))["pictures"]
FILES = [PICTURES / one["file"] for one in ABOUT]
NAMES = [one["name"] for one in ABOUT]
PROMPTS = [one["prompt"] for one in ABOUT]
WIDTH, LARGEST = 960, 80_000  # pixels and bytes of a PNG


def similarity(clip: Clip) -> Any:
    return viz.similarity_grid(FILES[:8], PROMPTS[:8], clip.similarity(FILES[:8], PROMPTS[:8]))


def predictions(clip: Clip) -> Any:
    return viz.predictions(FILES[:4], [row[:4] for row in clip.classify(FILES[:4], NAMES)], truth=NAMES[:4], top=4)


def retrieval(clip: Clip) -> Any:
    queries = ["something to eat", "an animal", PICTURES / "rocket.png"]
    vectors = clip.encode_image(FILES)
    asked = np.concatenate([clip.encode_text(queries[:2]), clip.encode_image(queries[2:])])
    cosines = asked @ vectors.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :5]
    return viz.retrieval_sheet(queries, [[FILES[i] for i in row] for row in best], np.take_along_axis(cosines, best, 1))


def explanations(clip: Clip) -> Any:
    pairs = [("birthday-cake.png", "a cake with candles", "relevance"), ("rocket.png", "a rocket in space", "rollout")]
    return viz.explanations([explain(clip, PICTURES / name, text, method) for name, text, method in pairs])


def embeddings(clip: Clip) -> Any:
    return viz.embedding_map(clip.encode_image(FILES), NAMES, pictures=FILES)


def confusion(clip: Clip) -> Any:
    predicted = clip.classify(FILES, NAMES).probabilities.argmax(1)
    return viz.confusion_matrix(range(len(NAMES)), predicted, NAMES, normalize=False)


def recall(clip: Clip) -> Any:
    vectors, right = clip.encode_image(FILES), np.arange(len(FILES))
    texts = {"names alone": NAMES, "sentences": PROMPTS}
    return viz.recall_bars({name: metrics.retrieval(vectors, clip.encode_text(t), right) for name, t in texts.items()})


def loss(clip: Clip) -> Any:
    """Two runs that go on with the embedded model on sixteen pictures, at two learning rates."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "pairs.jsonl")
        rows = [{"image": str(file), "caption": prompt} for file, prompt in zip(FILES, PROMPTS, strict=True)]
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs = {}
        for rate in ("1e-5", "1e-4"):
            config = Path(folder, f"{rate}.yaml")
            config.write_text(
                f"output: {folder}/{rate}\nsteps: 60\nbackend: torch\nmodel: {{init: emoji}}\n"
                f"data: {{train: {table}, batch_size: 8}}\noptimizer: {{lr: {rate}, warmup: 10}}\n"
                "log: {every: 1, tensorboard: false}\n"
            )
            train(load_config(config, []))
            runs[f"learning rate {rate}"] = viz.read_metrics(Path(folder, rate))
        return viz.loss_curves(runs, ["loss", "grad_norm", "lr"])


def conformance(clip: Clip) -> Any:
    return draw_report(conform("emoji"))


FIGURES: tuple[Callable[[Clip], Any], ...] = (
    similarity, predictions, retrieval, explanations, embeddings, confusion, recall, loss, conformance,
)  # fmt: skip


def save_small(figure: Any, path: Path) -> int:
    """At most 960 pixels wide, in all its colours where that is small enough, else in 256; returns its bytes.

    Raises ValueError when they are too many.
    """
    image = Image.open(viz.save(figure, path)).convert("RGB")
    image.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    for fewer in (image, image.quantize(256), image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)):
        fewer.save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            return path.stat().st_size
    raise ValueError(f"{path}: wanted at most {LARGEST} bytes, found {path.stat().st_size}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default all")
    args = parser.parse_args()
    known = {figure.__name__: figure for figure in FIGURES}
    clip = Clip.from_pretrained("emoji")
    for name in args.names or known:
        size = save_small(known[name](clip), args.folder / f"{name}.png")
        print(f"{name}: {size} bytes", flush=True)


if __name__ == "__main__":
    main()
