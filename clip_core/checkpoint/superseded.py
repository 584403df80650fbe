"""What a save into a folder replaces, so that afterwards the folder holds one model.

1. Files of the same layout: surplus shards and indexes.
2. Weights in another layout stay where they hold the same model: the same names, shapes, types and numbers. All others
   go: a reader would take one or the other.
3. KerasHub's preset and transformers' layouts both own config.json: the one that is not written goes.
4. `convert` writes the processor's files too, so those of the folder's old model go, and old variants as well.
   `save_pretrained` of a model leaves both: the tokenizer is saved by itself, a variant is asked for by name.

Everything else stays: other files, and folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError, MissingDependencyError
from ..files import view
from .processors import IMAGE_FILES, TOKENIZER_FILES
from .tensor import Tensor

# layout -> (stem, ending) of its weight files
_STEMS = {
    "safetensors": ("model", "safetensors"),
    "bin": ("pytorch_model", "bin"),
    "tf": ("tf_model", "h5"),
    "flax": ("flax_model", "msgpack"),
}
_OPEN_CLIP = r"open_clip_(model\.safetensors|pytorch_model\.bin)"
_KERASHUB = r"model\.weights\.(h5|json)|model_\d{5}\.weights\.h5|metadata\.json|task\.json|preprocessor\.json"
_OWN = {"hf": "safetensors", "hf-flat": "safetensors", "hf-bin": "bin", "tf": "tf", "flax": "flax"}


def superseded(
    folder: Path, to: str, variant: str | None, written: set[str], tensors: Mapping[str, Tensor], whole: bool
) -> set[str]:
    """Names of files in a folder that a save replaces by others.

    Args:
        to: the layout that was written; variant: and its variant.
        written: the names of the new files.
        tensors: the canonical tensors of the new ones.
        whole: rule 4: the new files are all there is of the model, its processor included.
    """
    if not folder.is_dir():
        return set()
    names = set(os.listdir(folder))
    gone = _kerashub(folder, names) if to != "kerashub" else set()
    for layout in _STEMS:
        files = _files(layout, names, variant)
        if (
            _OWN.get(to) == layout
            or files
            and (to == "kerashub" or not _same_model(folder, files - written, layout, variant, tensors))
        ):
            gone |= files
        if whole:
            gone |= _files(layout, names, None, any_variant=True) - _files(layout, names, variant)
    theirs = {name for name in names if re.fullmatch(_OPEN_CLIP, name)}
    if to != "open_clip" and theirs and (len(theirs) > 1 or not _same_file(folder, min(theirs), tensors)):
        gone |= theirs | {"open_clip_config.json"}
    if whole:
        gone |= {*TOKENIZER_FILES, *IMAGE_FILES}
        for layout, name in (("openai", "model.pt"), ("gguf", "model.gguf")):
            if to != layout and name in names and not _same_file(folder, name, tensors):
                gone.add(name)
    return (gone & names) - written


def _files(layout: str, names: set[str], variant: str | None, any_variant: bool = False) -> set[str]:
    stem, ending = _STEMS[layout]
    mark = r"(\.[\w-]+)?" if any_variant else re.escape(f".{variant}") if variant else ""
    shard = r"(-\d{5}-of-\d{5})?"
    forms = rf"{stem}{mark}{shard}\.{ending}|{stem}{shard}{mark}\.{ending}|{stem}\.{ending}\.index{mark}\.json"
    return {name for name in names if re.fullmatch(forms, name)}


def _kerashub(folder: Path, names: set[str]) -> set[str]:
    """A preset's files, where the folder is one; "metadata.json" alone may be anybody's."""
    found = {name for name in names if re.fullmatch(_KERASHUB, name)}
    return found if any("weights" in name for name in found) else set()


def _same_model(folder: Path, files: set[str], layout: str, variant: str | None, tensors: Mapping[str, Tensor]) -> bool:
    stem, ending = _STEMS[layout]
    index = f"{stem}.{ending}.index.{variant}.json" if variant else f"{stem}.{ending}.index.json"
    single = f"{stem}.{variant}.{ending}" if variant else f"{stem}.{ending}"
    if len(files) > 1 and (index not in files or single in files):
        return False
    return _same_file(folder, index if index in files else single, tensors)


def _same_file(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a weight file, or the shards of an index, holds exactly these tensors. Read one by one."""
    from .loading import opened

    try:
        found = opened(view(folder)(name))[0].tensors
        if {n: (t.shape, t.dtype) for n, t in found.items()} != {n: (t.shape, t.dtype) for n, t in tensors.items()}:
            return False
        return all(found[n].numpy().tobytes() == tensors[n].numpy().tobytes() for n in found)
    except (CheckpointError, MissingDependencyError, OSError):  # damaged, unreadable or something else's
        return False
