"""`Clip` of dtype int8."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from clip_core.hub import MODELS
from triclip import Clip
from triclip.command import main

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason="the extra `onnx` is not installed")

PICTURES = sorted((MODELS / "emoji" / "pictures").glob("*.png"))
TEXTS = ["a photo of a cat", "two people walking in the rain", "the red heart", "flag: Brazil", "a slice of pizza"]


def test_the_embedded_model() -> None:
    """0.999 is the least cosine that is promised."""
    plain, small = Clip.from_pretrained("emoji"), Clip.from_pretrained("emoji", dtype="int8")
    for encode, given in (("encode_image", PICTURES), ("encode_text", TEXTS)):
        ours, want = (getattr(clip, encode)(given) for clip in (small, plain))
        assert (ours * want).sum(1).min() >= 0.999, encode
    again = copy.deepcopy(small), pickle.loads(pickle.dumps(small))
    assert all(np.array_equal(clip.encode_text(TEXTS), small.encode_text(TEXTS)) for clip in again)


def test_the_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["classify", str(PICTURES[0]), "--labels", "red heart", "dog", "--dtype", "int8", "--json"]) == 0
    assert "red heart" in capsys.readouterr().out
