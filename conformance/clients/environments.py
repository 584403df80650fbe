"""The environments of the clients, built on first use as `.venv-clients-NAME`; see benchmarks/peers.py.

TRICLIP_CLIENTS_NAME (in capitals) names the folder of an existing one to use instead. Standard library only.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import peers

OURS = ["numpy==2.4.6", "pillow==13.0.0", "regex", "safetensors==0.8.0"]  # what clip_core needs
TORCH_CLIENTS = [
    "diffusers==0.42.1",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "sentence-transformers==6.2.0",
    "torchmetrics==1.9.0",
]

# environment -> pip's arguments, one call after the other
ENVIRONMENTS: dict[str, list[list[str]]] = {
    "torch": [
        peers.TORCH,
        ["transformers==5.23.0", *TORCH_CLIENTS, *OURS],
        ["ftfy", "scikit-learn", "tqdm", "packaging", "setuptools>=77.0.3,<81"],  # clip-anytorch imports pkg_resources
        # torchvision asks for the CUDA build of torch, and these ask for it; see `peers.stub_torchvision`.
        [
            "--no-deps",
            "clip-benchmark==1.6.2",
            "all-clip==1.3.0",
            "clip-retrieval==2.45.0",
            "clip-anytorch==2.6.0",
            "open_clip_torch==3.3.0",
        ],
        ["--no-deps", "timm==1.0.31", "torchvision==0.29.1"],
    ],
    # the releases that went with transformers 4, whose classes are nearest to these
    "torch4": [
        peers.TORCH,
        ["transformers==4.57.6", "diffusers==0.36.0", "peft==0.18.1", "accelerate==1.15.0", *OURS],
        ["sentence-transformers==5.1.2", "scikit-learn"],
    ],
    "flax": [[*peers.JAX, *OURS, "msgpack", "pytest"]],
    "flax5": [[*peers.JAX, *OURS, "msgpack", "pytest", "transformers==5.23.0"]],
    "kerashub": [*peers.ENVIRONMENTS["kerashub"], OURS],
}


def python(name: str) -> Path:
    """The interpreter of an environment, which is built if it is missing or its list has changed."""
    return peers.interpreter(f"clients-{name}", f"TRICLIP_CLIENTS_{name.upper()}", ENVIRONMENTS[name])
