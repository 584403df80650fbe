"""`triclip --version`: what a bug report needs to name."""

from __future__ import annotations

import platform
from importlib import metadata

from clip_core import __version__

# Distributions whose release can change a result or an error, in the order of the storeys.
PACKAGES = (
    *("numpy", "pillow", "regex", "safetensors", "ftfy", "simplejpeg", "h5py", "msgpack", "huggingface_hub"),
    *("torch", "tensorflow", "keras", "jax", "flax", "orbax-checkpoint", "transformers", "peft"),
    *("grain", "pyarrow", "faiss-cpu", "matplotlib", "starlette", "uvicorn"),
)


def described() -> str:
    """A line each for triclip, for Python and the system, and for every package installed. Nothing is imported."""
    lines = [f"triclip {__version__}", f"Python {platform.python_version()}, {platform.platform()}"]
    for name in PACKAGES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "\n".join(lines)
