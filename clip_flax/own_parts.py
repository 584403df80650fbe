"""Names and layouts in files of the weights that a user's own module adds to CLIP's.

In Flax's files a weight has its path in the tree, unchanged. In files of PyTorch's layout, the path's leaf is renamed
by v4.37's rule: `kernel`, `scale` and `embedding` become `weight`.
"""

from __future__ import annotations

from collections.abc import Mapping

from clip_core.checkpoint.tensor import Tensor
from clip_core.pretrained import Loaded

_FLAX_LEAVES = (".kernel", ".scale", ".embedding")
_KERNELS = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}  # rank -> axes: linear, Conv1d, Conv2d -> Flax's kernel


def load(loaded: Loaded, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Path -> tensor in Flax's layout, for the paths of `shapes` (path -> shape) in the file."""
    entries = loaded.own.entries if loaded.own else {}
    as_flax = any(name.endswith(_FLAX_LEAVES) for name in entries)
    names = {path: path if as_flax else spelled(path) for path in shapes}
    axes = {path: () if as_flax else _KERNELS.get(len(shape), ()) * is_kernel(path) for path, shape in shapes.items()}
    wanted = {names[path]: tuple(shape[i] for i in inverse(axes[path])) or shape for path, shape in shapes.items()}
    found, _ = loaded.take_own(wanted)
    return {
        path: found[name].permute(*axes[path]) if axes[path] else found[name]
        for path, name in names.items()
        if name in found
    }


def published(path: str, tensor: Tensor) -> tuple[str, Tensor]:
    """(name, tensor) in PyTorch's layout: the inverse of `load`."""
    axes = _KERNELS.get(len(tensor.shape), ()) * is_kernel(path)
    return spelled(path), tensor.permute(*inverse(axes)) if axes else tensor


def is_kernel(path: str) -> bool:
    return path.rpartition(".")[2] == "kernel"


def spelled(path: str) -> str:
    """A path's name in PyTorch."""
    return next((path.removesuffix(leaf) + ".weight" for leaf in _FLAX_LEAVES if path.endswith(leaf)), path)


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))
