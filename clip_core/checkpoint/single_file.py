"""Text encoders into single-file Stable Diffusion checkpoints, in place: every other byte stays as it is."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import replace_file
from . import containers, dialects, safetensors_file
from . import scope as scopes
from .ops import OPS
from .saving import Saved
from .scope import Scope
from .source import FileSource, file_bytes
from .tensor import Tensor
from .torch_file import zip_records

# Where the encoders of a file that is made anew are put: component -> (prefix, dialect)
NEW = {
    "sd1": {"text_encoder": ("cond_stage_model.transformer.", dialects.HF)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", dialects.HF),
        "text_encoder_2": ("conditioner.embedders.1.model.", dialects.OPENAI),
    },
}
_OPTIONAL = ("logit_scale", "text_projection.weight")  # what some of these files have no place for
_WRITTEN = ("float64", "float32", "float16", "bfloat16")
_CHUNK = 1 << 24


def write(path: Path, to: str, encoders: Mapping[str, Mapping[str, Tensor]]) -> Saved:
    """Put text encoders into the file at `path`; a new file, with nothing but them, when there is none.

    Args:
        to: "sd1" or "sdxl".
        encoders: component ("text_encoder", "text_encoder_2", or "" to choose by shape) -> canonical tensors.

    Raises: CheckpointError when a tensor has no place in the file, or another shape there.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: {to} is a single file; found a folder")
    if not path.exists():
        return _write_new(path, to, encoders)
    content = containers.read(path)
    candidates = [s for s in scopes.find(content.tensors) if "text" in s.towers]
    notes: list[str] = []
    changes: dict[str, Tensor] = {}
    for component, tensors in encoders.items():
        slot = _slot(candidates, component, tensors, content.tensors, path)
        changes |= _changes(slot, tensors, content.tensors, path, notes)
    with replace_file(path) as draft:
        shutil.copyfile(path, draft)
        _patch(draft, content.tensors, changes)
        if content.container == "torch" and zipfile.is_zipfile(draft):
            _renew_checksums(draft, {content.tensors[name].place for name in changes})
    return Saved((path,), tuple(notes))


def _write_new(path: Path, to: str, encoders: Mapping[str, Mapping[str, Tensor]]) -> Saved:
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: a new {to} file is written as .safetensors; found {path.suffix or 'no ending'!r}"
        )
    places = NEW[to]
    found: dict[str, Tensor] = {}
    for component, tensors in encoders.items():
        if (component or "text_encoder") not in places:
            raise CheckpointError(f"{to}: no component {component!r}; wanted one of {', '.join(places)}")
        prefix, dialect = places[component or "text_encoder"]
        kept = {n: t for n, t in tensors.items() if dialect is not dialects.HF or n not in _OPTIONAL}
        found |= {prefix + name: tensor for name, tensor in dialects.translate(kept, dialect).items()}
    with replace_file(path) as draft:
        safetensors_file.write(draft, found, {"format": "pt"})
    note = f"{path} was not there: it holds the text encoder alone; to replace one, give an existing file"
    return Saved((path,), (note,))


def _slot(
    candidates: list[Scope],
    component: str,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, Tensor],
    path: Path,
) -> Scope:
    if component:
        return scopes.choose(candidates, component, str(path))
    width = tensors["text_model.embeddings.token_embedding.weight"].shape
    fitting = []
    for scope in candidates:
        anchor = dict(dialects.anchors(scope.dialect))["text"]
        if names[scope.prefix + anchor].shape == width:
            fitting.append(scope)
    if len(fitting) != 1:
        raise CheckpointError(
            f"{path}: {len(fitting)} of its text encoders have a token embedding of {width}: "
            f"{'; '.join(map(str, candidates)) or 'it has none'}; say which with component="
        )
    return fitting[0]


