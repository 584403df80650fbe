"""Models and pictures for the clients' scripts. Functions import their dependencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EMOJI = Path(__file__).resolve().parents[2] / "clip_core" / "models" / "emoji"
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def text_encoder(vocab_size: int = 49408, **values: Any) -> Any:
    """A small random CLIPTextModel of clip_torch for OpenAI's vocabulary, 77 tokens, quick_gelu; the same each time."""
    import torch

    from clip_torch import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    return CLIPTextModel(CLIPTextConfig(vocab_size=vocab_size, **TOWER, **ends, **values)).eval()


def emoji(folder: Path) -> Path:
    """A copy of the embedded model that the client and transformers may both load and save."""
    import shutil

    return Path(shutil.copytree(EMOJI, folder / "emoji", ignore=shutil.ignore_patterns("pictures", "README.md")))


def pictures() -> list[tuple[Any, str, str]]:
    """The embedded model's sixteen pictures: (RGB picture on white, name, sentence)."""
    from PIL import Image

    about = json.loads((EMOJI / "pictures" / "demo.json").read_text(encoding="utf-8"))["pictures"]
    found = []
    for entry in about:
        picture = Image.open(EMOJI / "pictures" / entry["file"]).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        found.append((Image.alpha_composite(white, picture).convert("RGB"), entry["name"], entry["prompt"]))
    return found
