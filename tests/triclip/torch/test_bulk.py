"""Bulk embedding with this backend: the output's rows equal those of `Clip`, on one core and on several."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_core
from triclip import Clip
from triclip.backends import torch_
from triclip.embed import embed
from triclip.embed.encoder import ClipEncoder
from triclip.search import open_index

ROUNDING = 1e-5  # of unit rows, in batches of another size
PICTURES = Path(clip_core.__file__).parent / "models/emoji/pictures"


@pytest.mark.parametrize("cores", [1, 3])
def test_pictures(cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    images = ClipEncoder.images

    def noted(self: ClipEncoder, pixels: np.ndarray) -> np.ndarray:
        seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads(), len(pixels)))
        return images(self, pixels)

    monkeypatch.setattr(ClipEncoder, "images", noted)
    monkeypatch.setattr(torch_.machine, "usable_cpus", lambda: cores)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(cores)
        report = embed(PICTURES, tmp_path, samples_per_shard=10, batch_size=6, threads=3)
    finally:
        torch.set_num_threads(before)
    sizes = {(True, 1, 6), (True, 1, 4)} if cores == 1 else {(False, 1, 2)}
    assert seen == sizes and report.rows == {"image": 16} and report.complete
    found = open_index(tmp_path)
    want = Clip.from_pretrained("emoji").encode_image([found.origin.path_of(name) for name in found.names])
    np.testing.assert_allclose(found.vectors, want, rtol=0, atol=ROUNDING)
