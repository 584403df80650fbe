"""Write a finished run as the embedded model's folder: half precision weights, configuration, vocabulary, prompts.

    python examples/icons/export.py SCRATCH/run clip_core/models/icons

RUN/model is what the trainer exported: the averaged weights. The folder loads in `clip_core`, in any backend, and in
transformers. Files already there that belong to no model (the card, the demo pictures) stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clip_core import CLIPProcessor
from clip_core.checkpoint import convert

PROMPTS = ["{}", "a picture of {}"]


def export(run: Path, folder: Path) -> None:
    """Write `folder` from RUN/model."""
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    config |= {"prompt_templates": PROMPTS, "torch_dtype": "float16"}
    convert(run / "model", folder, dtype="float16", config=config)
    CLIPProcessor.from_pretrained(run / "model").save_pretrained(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")  # on one line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    export(args.run, args.folder)
    size = sum(file.stat().st_size for file in args.folder.rglob("*") if file.is_file())
    print(f"{size / 1e6:.2f} MB in {args.folder}")


if __name__ == "__main__":
    main()
