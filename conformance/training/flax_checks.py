"""The long acceptance checks of training for JAX; writes flax_results.json beside itself.

    python -m conformance.training.flax_checks [check ...]

1 topology, 2 kill -9, 3 SIGTERM, 4 elastic, 5 and 7 losses, 6 memory, 8 accumulation, 10 hot path. 2 to 4 go through
`triclip train`, data and all. About ten minutes on two cores; eight devices are simulated, processes talk through gloo.
"""

from __future__ import annotations

import contextlib
import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from .flax_runs import ROOT, curve, differing, finish, group, launch
from .flax_worker import Spec
from .record import run_checks

RESULTS = Path(__file__).with_name("flax_results.json")
STEPS, EVERY = 24, 3
CONFIG = f"""
output: run
backend: flax
steps: {STEPS}
ema: 0.99
model:
  patch_dropout: 0.25
  config:
    projection_dim: 16
    text_config: {{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
                   max_position_embeddings: 16, bos_token_id: 49406, eos_token_id: 49407}}
    vision_config: {{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
                     image_size: 32, patch_size: 8}}
data: {{train: data/train.csv, batch_size: 16}}
optimizer: {{warmup: 3, clip_norm: 1.0, schedule: constant}}
checkpoint: {{every: {EVERY}}}
log: {{every: 1, tensorboard: false}}
"""
SAME_CURVE = 1e-5


def make_data(folder: Path, samples: int = 60) -> Path:
    """Pictures of coloured squares with two captions each, and the configuration of a run over them."""
    from PIL import Image

    draw = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    with open(folder / "data" / "train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for i in range(samples):
            colour = tuple(int(part) for part in draw.integers(0, 256, 3))
            Image.new("RGB", (40, 36), colour).save(folder / "data" / f"{i}.png")
            table.writerow([f"{i}.png", f"a square of red {colour[0]}, green {colour[1]} and blue {colour[2]}"])
    config = folder / "run.yaml"
    config.write_text(CONFIG)
    return config


def train(config: Path, output: Path, *changes: str, devices: int = 1, processes: int = 1) -> list[Any]:
    arguments = ["-m", "triclip", "train", "--config", str(config), f"output={output}", *changes]
    return group(arguments, devices, processes, config.parent / "cache")


def losses(output: Path) -> list[float]:
    """The curve of a run. A step repeated after a kill has the same number twice."""
    found: dict[int, set[float]] = {}
    for line in (output / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["step"], set()).add(record["loss"])
    if any(len(values) > 1 for values in found.values()) or sorted(found) != list(range(1, len(found) + 1)):
        raise AssertionError(f"{output}: steps that are missing, or differ when done again: {found}")
    return [found[step].pop() for step in sorted(found)]


def checkpoint(output: Path, step: int) -> dict[str, bytes]:
    """Every leaf of a checkpoint, and the data's position, as bytes."""
    folder = (output / "checkpoints" / str(step)).absolute()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(folder / "state").item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(folder / "state", args=ocp.args.PyTreeRestore(restore_args=plain))
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in flat}
    return leaves | {"data": (folder / "data" / "metadata").read_bytes()}


def unequal(a: Path, b: Path, step: int = STEPS) -> list[str]:
    first, second = checkpoint(a, step), checkpoint(b, step)
    return [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]


def apart(a: Sequence[float], b: Sequence[float]) -> float:
    """Greatest relative difference of two curves of equal length."""
    if len(a) != len(b):
        raise AssertionError(f"curves of {len(a)} and {len(b)} steps")
    return float(np.max(np.abs(np.subtract(a, b)) / np.abs(b)))


# -- the checks -------------------------------------------------------------------------------------------------------


