"""Begin the picture tower with that of this project's earlier emoji model, and its projection where the words are.

    python examples/icons/picture_tower.py SCRATCH EMOJI_MODEL

EMOJI_MODEL is the folder of the model that this one replaces (`clip_core/models/emoji` in this repository's history),
which was trained from scratch on the emoji sets alone, with the same vendor and the same 200 names held out. Its layers
come first; those that model.json has more begin as the identity. The projection is fitted (ridge regression) so that
training pictures land on their names' vectors. Changes SCRATCH/icons/start, which text_tower.py wrote.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from clip_core import CLIPImageProcessor, CLIPTokenizer
from clip_core.image.input import flatten
from clip_torch import CLIPModel
from triclip.data.pictures import open_picture
from triclip.data.sources import open_source

SAMPLES = 6000
RIDGE = 1e-2
SEED = 5


def copy_layers(model: CLIPModel, earlier: CLIPModel) -> None:
    """The earlier picture tower's weights into `model`; further layers add nothing at first."""
    theirs = earlier.vision_model.state_dict()
    own = model.vision_model.state_dict()
    for name, value in own.items():
        if name in theirs:
            own[name] = theirs[name]
        elif name.endswith(("out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias")):
            own[name] = torch.zeros_like(value)
    model.vision_model.load_state_dict(own)


@torch.inference_mode()
def fit_projection(model: CLIPModel, tokenizer: CLIPTokenizer, data: Path) -> float:
    """Ridge regression from pooled features to name vectors; returns the mean cosine on those pictures."""
    rng, source = random.Random(SEED), open_source([data])
    size = model.config.vision_config.image_size
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    features, names = [], []
    chosen = rng.sample(range(len(source)), min(SAMPLES, len(source)))
    for start in range(0, len(chosen), 256):
        pictures = []
        for number in chosen[start : start + 256]:
            sample = source[number]
            names.append(sample.captions[0])
            pictures.append(flatten(open_picture(rng.choice(sample.images), sample.name)))
        pixels = torch.from_numpy(np.stack(processor(pictures, return_tensors="np")["pixel_values"]))
        features.append(model.vision_model(pixel_values=pixels).pooler_output)
    texts = []
    for start in range(0, len(names), 256):
        ids = tokenizer(names[start : start + 256], padding=True, truncation=True, return_tensors="pt")["input_ids"]
        texts.append(model.get_text_features(input_ids=ids))
    x, y = torch.cat(features).double(), functional.normalize(torch.cat(texts).double(), dim=-1)
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ y).T
    weight *= 1 / (x @ weight.T).norm(dim=-1).mean()
    model.visual_projection.weight.copy_(weight)
    return float(functional.cosine_similarity(x @ weight.T, y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("earlier", type=Path)
    args = parser.parse_args()
    folder = args.scratch / "icons"
    model = CLIPModel.from_pretrained(folder / "start").eval()
    copy_layers(model, CLIPModel.from_pretrained(args.earlier).float())
    cosine = fit_projection(model, CLIPTokenizer.from_pretrained(folder / "tokenizer"), folder / "train.array_record")
    model.save_pretrained(folder / "start")
    print(f"mean cosine of a training picture and its name: {cosine:.3f}")


if __name__ == "__main__":
    main()
