"""Starting processes of `flax_worker`, and comparing their results."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .flax_worker import Spec

ROOT = Path(__file__).parents[2]


def launch(
    specs: Sequence[Spec], devices: int = 1, processes: int = 1, cache: Path | None = None
) -> list[subprocess.Popen[str]]:
    """Workers as one group, each with so many simulated devices. cache: folder of compiled programs."""
    runs = json.dumps([asdict(spec) for spec in specs])
    return group(["-m", "conformance.training.flax_worker", runs], devices, processes, cache)


def group(
    arguments: Sequence[str], devices: int = 1, processes: int = 1, cache: Path | None = None
) -> list[subprocess.Popen[str]]:
    """Python processes that will find each other, each with so many simulated devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # Compiling is most of what a tiny run costs: without optimisation it takes half the time.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    base = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    base = {name: value for name, value in base.items() if not name.lower().endswith("_proxy")}
    if cache is not None:
        base |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if processes > 1:
        base |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(processes)}
    started = []
    for index in range(processes):
        env = base if processes == 1 else {**base, "JAX_PROCESS_ID": str(index)}
        command = [sys.executable, "-u", *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=pipe, stderr=pipe))
    return started


def finish(started: Sequence[subprocess.Popen[str]], wanted: int = 0, timeout: float = 600) -> list[str]:
    """Standard outputs, once all have ended as wanted."""
    outputs = []
    for process in started:
        try:
            out, problem = process.communicate(timeout=timeout)
        finally:
            process.kill()
        if process.returncode != wanted:
            raise AssertionError(f"exit status {process.returncode}, wanted {wanted}:\n{out}\n{problem[-6000:]}")
        outputs.append(out)
    return outputs


def curve(result: Path | str, name: str = "loss") -> np.ndarray:
    with np.load(result) as arrays:
        return arrays[f"curve/{name}"]


def state(result: Path | str) -> dict[str, np.ndarray]:
    """Parameters, moments and average, by path."""
    with np.load(result) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("[")}


def differing(a: Path | str, b: Path | str) -> list[str]:
    """Leaves that are not equal to the bit."""
    first, second = state(a), state(b)
    if first.keys() != second.keys() or not first:
        raise AssertionError(f"{a} and {b} hold different leaves")
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]
