"""`load`: any checkpoint, as canonical names and lazy tensors."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..weights import in_scope, is_count, is_ignorable
from . import clip_cpp, containers, dialects, families, infer, quantised
from . import scope as scopes
from .containers import Content
from .locate import Found, locate
from .opened import Checkpoint
from .ops import OPS
from .positions import kerashub_positions, long_clip_positions
from .scope import KNOWN, Scope
from .tensor import FLOATS, Tensor

PLAIN = ("hf", "hf-flat")  # dialects whose names are those of the models here

# Numbers that OpenAI's archives carry beside the weights; open_clip strips them too.
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def load(
    path: str | os.PathLike[str],
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    component: str | None = None,
    scope: str | None = None,
    config: Mapping[str, Any] | None = None,
    prefer: str | None = None,
    own: bool = False,
    beside: Collection[str] = PLAIN,
) -> Checkpoint:
    """Open a checkpoint, a folder or a single file, of any layout that this package reads.

    Args:
        path: model.safetensors, pytorch_model.bin, OpenAI's and open_clip's .pt, Stable Diffusion's single files,
            tf_model.h5, flax_model.msgpack, ..., or a folder with one, whole or sharded.
        subfolder: a folder inside it ("text_encoder").
        variant: "fp16" for model.fp16.safetensors and its shards.
        component: which CLIP, where a file or a pipeline folder has several: "text_encoder", "text_encoder_2",
            "clip_l", "clip_g", "image_encoder", "safety_checker", a prefix; or "text", "vision" for one tower.
        scope: keep only what that model class needs: "full", "text", "text_projection", "vision",
            "vision_projection"; None keeps all.
        config: a config.json's content, used in place of the file's.
        prefer: the weight file to take where a folder has several, e.g. "flax_model.msgpack" or its shards.
        own: it is the file of somebody's own class: there may be other parts than CLIP's in it, or no CLIP at all.
        beside: the dialects in which other entries beside a plain CLIP come along; elsewhere they are an error.

    Raises:
        FileNotFoundError: naming what was looked for.
        CheckpointError: damaged, hostile, ambiguous, or not a CLIP.
        MissingDependencyError: the format needs a package that isn't there.
    """
    result, known = opened(path, subfolder, variant, component, scope, prefer, own, beside)
    return infer.config_of(result, config, known)


def opened(
    path: str | os.PathLike[str],
    subfolder: str | None = None,
    variant: str | None = None,
    component: str | None = None,
    scope: str | None = None,
    prefer: str | None = None,
    own: bool = False,
    beside: Collection[str] = PLAIN,
) -> tuple[Checkpoint, str | None]:
    """(a checkpoint without its config, the activation that its prefix tells); arguments and errors as for `load`."""
    if subfolder is None and component and (Path(path) / component).is_dir():
        subfolder, component = component, None  # a diffusers pipeline: each component in its folder
    found = locate(path, subfolder, variant, component, prefer)
    where = str(found.manifest or found.weights[0])
    content, assumed = clip_cpp.opened(_read(found), where)
    wanted = None if found.item is not None and component not in scopes.TOWERS else component
    result, known = _translated(content, found, wanted or _tower_of(scope), component, scope, own, beside)
    return replace(result, notes=[*assumed, *result.notes]), known


def of_tensors(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, scope: str | None = None, own: bool = False
) -> Checkpoint:
    """A checkpoint of tensors that are in memory, under the names of any layout; otherwise as `load`."""
    found = Found(None, [Path("state_dict")], None, {}, Path)
    content = Content("memory", tensors, {})
    result, known = _translated(content, found, _tower_of(scope), None, scope, own)
    return infer.config_of(result, config, known)


def _translated(
    content: Content,
    found: Found,
    wanted: str | None,
    component: str | None,
    scope: str | None,
    own: bool,
    beside: Collection[str] = PLAIN,
) -> tuple[Checkpoint, str | None]:
    """`opened`, once the entries are there; `wanted` chooses among several CLIPs."""
    chosen, notes = _choose(content, wanted, found, own)
    content, read_as = quantised.plain(content, str(found.manifest or found.weights[0]), chosen.prefix, own)
    notes += read_as
    tensors, ignored, heads = _translate(content, chosen, found, notes, own or chosen.dialect.name in beside)
    tower = component if component in scopes.TOWERS else None
    tensors = _keep(tensors, scope, tower)
    if not own:
        _check_dtypes(tensors, str(found.manifest or found.weights[0]))
    known = KNOWN.get(chosen.prefix)
    result = Checkpoint(
        tensors=tensors,
        config=None,
        dialect=chosen.dialect.name,
        files=tuple(found.weights),
        ignored=tuple(ignored),
        metadata=dict(content.metadata),
        notes=notes,
        container=content.container,
        prefix=chosen.prefix,
        folder=found.folder,
        found=found,
        heads=heads,
        entries=content.tensors,
    )
    return result, known[2] if known else None


def _read(found: Found) -> Content:
    if found.item is not None:
        from . import orbax_file

        return Content("orbax", *orbax_file.read(found.item))
    if found.manifest is not None:
        return containers.read_shards(found.weights, found.listed, found.manifest)
    return containers.read(found.weights[0])


def _tower_of(scope: str | None) -> str | None:
    return scope.split("_")[0] if scope and scope != "full" else None


def _choose(content: Content, component: str | None, found: Found, own: bool = False) -> tuple[Scope, list[str]]:
    where = str(found.manifest or found.weights[0])
    candidates = scopes.find(content.tensors)
    if own:  # each CLIP in it is asked for by its name
        return (candidates[0] if candidates else Scope("", dialects.HF, ())), []
    if not candidates:
        raise CheckpointError(f"{where}: no CLIP text or vision tower in it: {families.describe(content.tensors)}")
    chosen = scopes.choose(candidates, component, where)
    notes = []
    if len(candidates) > 1 and component is None:
        notes.append(f"took {chosen}; the file also has {'; '.join(str(c) for c in candidates if c != chosen)}")
    other = next((n for n in content.tensors if n.startswith(f"{chosen.prefix}visual.")), None)
    if other and "vision" not in chosen.towers and component != "text":
        family = families.name_of(n for n in content.tensors if n.startswith(chosen.prefix))
        raise CheckpointError(
            f"{where}: its vision tower is none of CLIP's ({other}): it is {family or 'another architecture'}. "
            'Its text tower can be had with component="text"'
        )
    return chosen, notes


def _translate(
    content: Content, chosen: Scope, found: Found, notes: list[str], own: bool
) -> tuple[dict[str, Tensor], list[str], dict[str, int]]:
    """(canonical tensors, ignored names, heads of each tower) of the entries under the chosen prefix."""
    where = str(found.manifest or found.weights[0])
    inside = {n.removeprefix(chosen.prefix): t for n, t in content.tensors.items() if n.startswith(chosen.prefix)}
    inside = _tidy(inside, content, chosen)
    if chosen.dialect is dialects.KERASHUB:
        inside = kerashub_positions(inside, where, notes)
    elif not chosen.dialect.name.startswith("hf"):
        inside = long_clip_positions(inside, where, notes)
    heads: dict[str, int] = {}
    tensors: dict[str, Tensor] = {}
    depth = min(dialects.layers(inside), len(inside) + 1)
    for rule in dialects.rules(chosen.dialect, depth, chosen.dialect.resnets and dialects.has_resnet(inside)):
        tensor = inside.pop(rule.foreign, None)
        if tensor is None:
            continue
        try:
            parts = OPS[rule.op].inverse(tensor)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {chosen.prefix}{rule.foreign}: {error}") from None
        tensors.update(zip(rule.canonical, parts, strict=True))
        if rule.op == "heads_bias":
            heads[rule.canonical[0].partition("_")[0]] = tensor.shape[0]
    ignored, foreign = _sort_out(inside, chosen)
    if foreign and not own:
        family = families.name_of(foreign)
        what = f"it is {family}" if family else "nothing here has a place for these"
        raise CheckpointError(f"{where}: not a plain CLIP: {what}:\n" + "\n".join(f"+ {n}" for n in foreign))
    tensors.update({name: inside[name] for name in foreign})
    return tensors, ignored, heads


def _tidy(inside: dict[str, Tensor], content: Content, chosen: Scope) -> dict[str, Tensor]:
    """Spellings that some writers use, brought to the dialect's own."""
    if chosen.prefix == "vision_model." and "visual_projection.weight" in content.tensors:
        inside["visual_projection.weight"] = content.tensors["visual_projection.weight"]
    bare = inside.get("text_projection")
    if chosen.dialect.name.startswith("hf") and bare is not None and len(bare.shape) == 2:
        # ComfyUI's clip_g keeps OpenAI's parameter, [hidden, projection], under its bare name
        inside = {**inside, "text_projection.weight": bare.permute(1, 0)}
        del inside["text_projection"]
    if chosen.dialect.name in ("openai", "open_clip-custom"):
        text = "text." if chosen.dialect is dialects.OPEN_CLIP_CUSTOM else ""
        linear = inside.pop(f"{text}text_projection.weight", None)
        if linear is not None:  # open_clip's proj_bias: a Linear, not transposed; its bias has no place in CLIP
            inside[f"{text}text_projection"] = linear.permute(1, 0)
    return inside


