"""Processes and devices of a training run in PyTorch: one process per device, as started by `torchrun`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from clip_core.errors import ConfigError

from ...config import MeshSection, TrainConfig
from ...engine import Process


def start(config: TrainConfig) -> Process:
    """Join the other processes if torchrun's environment describes some; choose this one's device.

    NCCL between CUDA devices, gloo otherwise. Raises ConfigError if `mesh` does not fit the devices, or if the batch
    can't be shared equally.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    mesh_shape(config.mesh, count)
    if config.data.batch_size % count:
        found = config.data.batch_size
        raise ConfigError(f"data.batch_size: wanted a multiple of the number of processes, {count}, found {found}")
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    return Process(index(), count)


def mesh_shape(mesh: MeshSection, count: int) -> tuple[int, int]:
    """(data, fsdp) for `count` processes, -1 resolved. Raises ConfigError with both numbers."""
    if mesh.tensor not in (1, -1):
        raise ConfigError(f"mesh.tensor: wanted 1 with the torch backend, found {mesh.tensor}")
    sizes = [mesh.data, mesh.fsdp, 1]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if int(np.prod(sizes)) != count:
        wanted = f"mesh: data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor}"
        devices = f"a multiple of {fixed} devices" if -1 in sizes else f"{fixed} devices"
        raise ConfigError(f"{wanted}: wanted {devices}, found {count} (torchrun starts one process per device)")
    return sizes[0], sizes[1]


def own_device() -> torch.device:
    """The CUDA device of this process's local number, or the CPU. Raises ConfigError with both numbers."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= found:
        wanted = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
        raise ConfigError(f"mesh: wanted {wanted} devices for the processes of this machine, found {found}")
    return torch.device("cuda", local)


def index() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@dataclass(frozen=True)
class Topology:
    """This process's device, its mesh (None when nothing is sharded), and process groups for CPU tensors.

    There are two groups, because checkpoints are coordinated in another thread during training.
    """

    device: torch.device
    mesh: Any
    control: Any
    saving: Any

    @classmethod
    def of(cls, config: TrainConfig) -> Topology:
        device, count = own_device(), world()
        data, fsdp = mesh_shape(config.mesh, count)
        mesh = None
        if fsdp > 1:
            shape, names = ((data, fsdp), ("data", "fsdp")) if data > 1 else ((fsdp,), ("fsdp",))
            mesh = dist.device_mesh.init_device_mesh(device.type, shape, mesh_dim_names=names)
        control, saving = (dist.new_group(backend="gloo") if count > 1 else None for _ in range(2))
        return cls(device, mesh, control, saving)

    def most(self, value: int) -> int:
        """The maximum over all processes."""
        if self.control is None:
            return value
        found = torch.tensor(value)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        return int(found)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all processes, in order of the processes; row counts may differ."""
        if self.control is None:
            return rows
        counts = torch.zeros(world(), dtype=torch.long)
        counts[index()] = len(rows)
        dist.all_reduce(counts, group=self.control)
        padded = np.zeros((int(counts.max()), *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        # As bytes, because gloo supports few dtypes.
        own = torch.from_numpy(padded.reshape(len(padded), -1).view(np.uint8)) if padded.size else None
        if own is None:
            return padded
        parts = [torch.empty_like(own) for _ in counts]
        dist.all_gather(parts, own, group=self.control)
        whole = [part[:count].numpy() for part, count in zip(parts, counts.tolist(), strict=True)]
        return np.concatenate(whole).view(rows.dtype).reshape(-1, *rows.shape[1:])


def distributed(network: nn.Module, layers: list[nn.Module], topology: Topology, bf16: bool) -> None:
    """Shard parameters over the mesh's "fsdp" axis, layer by layer, with copies along "data". Scalars stay whole."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Matrices are communicated in bfloat16, their gradients are reduced in float32. Norms, which compute in float32,
    # and the rest belong to the whole network. Autocast decides the dtype of activations.
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in layers:
        matrices = [layer.self_attn, layer.mlp]
        fully_shard(matrices, mesh=topology.mesh, mp_policy=half if bf16 else MixedPrecisionPolicy())
    scalars = {parameter for parameter in network.parameters() if parameter.dim() == 0}  # FSDP2 does not support them
    fully_shard(network, mesh=topology.mesh, reshard_after_forward=True, ignored_params=scalars)


def replicated(network: nn.Module, topology: Topology) -> nn.Module:
    """DistributedDataParallel. The caller must run one empty step first, see `Engine._settle`."""
    devices = [topology.device] if topology.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers`")  # renamed in torch 2.13
        return nn.parallel.DistributedDataParallel(
            network, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False
        )


@torch.no_grad()
def fill(network: nn.Module, array_of: Callable[[str], np.ndarray]) -> None:
    """Copy the array of each parameter's name into it; each process takes its own shard."""
    for name, parameter in network.named_parameters():
        value = torch.from_numpy(np.array(array_of(name), np.float32))
        if isinstance(parameter, DTensor):
            value = distribute_tensor(
                value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
        parameter.copy_(value)


def local(tensor: Tensor) -> Tensor:
    """This process's part, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> np.ndarray:
    """The whole tensor as a NumPy copy, in every process."""
    tensor = tensor.detach()
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.cpu().numpy().copy()
