"""The layouts that are written: for each, its files from canonical tensors and a Hugging Face config."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..files import json_bytes
from . import dialects, foreign_config, positions, processors, resnet, safetensors_file, torch_writer
from .shards import shard_names, shards
from .tensor import FLOATS, Tensor

Advance = Callable[[int], None]
_TOWERS = ("text", "vision")
_HF_ONLY = "transformers_config"  # in KerasHub's metadata.json: what its own config has no place for


class Job(NamedTuple):
    """One save. notes: what could not be kept as it was is added here."""

    folder: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    limit: int | None
    metadata: dict[str, str]
    variant: str | None
    advance: Advance | None
    notes: list[str]
    files: Mapping[str, bytes] = {}
    own: bool = False

    @property
    def towers(self) -> tuple[str, ...]:
        return tuple(t for t in _TOWERS if any(name.startswith(f"{t}_model.") for name in self.tensors))

    def part(self, tower: str) -> dict[str, Any]:
        """A tower's own config."""
        return self.config.get(f"{tower}_config") or self.config


def _shards(
    job: Job,
    tensors: Mapping[str, Tensor],
    stem: str,
    ending: str,
    write: Callable[[Path, Mapping[str, Tensor]], None],
    spelling: Callable[[str], str] = str,
) -> None:
    """One file, or shards and their index. `spelling`: a name as the index has it."""
    groups = shards(tensors, job.limit)
    names, index = shard_names(len(groups), stem, ending, job.variant)
    for name, group in zip(names, groups, strict=True):
        write(job.folder / name, group)
    if len(groups) > 1:
        weight_map = {spelling(n): name for name, group in zip(names, groups, strict=True) for n in group}
        total = sum(t.nbytes for t in tensors.values())
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (job.folder / index).write_bytes(json_bytes(content))


def _hf(job: Job) -> dict[str, bytes]:
    def write(path: Path, group: Mapping[str, Tensor]) -> None:
        safetensors_file.write(path, group, {"format": "pt", **job.metadata}, job.advance)

    _shards(job, job.tensors, "model", "safetensors", write)
    return {"config.json": json_bytes(job.config)}


def _hf_flat(job: Job) -> dict[str, bytes]:
    """Only a tower alone is flat; with a projection, and a full model, transformers >= 5.6 stays nested too."""
    if resnet.is_in(job.tensors):
        raise CheckpointError('hf-flat: transformers has no ResNet tower: this package\'s own layout is to="hf"')
    flat = dialects.HF_FLAT_TEXT if job.towers == ("text",) else dialects.HF_FLAT_VISION
    if all(name.startswith(flat.strip) for name in job.tensors):
        job = job._replace(tensors={name.removeprefix(flat.strip): t for name, t in job.tensors.items()})
    return _hf(job)


def _hf_bin(job: Job) -> dict[str, bytes]:
    def write(path: Path, group: Mapping[str, Tensor]) -> None:
        torch_writer.write(path, group, None, job.advance)

    _shards(job, job.tensors, "pytorch_model", "bin", write)
    return {"config.json": json_bytes(job.config)}


def _tf(job: Job) -> dict[str, bytes]:
    from . import h5_file

    ready = _supported(job, ("float16", "float32", "float64"), "TensorFlow's h5")
    beside = {name: tensor for name, tensor in ready.items() if name.endswith(":0")}  # a subclass's layers
    tensors = dialects.translate({n: t for n, t in ready.items() if n not in beside}, dialects.TF)
    main = set(tensors)
    tensors |= beside
    kind = f"{job.towers[0]}_" if len(job.towers) == 1 else ""
    model = f"tfclip_{kind}model"
    sharded = len(shards(tensors, job.limit)) > 1

    def write(path: Path, group: Mapping[str, Tensor]) -> None:
        h5_file.write_tf(path, group, model, sharded, job.advance, main)

    def spelled(name: str) -> str:
        return f"{model}/clip/{name}" if name in main else f"{model}/{name}"

    _shards(job, tensors, "tf_model", "h5", write, spelled)
    return {"config.json": json_bytes(job.config)}


def _supported(job: Job, floats: tuple[str, ...], what: str) -> dict[str, Tensor]:
    """The tensors, with dtypes that a format can't hold widened to float32, which is exact."""
    wide = {n for n, t in job.tensors.items() if t.dtype in FLOATS and t.dtype not in floats}
    if wide:
        dtypes = ", ".join(sorted({job.tensors[n].dtype for n in wide}))
        job.notes.append(f"{what} holds no {dtypes}: {len(wide)} tensors were written as float32, the same values")
    return {n: t.astype("float32") if n in wide else t for n, t in job.tensors.items()}


