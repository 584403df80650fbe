"""all-clip and clip-retrieval: their Hugging Face loader, with our classes under the names it imports."""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import all_clip
import numpy as np
import torch
import transformers

import clip_torch

from .models import TOWER, pictures
from .record import Found, at_most, difference, works

TITLE, PACKAGES = "all-clip and clip-retrieval", ("all_clip", "clip_retrieval", "transformers", "torch")
LIMIT = 2e-5
TEXTS = ["a red fox", "two birds on a wire", "the sea"]


@functools.cache
def folder() -> Path:
    """A small random model for OpenAI's tokens, which all-clip always makes, and pictures of 224."""
    torch.manual_seed(0)
    ends = {"bos_token_id": 49406, "eos_token_id": 2}  # 2: pooled at the highest id, as OpenAI's published configs say
    config = clip_torch.CLIPConfig(
        text_config={**TOWER, **ends}, vision_config={**TOWER, "image_size": 224, "patch_size": 32}, projection_dim=16
    )
    path = Path(tempfile.mkdtemp(prefix="triclip-all-clip-"))
    clip_torch.CLIPModel(config).save_pretrained(path)
    clip_torch.CLIPProcessor(clip_torch.CLIPImageProcessor(), clip_torch.CLIPTokenizerFast()).save_pretrained(path)
    return path


@functools.cache
def ours() -> Any:
    """`load_clip`, where `from transformers import CLIPModel, CLIPProcessor` finds ours."""
    stand_in = ModuleType("transformers")
    stand_in.CLIPModel, stand_in.CLIPProcessor = clip_torch.CLIPModel, clip_torch.CLIPProcessor
    with mock.patch.dict(sys.modules, {"transformers": stand_in}):
        return all_clip.load_clip(f"hf_clip:{folder()}", use_jit=False, device="cpu")


def loaded() -> Found:
    model, preprocess, tokenizer = ours()
    if type(model.inner_model) is not clip_torch.CLIPModel:
        raise AssertionError(f"{type(model.inner_model)}")
    pixels = torch.stack([preprocess(picture) for picture, _, _ in pictures()[:4]])  # [4, 1, 3, 224, 224]
    ids = tokenizer(TEXTS)
    if ids.shape != (3, 77) or ids[0, -1] != 0:
        raise AssertionError(f"ids: {ids.shape}, padded with {ids[0, -1]}")
    reference = transformers.CLIPModel.from_pretrained(folder()).eval()
    with torch.no_grad():
        got = model.encode_text(ids), model.encode_image(pixels)
        want = reference.get_text_features(ids), reference.get_image_features(pixels.squeeze(1))
    want = [getattr(features, "pooler_output", features) for features in want]
    return works(
        "`load_clip('hf_clip:FOLDER')` and its warm-up, `encode_text` of 0-padded ids without a mask, `encode_image`",
        **at_most(LIMIT, texts=difference(got[0], want[0]), images=difference(got[1], want[1])),
    )


def mapper() -> Found:
    """clip-retrieval's ClipMapper, loaded from its file, because importing the package needs many server libraries."""
    spec = importlib.util.find_spec("clip_retrieval")
    path = Path(spec.submodule_search_locations[0]) / "clip_inference" / "mapper.py"
    of_file = importlib.util.spec_from_file_location("clip_retrieval_mapper", path)
    module = importlib.util.module_from_spec(of_file)
    of_file.loader.exec_module(module)
    model, preprocess, tokenizer = ours()
    batch = {
        "image_tensor": torch.stack([preprocess(picture) for picture, _, _ in pictures()[:3]]),
        "text_tokens": tokenizer(TEXTS),
        "text": TEXTS,
        "image_filename": ["a", "b", "c"],
    }
    with mock.patch.object(module, "load_clip", lambda **_: (model, preprocess, tokenizer)):
        found = module.ClipMapper(True, True, False, False, f"hf_clip:{folder()}", False, "")(batch)
    with torch.no_grad():
        want = [model.encode_image(batch["image_tensor"]), model.encode_text(batch["text_tokens"])]
    want = [torch.nn.functional.normalize(features, dim=-1) for features in want]
    got = found["image_embs"], found["text_embs"]
    if any(array.dtype != np.float16 for array in got):
        raise AssertionError(f"{[array.dtype for array in got]}")
    note = ""
    if transformers.__version__ >= "5":
        theirs = transformers.CLIPModel.from_pretrained(folder()).eval()
        wrapped = all_clip.hf_clip.HFClipWrapper(theirs, "cpu")
        with mock.patch.object(module, "load_clip", lambda **_: (wrapped, preprocess, tokenizer)):
            try:
                module.ClipMapper(True, True, False, False, "", False, "")(batch)
            except AttributeError as error:
                note = f"With transformers 5's own CLIPModel this fails (“{error}”)."
    return works(
        "`ClipMapper(…)(batch)`: features normalised in place, to float16",
        note,
        **at_most(1e-3, images=difference(got[0], want[0]), texts=difference(got[1], want[1])),
    )


CHECKS = (loaded, mapper)
