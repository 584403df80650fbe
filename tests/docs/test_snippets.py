"""Every Python block of the README and the pages runs, in order, as a reader would run it in an empty folder.

Hub names lead to a small model with OpenAI's vocabulary; pictures are drawn. A block marked `py` is another library's
code and is only parsed.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clip_core
from clip_core import CLIPConfig

ROOT = Path(__file__).parents[2]
CARD = ROOT / "clip_core/models/emoji/README.md"  # a page of the site too
PAGES = [ROOT / "README.md", CARD, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.M | re.S)
NAMES = ("openai/clip-vit-base-patch32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "projection_dim": 32,
    "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
}


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(match["code"]) for match in found if match["language"] == language]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's cache, in which the pages' models have been downloaded already."""
    torch = pytest.importorskip("torch", reason="the pages show all three backends")
    from clip_torch import CLIPModel

    cache = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(**CONFIG))
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = clip_core.CLIPProcessor(clip_core.CLIPImageProcessor(**sizes), clip_core.CLIPTokenizerFast())
    for name in NAMES:
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        model.save_pretrained(repository / "snapshots" / COMMIT)
        processor.save_pretrained(repository / "snapshots" / COMMIT)
    return cache


@pytest.fixture
def reader(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder: pictures, photos/, a checkpoint file."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "picture.png", "photos/a.jpg", "photos/b.jpg"):
        Image.fromarray(noise.integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / name)
    snapshot = cache / f"models--{NAMES[0].replace('/', '--')}" / "snapshots" / COMMIT
    clip_core.checkpoint.convert(snapshot, tmp_path / "bin", to="hf-bin")
    (tmp_path / "bin" / "pytorch_model.bin").rename(tmp_path / "pytorch_model.bin")
    (tmp_path / "bin" / "config.json").rename(tmp_path / "config.json")
    (tmp_path / "path/to/a").mkdir(parents=True)
    (tmp_path / "path/to/a/folder").symlink_to(snapshot)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path, reader: Path) -> None:
    """One namespace per page, as in a notebook."""
    names: dict[str, object] = {"__name__": "page"}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_libraries_code_parses(page: Path) -> None:
    for code in blocks(page, "py"):
        ast.parse(code)