def topology(folder: Path) -> dict[str, Any]:
    """The same curve on 1 device, 8 x 1 x 1, 2 x 2 x 2, a ring, and 2 processes x 4 devices; greatest difference."""
    cube = {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}
    alone = [
        Spec(str(folder / name), str(folder / f"{name}.npz"), 20, changes=changes)
        for name, changes in {
            "1": {"mesh": {"data": 1}},
            "8x1x1": {},
            "2x2x2": cube,
            "ring": {"loss": {"mode": "ring", "chunk": 3}},
        }.items()
    ]
    finish(launch(alone, devices=8, cache=folder / "cache"))
    name = "2 processes x 4, 2x2x2, ring"
    changes = {**cube, "loss": {"mode": "ring", "chunk": 3}}
    both = [
        Spec(str(folder / "both"), str(folder / "2 processes x 4.npz"), 20),
        Spec(str(folder / "both ring"), str(folder / f"{name}.npz"), 20, changes=changes),
    ]
    for spec in both:
        finish(launch([spec], devices=4, processes=2, cache=folder / "cache"))
    wanted = curve(folder / "1.npz")
    names = ["8x1x1", "2x2x2", "ring", "2 processes x 4", name]
    found = {name: apart(curve(folder / f"{name}.npz"), wanted) for name in names}
    return {"ok": max(found.values()) <= SAME_CURVE, "limit": SAME_CURVE, "steps": 20, "relative differences": found}


def kill(folder: Path) -> dict[str, Any]:
    """`triclip train`, killed at random moments and in saves, until done; against a run left alone, to the bit."""
    config = make_data(folder)
    alone, killed = folder / "alone", folder / "killed"
    finish(train(config, alone))
    draw, kills = random.Random(0), []
    for number in range(12):
        left = _unfinished(killed)
        (process,) = train(config, killed)
        kills.append(_kill(process, killed, left, in_save=number % 2 == 1, wait=draw.uniform(0, 1.5)))
        if kills[-1] is None:
            break
    else:
        finish(train(config, killed))
    moments = [moment for moment in kills if moment is not None]
    differ = unequal(killed, alone)
    models = {(run / "model" / "model.safetensors").read_bytes() for run in (alone, killed)}
    return {
        "ok": not differ and len(models) == 1 and losses(alone) == losses(killed) and "in a save" in moments,
        "kills": moments,
        "leaves that differ": differ,
        "exported models that differ": len(models) - 1,
    }


def _kill(
    process: subprocess.Popen[str], output: Path, left: set[tuple[str, int]], in_save: bool, wait: float
) -> str | None:
    """Kill a process some time after its first step, or when it is writing a checkpoint. None: it was done before.
    left: by saves that were killed earlier."""
    lines = _lines(output)
    while process.poll() is None and _lines(output) == lines:
        time.sleep(0.01)
    end = time.monotonic() + wait
    while process.poll() is None and (not _unfinished(output) - left if in_save else time.monotonic() < end):
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise AssertionError(f"ended by itself with {process.returncode}")
    return "in a save" if _unfinished(output) - left else "between saves"


def _unfinished(output: Path) -> set[tuple[str, int]]:
    """Checkpoints that have no name yet, told apart from earlier ones of the same step."""
    found = set()
    for path in (output / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ctime_ns))
    return found


