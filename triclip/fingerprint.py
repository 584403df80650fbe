"""A model's fingerprint: a digest of its weights, configuration, tokenizer and processor."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_SMALL = ("config.json", "open_clip_config.json", "tokenizer.json", "vocab.json", "merges.txt",
          "preprocessor_config.json", "processor_config.json")  # fmt: skip


def fingerprint(name: str | os.PathLike) -> str:
    """SHA-256 of the files of a checkpoint: a folder, a file, a hub name or "emoji". Reads the weights once."""
    from clip_core.checkpoint.locate import locate
    from clip_core.hub import resolve_folder

    found = locate(resolve_folder(name, weights=True))
    files = [found.file(name) for name in _SMALL] if found.folder else []
    files += found.weights or (sorted(found.item.rglob("*")) if found.item else [])
    digest = hashlib.sha256()
    for path in filter(Path.is_file, files):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
