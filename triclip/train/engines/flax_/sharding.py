"""The sharding of parameters on a mesh data x fsdp x tensor: canonical name -> logical axes -> mesh axes.

Two tables define it. Parameters are plain arrays in a plain dict, and the modules are independent of the mesh.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clip_core.errors import ConfigError

from ...config import MeshSection

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axis. Heads and the MLP's width are split as in Megatron: one reduction per block. `fsdp` shards
# the stored parameters, moments and average; for computing, parameters are gathered along it.
RULES = (("embed", "fsdp"), ("heads", "tensor"), ("mlp", "tensor"), ("vocab", "tensor"), ("samples", "tensor"))

# Regular expression for the canonical name -> logical axes of the parameter in Flax's layout. Others (norms, the other
# biases, scalars) are small and replicated.
LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"self_attn\.[qkv]_proj\.weight$", ("embed", "heads")),
    (r"self_attn\.[qkv]_proj\.bias$", ("heads",)),
    (r"self_attn\.out_proj\.weight$", ("heads", "embed")),
    (r"mlp\.fc1\.weight$", ("embed", "mlp")),
    (r"mlp\.fc1\.bias$", ("mlp",)),
    (r"mlp\.fc2\.weight$", ("mlp", "embed")),
    (r"token_embedding\.weight$", ("vocab", "embed")),
    (r"position_embedding\.weight$", (None, "embed")),
    (r"patch_embedding\.weight$", (None, None, None, "embed")),
    (r"^(text|visual)_projection\.weight$", ("embed", None)),
    (r"^anchors$", ("samples", "embed")),
)


def make_mesh(section: MeshSection, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run, over all devices of all processes or, within one process, the first ones.

    Raises ConfigError with both numbers if there are too few devices, or if the mesh can't use all of them.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {axis: getattr(section, axis) for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    text = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    if fixed > len(devices):
        raise ConfigError(f"mesh: wanted {fixed} devices ({text}), found {len(devices)}")
    if -1 in sizes.values() and len(devices) % fixed:
        raise ConfigError(f"mesh: wanted a multiple of {fixed} devices ({text}), found {len(devices)}")
    shape = tuple(len(devices) // fixed if size == -1 else size for size in sizes.values())
    count = math.prod(shape)
    if count < len(devices) and jax.process_count() > 1:
        raise ConfigError(
            f"mesh: wanted {count} devices ({text}), found {len(devices)}: every process has to take part"
        )
    # Auto: Linen's modules leave shardings to the compiler, and fail on axes of make_mesh's default type, Explicit.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:count])


def parameter_spec(name: str, shape: Sequence[int], mesh: Mesh) -> P:
    """The sharding of a stored parameter. An axis not divisible by the mesh's is not split."""
    for pattern, axes in LOGICAL_AXES:
        if re.search(pattern, name):
            spec = nn.logical_to_mesh_axes(axes, RULES)
            return P(
                *(
                    axis if axis and size % mesh.shape[axis] == 0 else None
                    for axis, size in zip(spec, shape, strict=True)
                )
            )
    return P()


def for_computing(spec: P) -> P:
    """The sharding of a parameter in use: gathered along `fsdp`, split along `tensor`."""
    return P(*(None if axis == "fsdp" else axis for axis in spec))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch's rows over all devices: each row goes to one device, for any mesh."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def place_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """This process's rows [b, …] as its share of a global array [B, …], one piece per device.

    Explicit transfers without communication: jax.make_array_from_process_local_data transfers implicitly with several
    processes, which `jax.transfer_guard("disallow")` refuses.
    """
    devices = mesh.local_devices
    shape = (len(rows) // len(devices) * mesh.size, *rows.shape[1:])
    pieces = jax.device_put(np.split(rows, len(devices)), list(devices))
    return jax.make_array_from_single_device_arrays(shape, batch_sharding(mesh), pieces)


def place_same(mesh: Mesh, value: np.ndarray) -> jax.Array:
    """A value equal in every process, on every device. jax.device_put would compare the processes' values each time."""
    pieces = jax.device_put([value] * len(mesh.local_devices), list(mesh.local_devices))
    return jax.make_array_from_single_device_arrays(value.shape, replicated(mesh), pieces)