def _lines(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def sigterm(folder: Path) -> dict[str, Any]:
    """SIGTERM to the second of two processes of `triclip train`: both save the same step and end well; then both go
    on, to the bits of two left alone."""
    config = make_data(folder)
    alone, stopped = folder / "alone", folder / "stopped"
    many = "steps=200"
    pair = train(config, stopped, many, processes=2)
    while _lines(stopped) < 5:
        if pair[1].poll() is not None:
            finish(pair)
        time.sleep(0.01)
    pair[1].send_signal(signal.SIGTERM)
    finish(pair)
    step = max(int(path.name) for path in (stopped / "checkpoints").iterdir())
    last = f"steps={step + 4}"
    finish(train(config, stopped, last, processes=2))
    finish(train(config, alone, last, processes=2))
    differ = unequal(stopped, alone, step + 4)
    return {
        "ok": not differ and step < 200 and losses(stopped) == losses(alone),
        "stopped at step": step,
        "leaves that differ": differ,
    }


def elastic(folder: Path) -> dict[str, Any]:
    """`triclip train` on 8 devices, then 1, then 2 processes x 2: the curve of one device throughout."""
    config = make_data(folder)
    alone, moved = folder / "alone", folder / "moved"
    finish(train(config, alone))
    finish(train(config, moved, "steps=8", "mesh.fsdp=4", devices=8))
    finish(train(config, moved, "steps=16"))
    finish(train(config, moved, "mesh.fsdp=2", devices=2, processes=2))
    found = apart(losses(moved), losses(alone))
    return {"ok": found <= SAME_CURVE, "limit": SAME_CURVE, "steps": STEPS, "relative difference": found}


def _module(name: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", f"conformance.training.{name}", *arguments]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def loss_modes(folder: Path) -> dict[str, Any]:
    """Every kind and mode in float64 against the definition (5), and at a scale of 100 in float32 and bfloat16 (7):
    greatest relative errors of value and gradients. What must not pass, by the error that shows it."""
    found = _module("flax_loss")
    worst = max(max(errors.values()) for errors in found["modes"].values())
    controls = {name: max(errors.values()) for name, errors in found["controls"].items()}
    return {
        "ok": worst <= found["tolerance"] and min(controls.values()) > 0.1,
        "limit": found["tolerance"],
        "cases": len(found["modes"]),
        "greatest error": worst,
        "anchors": max(found["anchors"].values()),
        "broken code is found by": controls,
        "scale 100": {case: max(errors.values()) for case, errors in found["hard"].items()},
    }


def memory(folder: Path) -> dict[str, Any]:
    """Temporary bytes per device of loss and gradients, by compile-time analysis: the table of docs/training.md."""
    table, doubled = _module("flax_memory"), _module("flax_memory", "ring", "32768", "65536")
    small, large = (doubled["softmax"]["ring"][count] for count in ("32768", "65536"))
    ratio = large["temporary"] / small["temporary"]
    return {
        "ok": small["temporary"] <= 64 * 2**20 and ratio <= 2.1 and not small["gathers"],
        "width": table["width"], "devices": table["devices"], "chunk": table["chunk"],
        "MiB": {
            mode: {count: round(entry["temporary"] / 2**20, 1) for count, entry in entries.items()}
            for mode, entries in table["softmax"].items()
        },
        "ring, twice the rows": ratio,
        "ring gathers": small["gathers"],
        "largest buffer of the ring at 32768": small["elements"],
    }  # fmt: skip


def accumulation(folder: Path) -> dict[str, Any]:
    """1, 2 and 8 parts: curves of loss and scale over 20 steps, at an eps (1e-3) where Adam doesn't magnify rounding.
    Gradients themselves are compared in tests/triclip/flax/test_train_engine.py."""
    parts = (1, 2, 8)
    specs = [
        Spec(str(folder / str(k)), str(folder / f"{k}.npz"), 20, changes={"accumulate": k, "optimizer": {"eps": 1e-3}})
        for k in parts
    ]
    finish(launch(specs, cache=folder / "cache"))
    wanted = curve(folder / "1.npz")
    found = {str(k): apart(curve(folder / f"{k}.npz"), wanted) for k in parts[1:]}
    scale = {
        str(k): apart(curve(folder / f"{k}.npz", "logit_scale"), curve(folder / "1.npz", "logit_scale"))
        for k in parts[1:]
    }
    return {"ok": max(found.values()) <= 1e-6, "limit": 1e-6, "loss": found, "logit scale": scale}


def hot_path(folder: Path) -> dict[str, Any]:
    """Seconds of the first step with a cold and a warm compile cache; compilations of a run with changing rates; runs
    on the warm cache equal to the bit."""
    seconds, cache = {}, folder / "cache"
    for name in ("cold", "warm"):
        begun = time.monotonic()
        (process,) = launch([Spec(str(folder / name), str(folder / f"{name}.npz"))], cache=cache)
        while "step 1" not in process.stdout.readline():
            if process.poll() is not None:
                finish([process])
        seconds[name] = round(time.monotonic() - begun, 1)
        finish([process])
    differ = differing(folder / "cold.npz", folder / "warm.npz")
    compiled = int(np.load(folder / "warm.npz")["compiled"])
    return {
        "ok": not differ and compiled == 1 and seconds["warm"] < seconds["cold"],
        "seconds to the first step": seconds,
        "compilations": compiled,
    }


CHECKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "1": topology, "2": kill, "3": sigterm, "4": elastic, "5, 7": loss_modes, "6": memory, "8": accumulation,
    "10": hot_path,
}  # fmt: skip


PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


if __name__ == "__main__":
    sys.exit(run_checks(CHECKS, RESULTS, PACKAGES, sys.argv[1:]))