def _flax(job: Job) -> dict[str, bytes]:
    from . import msgpack_file

    tensors = dialects.translate(job.tensors, dialects.FLAX, own=job.own)

    def write(path: Path, group: Mapping[str, Tensor]) -> None:
        msgpack_file.write(path, group, job.advance)

    _shards(job, tensors, "flax_model", "msgpack", write, lambda name: name.replace(".", "/"))
    return {"config.json": json_bytes(job.config)}


def _openai(job: Job) -> dict[str, bytes]:
    tensors = openai_tensors(job)
    config = {"config": json.dumps(job.config)}
    torch_writer.write(job.folder / "model.pt", tensors, config, job.advance)
    return {"config.json": json_bytes(job.config)}


def openai_tensors(job: Job) -> dict[str, Tensor]:
    """OpenAI's state dict, with notes on what OpenAI's code would do otherwise."""
    tensors = dialects.translate(job.tensors, dialects.OPENAI)
    if len(job.towers) < 2:
        job.notes.append(f"only a {job.towers[0]} tower: clip.model.build_model loads full models")
    for tower in job.towers:
        is_resnet = tower == "vision" and resnet.is_in(job.tensors)
        differences = resnet.openai_differences if is_resnet else _openai_differences
        job.notes.extend(f"{tower}: OpenAI's build_model {what}" for what in differences(job.part(tower)))
    return tensors


def _openai_differences(part: Mapping[str, Any]) -> list[str]:
    """What OpenAI's code, which reads no config, does in another way than a tower's config says."""
    width, heads = part["hidden_size"], part["num_attention_heads"]
    found = []
    if width != 64 * heads:
        found.append(f"takes {width // 64} heads for width {width}, not {heads}")
    if part["hidden_act"] != "quick_gelu":
        found.append(f"computes quick_gelu, this model has {part['hidden_act']}")
    if part["layer_norm_eps"] != 1e-5:
        found.append(f"has layer_norm_eps 1e-5, this model {part['layer_norm_eps']}")
    if part["intermediate_size"] != 4 * width:
        found.append(f"has MLPs of {4 * width}, this model of {part['intermediate_size']}")
    if part.get("eos_token_id", 2) not in (2, part.get("vocab_size", 0) - 1):
        found.append(f"pools at the largest id, this model at eos_token_id {part['eos_token_id']}")
    return found


def _open_clip(job: Job) -> dict[str, bytes]:
    _need_both(job, "open_clip")
    if job.variant:
        raise CheckpointError("open_clip: its files have no variants")
    tensors = dialects.translate(job.tensors, dialects.OPENAI)
    config = foreign_config.to_open_clip(job.config, processors.to_open_clip(job.files))
    safetensors_file.write(job.folder / "open_clip_model.safetensors", tensors, job.metadata or None, job.advance)
    return {"open_clip_config.json": json_bytes(config), "config.json": json_bytes(job.config)}


def _need_both(job: Job, what: str) -> None:
    visual = resnet.PROJECTION if resnet.is_in(job.tensors) else "visual_projection.weight"
    wanted = {"text_projection.weight", visual, "logit_scale"}
    missing = sorted(wanted - set(job.tensors))
    if len(job.towers) < 2 or missing:
        raise CheckpointError(
            f"{what}: it has only full models; this one has {' and '.join(job.towers)}"
            + (f", and lacks {', '.join(missing)}" if missing else "")
        )


def _kerashub(job: Job) -> dict[str, bytes]:
    import numpy as np

    from . import h5_file

    if resnet.is_in(job.tensors):
        raise CheckpointError("kerashub: KerasHub's CLIP has no ResNet tower")
    _need_both(job, "kerashub")
    heads = {tower: int(job.part(tower)["num_attention_heads"]) for tower in job.towers}
    tensors = dialects.translate(
        _supported(job, tuple(f for f in FLOATS if "8" not in f), "KerasHub"), dialects.KERASHUB, heads
    )
    count = tensors[positions.TABLE].shape[0]
    # KerasHub keeps the position ids as a weight and initialises it to zeros
    tensors[positions.IDS] = Tensor.from_numpy(np.arange(count, dtype=np.int32)[None])
    config = foreign_config.to_kerashub(job.config, _main_dtype(job.tensors))
    job.notes.append("KerasHub's text tower has 1e-6, not 1e-5, in its last layer norm: outputs differ slightly there")
    h5_file.write_plain(job.folder / "model.weights.h5", tensors, job.advance)
    count = sum(t.size for t in job.tensors.values())
    metadata = {"keras_version": "3.15.0", "keras_hub_version": "0.32.0", "parameter_count": count, "tasks": []}
    metadata[_HF_ONLY] = job.config
    return {"config.json": json_bytes(config), "metadata.json": json_bytes(metadata)}