def _changes(
    slot: Scope, tensors: Mapping[str, Tensor], names: Mapping[str, Tensor], path: Path, notes: list[str]
) -> dict[str, Tensor]:
    """name in the file -> its new numbers, in the file's dtype."""
    rest = dict(tensors)
    changes: dict[str, Tensor] = {}
    for rule in _rules(slot, names):
        name = slot.prefix + rule.foreign
        old = names.get(name)
        if old is None or not all(part in rest for part in rule.canonical):
            continue
        new = OPS[rule.op].forward([rest.pop(part) for part in rule.canonical], 0)
        if new.shape != old.shape:
            raise CheckpointError(f"{path}: {name}: got {new.shape}, want {old.shape}")
        if old.dtype not in _WRITTEN:
            raise CheckpointError(f"{path}: {name} is {old.dtype}: into a quantised encoder nothing is written")
        if new.dtype != old.dtype:
            notes.append(f"{name}: {new.dtype} was written as the file's {old.dtype}")
        changes[name] = new.astype(old.dtype)
    left = [name for name in rest if name not in _OPTIONAL]
    if left:
        raise CheckpointError(f"{path}: its text encoder has no place for:\n" + "\n".join(f"+ {n}" for n in left))
    notes.extend(f"{name}: left out, the file has no place for it" for name in rest)
    kept = [n for n in names if n.startswith(slot.prefix) and n not in changes and not n.endswith("position_ids")]
    if kept and slot.prefix:
        notes.append(
            f"{len(kept)} tensors of the file's encoder were kept, the source lacks them: {', '.join(kept[:3])}"
        )
    return changes


def _rules(slot: Scope, names: Mapping[str, Tensor]) -> list[dialects.Rule]:
    inside = [name for name in names if name.startswith(slot.prefix)]
    rules = dialects.rules(slot.dialect, dialects.layers(inside))
    if slot.dialect is dialects.HF and slot.prefix + "text_projection" in names:  # ComfyUI's spelling, as in OpenAI's
        rules.append(dialects.Rule(("text_projection.weight",), "text_projection", "transpose"))
    return rules


def _patch(draft: Path, names: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> None:
    places = [names[name].place for name in changes]
    if None in places or len(set(places)) != len(places):
        raise CheckpointError(f"{draft.name}: its tensors are not kept one after the other, so they can't be replaced")
    with open(draft, "r+b") as file:
        for name, tensor in changes.items():
            file.seek(names[name].place or 0)
            file.write(file_bytes(tensor.numpy()))


def _renew_checksums(path: Path, places: set[int | None]) -> None:
    """The CRC-32 of every changed record, in the zip file's local headers, descriptors and directory."""
    source = FileSource(path)
    changed = {
        n: (o, size) for n, (o, size) in zip_records(source).items() if any(o <= p < o + size for p in places if p)
    }
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        directory = archive.start_dir
    sums = {name: _crc(source, *changed[name]) for name in changed}
    with open(path, "r+b") as file:
        for name, crc in sums.items():
            offset, size = changed[name]
            streamed = infos[name].flag_bits & 8  # then the sum is in a descriptor after the data
            file.seek(offset + size if streamed else infos[name].header_offset + 14)
            if streamed and file.read(4) != b"PK\x07\x08":
                file.seek(offset + size)
            file.write(struct.pack("<I", crc))
        _renew_directory(file, directory, sums)


def _crc(source: FileSource, offset: int, size: int) -> int:
    crc = 0
    for start in range(0, size, _CHUNK):
        crc = zlib.crc32(source.read(offset + start, min(_CHUNK, size - start)).data, crc)
    return crc


def _renew_directory(file: Any, position: int, sums: Mapping[str, int]) -> None:
    while True:
        file.seek(position)
        header = file.read(46)
        if len(header) < 46 or header[:4] != b"PK\x01\x02":
            return
        name_length, extra_length, comment_length = struct.unpack("<HHH", header[28:34])
        name = os.fsdecode(file.read(name_length))
        if name in sums:
            file.seek(position + 16)
            file.write(struct.pack("<I", sums[name]))
        position += 46 + name_length + extra_length + comment_length