def _sort_out(rest: Mapping[str, Tensor], chosen: Scope) -> tuple[list[str], list[str]]:
    """(ignorable, unknown) among the entries that no rule took."""
    ignored, unknown = [], []
    for name in rest:
        other = chosen.dialect.name != "hf" and name.startswith("visual.") and "vision" not in chosen.towers
        if is_ignorable(name) or name in _OPENAI_EXTRAS or other or name.endswith("clip_vision_embedding/vars/1"):
            ignored.append(name)
        else:
            unknown.append(name)
    return ignored, unknown


def _check_dtypes(tensors: Mapping[str, Tensor], where: str) -> None:
    """Weights must be numbers that a model computes with."""
    numbers = {n: t for n, t in tensors.items() if in_scope(n, "full") and not is_ignorable(n) and not is_count(n)}
    whole = [n for n, t in numbers.items() if t.dtype not in FLOATS]
    if whole:
        raise CheckpointError(
            f"{where}: {len(whole)} weights are {tensors[whole[0]].dtype}: {', '.join(whole[:3])}. It is a quantised "
            "model, which needs the program that quantised it; load the model it was made from"
        )


def _keep(tensors: dict[str, Tensor], scope: str | None, tower: str | None) -> dict[str, Tensor]:
    if tower and not scope:
        scope = "text_projection" if tower == "text" else "vision_projection"
    if scope is None or scope == "full":
        return tensors
    other = [name for name in tensors if in_scope(name, "full") and not in_scope(name, scope)]
    return {name: tensor for name, tensor in tensors.items() if name not in other}
