"""Export a training run as a model folder: half precision weights, configuration, vocabulary, image settings.

    python examples/emoji/export.py RUN clip_core/models/emoji

The averaged weights of RUN/checkpoint.pt are written. The folder loads in `clip_core`, in any backend, and in
transformers. Files already there that belong to no model (the card, the demo pictures) stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from clip_core import CLIPConfig, CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast
from clip_torch import CLIPModel

PROMPTS = ["{}", "a picture of {}"]


def export(run: Path, folder: Path) -> dict:
    """Write `folder`; returns the checkpoint's step, seconds and arguments."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    config = CLIPConfig.from_dict(state["config"])
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = None  # eager is quicker for short sequences in training only
    config.prompt_templates = PROMPTS
    model = CLIPModel(config)
    model.load_state_dict(state["average"])
    model.half().save_pretrained(folder)
    tokenizer = CLIPTokenizerFast.from_pretrained(run / "tokenizer")
    size = config.vision_config.image_size
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(run / "tokenizer" / name, folder / name)
    return {key: state[key] for key in ("step", "seconds", "arguments")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(json.dumps(export(args.run, args.folder), indent=1))
    print(
        f"{sum(file.stat().st_size for file in args.folder.rglob('*') if file.is_file()) / 1e6:.2f} MB in {args.folder}"
    )


if __name__ == "__main__":
    main()
