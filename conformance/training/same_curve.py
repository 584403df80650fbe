"""Acceptance check 11: one run in every backend, through the engine contract alone.

    python -m conformance.training.same_curve OUTPUT RUNS

is one process: RUNS is JSON, a list of {"name": …, "values": {"dotted.key": value}}; the first process of a run writes
OUTPUT/<name>.npz with the losses and the parameters after `STEPS` steps. `compare` starts them all and compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from triclip.train.schedule import learning_rate
from triclip.train.start import prepare

from .tf_worker import ROOT, SAMPLES, batch_of, finish, free_ports, tiny_config

STEPS = 10
# What a run may have, all of it at once.
SHARED = {
    "ema": 0.99, "loss.anchors": {}, "optimizer.clip_norm": 1.0, "optimizer.layer_decay": 0.9, "optimizer.warmup": 3,
    "steps": STEPS,
}  # fmt: skip
SIGMOID = {**SHARED, "loss.kind": "sigmoid", "loss.mode": "chunked", "loss.chunk": 3, "accumulate": 2}
# name -> (processes, environment, configuration)
RUNS: dict[str, tuple[int, dict[str, str], dict[str, Any]]] = {
    "flax": (1, {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}, {}),
    "tf": (1, {"TF_CPP_MIN_LOG_LEVEL": "2"}, {}),
    "torch-ddp": (2, {}, {"mesh.data": 2}),
    "torch-fsdp2": (2, {}, {"mesh.data": 1, "mesh.fsdp": 2}),
}


def start(name: str, output: Path, losses: Mapping[str, dict[str, Any]]) -> list[subprocess.Popen[str]]:
    """The processes of one backend, which runs each of the losses (name -> configuration)."""
    count, environment, own = RUNS[name]
    if count > 1 and len(losses) > 1:  # a process joins a group once
        return [process for loss in losses for process in start(name, output, {loss: losses[loss]})]
    backend = name.partition("-")[0]
    runs = [
        {"name": f"{name} {loss}", "values": {"backend": backend, **own, **values}} for loss, values in losses.items()
    ]
    base = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    base = {key: value for key, value in base.items() if not key.lower().endswith("_proxy")}
    command = [sys.executable, "-m", __spec__.name, str(output), json.dumps(runs)]
    port, started = free_ports(1)[0], []
    for index in range(count):
        group = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "RANK": str(index),
            "LOCAL_RANK": str(index), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        env = {**base, **(group if count > 1 else {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes))
    return started


def compare(
    output: Path, names: Sequence[str], losses: Mapping[str, dict[str, Any]], timeout: float
) -> dict[str, dict[str, float]]:
    """Run the backends, and how far each is from the first: the losses (relative) and the parameters (absolute)."""
    started = [process for name in names for process in start(name, output, losses)]
    finish(started, timeout=timeout)
    table = {}
    for loss in losses:
        wanted = dict(np.load(output / f"{names[0]} {loss}.npz"))
        for name in names[1:]:
            found = dict(np.load(output / f"{name} {loss}.npz"))
            table[f"{name} {loss}"] = differences(found, wanted)
    return table


def differences(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
    if found.keys() != wanted.keys() or any(found[name].shape != wanted[name].shape for name in wanted):
        raise AssertionError(f"other parameters: {sorted(found.keys() ^ wanted.keys())}")
    parameters = [name for name in wanted if name not in ("loss", "grad_norm")]
    return {
        "loss": float(np.abs(found["loss"] / wanted["loss"] - 1).max()),
        "grad_norm": float(np.abs(found["grad_norm"] / wanted["grad_norm"] - 1).max()),
        "parameters": max(float(np.abs(found[name] - wanted[name]).max()) for name in parameters),
        "steps": float(len(wanted["loss"])),
        "count": float(len(parameters)),
    }


def run(output: Path, name: str, values: dict[str, Any]) -> None:
    config = tiny_config(output / name, **values)
    backend = import_module(f"triclip.train.engines.{config.backend}_.training")
    process = backend.start(config)
    engine = backend.Engine(prepare(config, SAMPLES if config.loss.anchors else 0))
    figures: dict[str, list[float]] = {"loss": [], "grad_norm": []}
    while engine.step < config.steps:
        rate = learning_rate(config.optimizer, config.steps, engine.step)
        found = engine.train_step(batch_of(engine.step, process.index, process.count), rate)
        for key, curve in figures.items():
            curve.append(float(found[key]))
    weights = {f"parameters.{key}": value for key, value in engine.weights(False).items()}
    weights |= {f"averages.{key}": value for key, value in engine.weights(True).items()}
    if process.index == 0:
        np.savez(output / f"{name}.npz", **{key: np.array(curve) for key, curve in figures.items()}, **weights)
    engine.close()


def main() -> None:
    if len(sys.argv) == 3:
        for one in json.loads(sys.argv[2]):
            run(Path(sys.argv[1]), one["name"], one["values"])
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        table = compare(Path(folder), list(RUNS), {"softmax": SHARED, "sigmoid": SIGMOID}, timeout=900)
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
