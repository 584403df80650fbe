"""The environments of the benchmark, one for triclip and one for each group of peers, built on first use.

`python -m benchmarks.peers NAME` builds one (if it isn't there) and prints its interpreter. They lie in the checkout as
`.venv-bench-NAME`. TRICLIP_BENCH_NAME (in capitals) names the folder of an existing one to use instead.
Standard library only: this runs before any environment exists.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = ["torch==2.13.0"]  # first and alone: where a CPU build is at hand, nothing later replaces it
TENSORFLOW = ["tensorflow==2.21.0"]
JAX = ["jax==0.10.2", "flax==0.12.8"]

# environment -> pip's arguments, one call after the other
ENVIRONMENTS: dict[str, list[list[str]]] = {
    "triclip": [
        ["-c", "constraints.txt", "torch"],
        ["-c", "constraints.txt", "--editable", ".[torch,tf,flax,jpeg,onnx]"],
    ],
    "hf4": [TORCH, ["transformers==4.57.6", *TENSORFLOW, "tf-keras==2.21.0", *JAX, "pillow==13.0.0"]],
    "hf5": [TORCH, ["transformers==5.23.0", "pillow==13.0.0"]],
    "openclip": [
        TORCH,
        ["ftfy", "regex", "huggingface_hub", "safetensors", "tqdm", "pyyaml", "numpy", "pillow==13.0.0"],
        # torchvision asks for the CUDA build of torch, so it comes without its dependencies; see `stub_torchvision`.
        ["--no-deps", "open_clip_torch==3.3.0", "timm==1.0.31", "torchvision==0.29.1"],
    ],
    "kerashub": [
        ["tensorflow==2.21.0", "keras==3.15.0", "h5py", "rich", "regex", "packaging", "kagglehub", "tokenizers"],
        ["safetensors", "pillow==13.0.0", "--no-deps", "keras-hub==0.32.0"],
    ],
    "onnx": [["onnxruntime==1.32.0", "openvino==2026.4.1", "numpy==2.4.6"]],
    "rust": [["hf-processors-rs==0.1.0", "numpy==2.4.6", "pillow==13.0.0"]],
}


def python(name: str) -> Path:
    """The interpreter of an environment, which is built where it is missing or its list has changed."""
    return interpreter(f"bench-{name}", f"TRICLIP_BENCH_{name.upper()}", ENVIRONMENTS[name])


def interpreter(label: str, variable: str, calls: list[list[str]]) -> Path:
    """The interpreter of `.venv-LABEL` in the checkout, made by `calls`: pip's arguments, one call after the other.

    An environment variable of the name `variable` gives the folder of an existing environment instead.
    """
    given = os.environ.get(variable)
    folder = Path(given) if given else ROOT / f".venv-{label}"
    found = folder / "bin" / "python"
    if given:
        if not found.exists():
            raise FileNotFoundError(f"{variable}: wanted an environment, found no {found}")
        return found
    wanted = hashlib.sha256(repr(calls).encode()).hexdigest()
    ready = folder / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        print(f"building {folder.name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        for arguments in calls:
            command = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
            subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        ready.write_text(wanted)
    return found


def stub_torchvision() -> None:
    """Let torchvision be imported beside a CPU build of torch.

    Its compiled operators are for the CUDA build; open_clip uses none of them, but importing torchvision registers
    gradients for them, so they have to be declared. To be called before `import open_clip`.
    """
    import torch

    library = torch.library.Library("torchvision", "DEF")
    pooling = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
    for operator in ("nms", "qnms", *pooling, *(f"_{name}_backward" for name in pooling)):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    stub_torchvision.library = library  # type: ignore[attr-defined]  # the declarations end with it


if __name__ == "__main__":
    for environment in sys.argv[1:] or ENVIRONMENTS:
        print(python(environment))
