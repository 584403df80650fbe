"""The devices and processes of a training run, and the transfer of rows to and from them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from clip_core.errors import ConfigError

from ...config import MeshSection
from ...engine import Process


class Group(NamedTuple):
    """The replicas of a run: this process's, and all."""

    strategy: tf.distribute.Strategy
    process: Process

    @property
    def replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self) -> int:
        return self.replicas // self.process.count

    def feed(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """This process's rows in equal shares for its replicas; scalars for each of them."""

        def share(context: Any) -> dict[str, tf.Tensor]:
            i = context.replica_id_in_sync_group % self.local_replicas
            return {name: tf.constant(_share(array, i, self.local_replicas)) for name, array in arrays.items()}

        return self.strategy.experimental_distribute_values_from_function(share)

    def fetch(self, value: Any) -> np.ndarray:
        """The rows of this process's replicas, in order."""
        return np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(value)])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Rows [b, ...] of all processes, in their order; b may differ."""
        if self.process.count == 1:
            return rows
        counts = self._gather(np.array([len(rows)], np.int32))
        packed = np.zeros((counts.max(initial=0), *rows.shape[1:]), rows.dtype)
        packed[: len(rows)] = rows
        if packed.size == 0:
            return packed
        octets = np.frombuffer(packed.tobytes() + b"\0" * (-packed.nbytes % 4), np.int32)  # any dtype travels
        parts = self._gather(octets[None])
        unpacked = [np.frombuffer(p.tobytes()[: packed.nbytes], rows.dtype).reshape(packed.shape) for p in parts]
        return np.concatenate([part[:count] for part, count in zip(unpacked, counts, strict=True)])

    def barrier(self) -> None:
        """Wait until all processes arrive."""
        if self.process.count > 1:
            self._gather(np.zeros(1, np.int32))

    def _gather(self, row: np.ndarray) -> np.ndarray:
        """[1, ...] int32 of each process -> [processes, ...]."""
        value = self.strategy.experimental_distribute_values_from_function(lambda _: tf.constant(row))
        gathered = _gatherer(self.strategy)(value)
        return self.strategy.experimental_local_results(gathered)[0].numpy()[:: self.local_replicas]


@cache
def _gatherer(strategy: tf.distribute.Strategy) -> Any:
    """A gather function, traced once; `Strategy.gather` is traced at every call."""

    def all_rows(row: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tf.identity(row), axis=0)  # an argument has no device

    return tf.function(lambda row: strategy.run(all_rows, args=(row,)), autograph=False, reduce_retracing=True)


def _share(array: np.ndarray, i: int, count: int) -> np.ndarray:
    rows = len(array) // count if array.ndim else 0
    return array[i * rows : (i + 1) * rows] if array.ndim else array


def find_group(mesh: MeshSection) -> Group:
    """The group that the environment describes: TF_CONFIG (MultiWorkerMirroredStrategy), TPU_NAME (TPUStrategy), or
    this machine's GPUs, or its logical CPUs (MirroredStrategy), as many as `mesh.data` wants.

    Raises ConfigError, with both numbers, if there are fewer.
    """
    for key in ("fsdp", "tensor"):
        if (size := getattr(mesh, key)) != 1:
            raise ConfigError(f"mesh.{key}: wanted 1 with backend tf, which splits data alone, found {size}")
    if os.environ.get("TF_CONFIG"):
        group = _workers()
    elif os.environ.get("TPU_NAME"):
        group = _tpu()
    else:
        return Group(_local(mesh.data), Process(0, 1))
    if mesh.data not in (-1, group.replicas):
        raise ConfigError(f"mesh.data: wanted {mesh.data} devices, found {group.replicas} in all processes")
    return group


def _local(wanted: int) -> tf.distribute.Strategy:
    devices = [device.name for kind in ("GPU", "CPU") for device in tf.config.list_logical_devices(kind)]
    devices = [name for name in devices if name.split(":")[-2] == devices[0].split(":")[-2]]
    if wanted > len(devices):
        raise ConfigError(f"mesh.data: wanted {wanted} devices, found {len(devices)}: {', '.join(devices)}")
    return _over(tuple(devices if wanted == -1 else devices[:wanted]))


@cache  # a second strategy over the same devices would reuse the first one's collective keys, with other shapes
def _over(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy(devices[0]) if len(devices) == 1 else tf.distribute.MirroredStrategy(devices)


@cache  # a process can join a group once
def _workers() -> Group:
    try:
        described = json.loads(os.environ["TF_CONFIG"])
        cluster, task = described["cluster"], described["task"]
        addresses = [(kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, ())))]
        index = addresses.index((task["type"], int(task["index"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            'TF_CONFIG: wanted {"cluster": {"worker": [addresses]}, "task": {"type": "worker", "index": 0}}, '
            f"found {os.environ['TF_CONFIG']!r} ({type(error).__name__}: {error})"
        ) from None
    return Group(tf.distribute.MultiWorkerMirroredStrategy(), Process(index, len(addresses)))


@cache
def _tpu() -> Group:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return Group(tf.distribute.TPUStrategy(resolver), Process(0, 1))
