"""A folder of 1,000 JPEGs to embeddings, end to end: files in, NumPy vectors out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA, ROOT, Pair, Row, Side
from benchmarks.images_640 import without_simplejpeg

LARGE = 64  # pictures for ViT-B/32
EMOJI = ROOT / "clip_core" / "models" / "emoji"
ROW = Row(
    title="A folder of JPEGs to embeddings",
    about=(
        "640-pixel photographs to vectors, fp32, batches of 32: 1,000 through the embedded emoji model (4.9M "
        f"parameters), where decoding is most of the work, and {LARGE} through a ViT-B/32, where the matrix products "
        "are. HF is the image-feature-extraction pipeline with 2 loader processes, open_clip a DataLoader with 2; both "
        "with CLIPVisionModelWithProjection's or open_clip's image vectors; open_clip has random weights."
    ),
    data=("photographs_640", "vit_b32"),
    sides={
        "triclip[jpeg], small": Side("triclip", "ours_small"),
        "triclip, small": Side("triclip", "ours_small_by_pillow"),
        "HF 4.57 pipeline, small": Side("hf4", "hf_small"),
        "open_clip DataLoader, small": Side("openclip", "open_clip_small"),
        "triclip[jpeg], ViT-B/32": Side("triclip", "ours_large", count=LARGE),
        "HF 4.57 pipeline, ViT-B/32": Side("hf4", "hf_large", count=LARGE),
        "open_clip DataLoader, ViT-B/32": Side("openclip", "open_clip_large", count=LARGE),
    },
    pairs=(
        Pair("triclip[jpeg], small", "HF 4.57 pipeline, small", at_least=1.5),
        Pair("triclip[jpeg], small", "open_clip DataLoader, small", at_least=1.5),
        Pair("triclip, small", "open_clip DataLoader, small"),
        Pair("triclip[jpeg], ViT-B/32", "HF 4.57 pipeline, ViT-B/32", at_least=1.5),
        Pair("triclip[jpeg], ViT-B/32", "open_clip DataLoader, ViT-B/32", at_least=1.5),
    ),
    count=1000,
    unit="pictures",
    check="same_vectors",
    limits=(
        "Each core takes batches through decoding and model. With a ViT-B/32 a picture is 8.2 GFLOP, and 2.9 ms of one "
        "core for decoding and resizing: with 206 GFLOP a second, the ceiling in the first table, at most 24 a second. "
        "1.5 times peers that do 16 would be all of that."
    ),
    rounds=5,
    budget=100,
)


def paths(data: Path, count: int = 1000) -> list[str]:
    return [str(path) for path in sorted((data / "photographs_640").glob("*.jpg"))[:count]]


def _ours(model: Path, files: list[str]) -> Callable[[], Any]:
    from triclip import Clip

    clip = Clip.from_pretrained(model)
    return lambda: clip.encode_image(files, progress=False)


def _hf(model: Path, files: list[str]) -> Callable[[], Any]:
    import numpy as np
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection, pipeline

    vision = CLIPVisionModelWithProjection.from_pretrained(model, torch_dtype="float32").eval()
    extract = pipeline(
        "image-feature-extraction", model=vision, image_processor=CLIPImageProcessor.from_pretrained(model)
    )

    def run() -> Any:
        found = extract(files, batch_size=32, num_workers=2)
        vectors = np.array([row[0] for row in found], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return run


def _open_clip(config: dict[str, Any] | None, files: list[str]) -> Callable[[], Any]:
    import torch

    from benchmarks.peers import stub_torchvision

    stub_torchvision()
    import open_clip
    from PIL import Image

    name = "ViT-B-32"
    if config:
        name = "small"
        file = DATA / "small.json"
        file.write_text(json.dumps(config))
        open_clip.add_model_config(file)
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=None)
    model.eval()

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            return preprocess(Image.open(files[index]))

    @torch.inference_mode()
    def run() -> Any:
        loader = torch.utils.data.DataLoader(Files(), batch_size=32, num_workers=2)
        return torch.cat([model.encode_image(batch, normalize=True) for batch in loader]).numpy()

    return run


def _small_config() -> dict[str, Any]:
    """The emoji model's architecture as open_clip writes it."""
    ours = json.loads((EMOJI / "config.json").read_text())
    vision, text = ours["vision_config"], ours["text_config"]
    return {
        "embed_dim": ours["projection_dim"],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
        },
    }


def ours_small(data: Path) -> Callable[[], Any]:
    return _ours(EMOJI, paths(data))


def ours_small_by_pillow(data: Path) -> Callable[[], Any]:
    without_simplejpeg()
    return _ours(EMOJI, paths(data))


def hf_small(data: Path) -> Callable[[], Any]:
    return _hf(EMOJI, paths(data))


def open_clip_small(data: Path) -> Callable[[], Any]:
    return _open_clip(_small_config(), paths(data))


def ours_large(data: Path) -> Callable[[], Any]:
    return _ours(data / "vit_b32", paths(data, LARGE))


def hf_large(data: Path) -> Callable[[], Any]:
    return _hf(data / "vit_b32", paths(data, LARGE))


def open_clip_large(data: Path) -> Callable[[], Any]:
    return _open_clip(None, paths(data, LARGE))


def same_vectors(results: dict[str, Any]) -> str:
    import numpy as np

    worst = 0.0
    assert np.array_equal(results["triclip, small"], results["triclip[jpeg], small"])
    for model in ("small", "ViT-B/32"):
        ours, want = results[f"triclip[jpeg], {model}"], results[f"HF 4.57 pipeline, {model}"]
        worst = max(worst, float(np.abs(ours - want).max()))
        assert ours.shape == want.shape and worst < 1e-5, (model, worst)
        assert results[f"open_clip DataLoader, {model}"].shape == ours.shape
    return f"unit vectors differ from transformers' by at most {worst:.1e}."
