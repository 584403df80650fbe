"""Loading ViT-B/32 into each backend: time, and memory beyond what was there before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.harness import Pair, Row, Side

KERAS = {"TF_USE_LEGACY_KERAS": "1"}
TORCH_ALONE = {"USE_TF": "0", "USE_FLAX": "0", "USE_TORCH": "1"}  # what transformers imports, which isn't timed
NO_TF = {"USE_TF": "0", "USE_FLAX": "1", "USE_TORCH": "1"}

ROW = Row(
    title="Loading ViT-B/32",
    about=(
        "`from_pretrained` of model.safetensors (605 MB, in the page cache) in a new process, after the imports. "
        "transformers leaves PyTorch's weights in the file, as mmap=True does here; its TensorFlow and Flax classes "
        "read it with from_pt=True."
    ),
    data=("vit_b32",),
    sides={
        "triclip, torch": Side("triclip", "ours_torch", "fresh"),
        "triclip, torch, mmap": Side("triclip", "ours_mapped", "fresh"),
        "HF 4.57, torch": Side("hf4", "peer_torch", "fresh", environ=TORCH_ALONE),
        "HF 5.23, torch": Side("hf5", "peer_torch", "fresh"),
        "triclip, TF": Side("triclip", "ours_tf", "fresh"),
        "HF 4.57, TF": Side("hf4", "peer_tf", "fresh", environ=KERAS),
        "triclip, Flax": Side("triclip", "ours_flax", "fresh"),
        "HF 4.57, Flax": Side("hf4", "peer_flax", "fresh", environ=NO_TF),
    },
    pairs=(
        Pair("triclip, torch, mmap", "HF 4.57, torch", at_most=1.0),
        Pair("triclip, torch, mmap", "HF 5.23, torch", at_most=1.0),
        Pair("triclip, torch", "HF 4.57, torch"),
        Pair("triclip, TF", "HF 4.57, TF", at_most=1.0),
        Pair("triclip, Flax", "HF 4.57, Flax", at_most=1.0),
    ),
    unit="models",
    check="memory",
    limits=(
        "Reading every weight once; with mmap=True only the table of contents is read, and Python's garbage collector, "
        "which would take longer, rests. TensorFlow's variables are made as zeros, which a file's weights then "
        "overwrite in pieces."
    ),
    rounds=3,
)


def ours_torch(data: Path) -> Callable[[], Any]:
    import clip_torch  # noqa: F401

    return _measured(data, models.torch_model)


def ours_mapped(data: Path) -> Callable[[], Any]:
    from clip_torch import CLIPModel

    return _measured(data, lambda data: CLIPModel.from_pretrained(data / "vit_b32", mmap=True))


def peer_torch(data: Path) -> Callable[[], Any]:
    from transformers import CLIPModel  # noqa: F401

    return _measured(data, models.hf_torch)


def ours_tf(data: Path) -> Callable[[], Any]:
    import clip_tf  # noqa: F401

    return _measured(data, models.tf_model)


def peer_tf(data: Path) -> Callable[[], Any]:
    from transformers import TFCLIPModel  # noqa: F401

    return _measured(data, models.hf_tf)


def ours_flax(data: Path) -> Callable[[], Any]:
    import jax

    import clip_flax  # noqa: F401

    jax.numpy.zeros(1).block_until_ready()  # starts the device
    return _measured(data, models.flax_model)


def peer_flax(data: Path) -> Callable[[], Any]:
    import jax
    from transformers import FlaxCLIPModel  # noqa: F401

    jax.numpy.zeros(1).block_until_ready()
    return _measured(data, models.hf_flax)


def _measured(data: Path, load: Callable[[Path], Any]) -> Callable[[], Any]:
    """Loads, and returns how far the resident set rose at its highest, over the weights' size."""

    def run() -> Any:
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the maximum begins anew
        model = load(data)
        rise = (_status("VmHWM") - before) / (data / "vit_b32" / "model.safetensors").stat().st_size
        assert model is not None
        return [rise]

    return run


def _status(key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def memory(results: dict[str, Any]) -> str:
    rises = {label: float(value[0]) for label, value in results.items()}
    shown = ", ".join(f"{label} {rise:.2f}" for label, rise in rises.items())
    return f"Highest rise of the resident set, in sizes of the weights: {shown} (goal for triclip: 1.15)."