def _main_dtype(tensors: Mapping[str, Tensor]) -> str:
    return next((t.dtype for t in tensors.values() if t.dtype in FLOATS), "float32")


def _orbax(job: Job) -> dict[str, bytes]:
    from . import orbax_file

    tensors = dialects.translate(job.tensors, dialects.FLAX)
    orbax_file.write(job.folder, tensors, job.config)
    return {}


def _gguf(job: Job) -> dict[str, bytes]:
    write_gguf(job.folder / "model.gguf", job)
    return {"config.json": json_bytes(job.config)}


def write_gguf(path: Path, job: Job) -> None:
    """clip.cpp's file: the kernel of its convolution is float16, and what has one axis is float32."""
    from . import clip_cpp, gguf_file

    if resnet.is_in(job.tensors):
        raise CheckpointError("gguf: clip.cpp has no ResNet tower")
    missing = [n for t, n in (("text", "text"), ("vision", "visual")) if t in job.towers]
    missing = [f"{name}_projection.weight" for name in missing if f"{name}_projection.weight" not in job.tensors]
    if missing or "float64" in {t.dtype for t in job.tensors.values()}:
        what = f"{missing[0]} is missing" if missing else 'found float64: give dtype="float32"'
        raise CheckpointError(f"gguf: clip.cpp wants projections, of float32 or float16: {what}")
    tensors = dialects.translate(_supported(job, ("float16", "float32"), "clip.cpp's GGUF"), dialects.GGUF)
    scale = tensors.pop("logit_scale", None)
    tensors = {n: t.astype("float32") if len(t.shape) < 2 else t for n, t in tensors.items()}
    kernel = tensors.get("v.patch_embd.weight")
    if kernel is not None:
        if kernel.dtype != "float16":
            job.notes.append("vision: the patch embedding was rounded to float16, in which ggml convolves")
        tensors["v.patch_embd.weight"] = kernel.astype("float16")
    value = 0.0 if scale is None else float(scale.astype("float32").numpy())
    gguf_file.write(path, tensors, clip_cpp.header(job.config, job.towers, value, job.files), job.advance)


TARGETS: dict[str, Callable[[Job], dict[str, bytes]]] = {
    "hf": _hf,
    "hf-flat": _hf_flat,
    "hf-bin": _hf_bin,
    "tf": _tf,
    "flax": _flax,
    "openai": _openai,
    "open_clip": _open_clip,
    "kerashub": _kerashub,
    "orbax": _orbax,
    "gguf": _gguf,
}


def write_file(path: Path, job: Job, to: str) -> None:
    """One weight file at a path, instead of a folder; the config goes inside where the container can hold it."""
    config = {"config": json.dumps(job.config)}
    if to in ("hf-flat", "kerashub", "orbax"):
        raise CheckpointError(f"{to}: a folder was wanted as the target, found the file name {path.name}")
    if to == "gguf":
        write_gguf(path, job)
        return
    if to == "tf":
        from .h5_file import write_tf

        kind = "" if len(job.towers) == 2 else f"{job.towers[0]}_"
        tensors = dialects.translate(_supported(job, ("float16", "float32", "float64"), "TensorFlow's h5"), dialects.TF)
        write_tf(path, tensors, f"tfclip_{kind}model", False, job.advance)
        return
    if to == "flax":
        from .msgpack_file import write

        write(path, dialects.translate(job.tensors, dialects.FLAX), job.advance)
        return
    tensors = job.tensors if to.startswith("hf") else openai_tensors(job)
    if path.suffix == ".safetensors":
        # open_clip's own files carry no format
        own = {"format": "pt"} if to.startswith("hf") else {}
        safetensors_file.write(path, tensors, {**own, **config, **job.metadata}, job.advance)
    else:
        torch_writer.write(path, tensors, config, job.advance)
