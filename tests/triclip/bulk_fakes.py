"""A model in NumPy for the tests of bulk runs; Ray's workers import it."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import numpy as np

from triclip.data.pictures import open_picture

SIDE, WIDTH = 8, 6


class FakeSpec:
    """`deaths`: a folder; the worker that takes one of the files in it is killed while it computes."""

    def __init__(self, name="fake", deaths=None):
        self.name, self.deaths = name, deaths

    def identity(self):
        return {"name": self.name, "digest": "0"}

    def load(self, batch_size):
        return FakeEncoder(self.deaths)


class FakeEncoder:
    def __init__(self, deaths=None):
        self.deaths, self.batches = deaths, 0
        self.weights = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, WIDTH)).astype(np.float32)

    def read(self, picture, name):
        image = open_picture(picture, name).convert("RGB").resize((SIDE, SIDE))
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def images(self, pixels):
        self.batches += 1
        if self.deaths and self.batches > 1:
            for ticket in sorted(Path(self.deaths).iterdir()):
                try:
                    ticket.unlink()  # one worker gets it
                except FileNotFoundError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        # Row by row: the vectors must not depend on the batches.
        return np.stack([unit(row.reshape(-1) @ self.weights) for row in pixels])

    def texts(self, texts):
        return np.stack([text_vector(text) for text in texts])


def unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def text_vector(text):
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return unit(np.random.default_rng(seed).normal(size=WIDTH))


def image_vector(content):
    encoder = FakeEncoder()
    return encoder.images(encoder.read(content, "x")[None])[0]


def tree(output):
    """Every file of a run that its shards consist of, with its content; AssertionError for half a file."""
    found = {}
    for path in sorted(Path(output).rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(output).parts)
        if path.is_file() and not hidden and path.name != "embed.json":
            found[str(path.relative_to(output))] = path.read_bytes()
    return found
