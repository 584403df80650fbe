"""The acceptance checks of the TensorFlow trainer in full, with figures:

    python -m conformance.training.tf_checks

prints JSON: 1 and 4 topologies and other numbers of devices, 2 kills at random moments, 5 and 7 losses, 8 parts. The
tests hold the fast part (tests/tf/test_train_*.py, test_loss.py); 3 and 9 are there, 11 is `same_curve`. Takes several
minutes on two cores, most of it TensorFlow's tracing for four devices.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .tf_worker import finish, launch, read_until

EVERYTHING: dict[str, Any] = {"ema": 0.99, "loss.anchors": {}, "optimizer.clip_norm": 1.0}
STEPS = 8
CURVES: dict[str, dict[str, Any]] = {
    "one device": {"mesh.data": 1},
    "four devices": {},
    "chunked": {"loss.mode": "chunked", "loss.chunk": 3},
    "ring": {"loss.mode": "ring", "loss.chunk": 3},
    "four devices in 2 parts, remat": {"accumulate": 2, "model.gradient_checkpointing": "full"},
}


def curve(folder: Path, name: str) -> np.ndarray:
    figures = json.loads((folder / f"{name}.json").read_text("utf-8"))["figures"]
    return np.array([[figure[key] for key in ("loss", "grad_norm", "logit_scale")] for figure in figures])


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found / wanted - 1).max())


def topologies(folder: Path) -> dict[str, float]:
    """1 and 4: greatest relative difference of loss, gradient norm and scale from one device's."""
    runs = [
        {"do": "curve", "name": name, "values": {**EVERYTHING, **values}, "until": STEPS}
        for name, values in CURVES.items()
    ]
    for until, devices in ((3, 4), (6, 1), (STEPS, 2)):
        values = {**EVERYTHING, "mesh.data": devices}
        own = {"name": f"elastic {until}", "values": values, "until": until, "save_at": [until]}
        runs.append({"do": "curve", "output": "elastic", "resume": until > 3, **own})
    finish(launch(folder, runs, devices=4), timeout=1200)
    two = folder / "processes"
    finish(launch(two, [{"do": "curve", "name": "two", "values": EVERYTHING, "until": STEPS}], processes=2))
    wanted = curve(folder, "one device")
    found = {name: apart(curve(folder, name), wanted) for name in CURVES}
    found["two processes"] = apart(curve(two, "two"), wanted)
    parts = [curve(folder, f"elastic {until}") for until in (3, 6, STEPS)]
    return {**found, "4, then 1, then 2 devices": apart(np.concatenate(parts), wanted)}


def kills(folder: Path, count: int = 5) -> dict[str, Any]:
    """2: a run that saves at every step, killed at random moments and in two saves, against one left alone."""
    seed = random.SystemRandom().randrange(10**6)
    draw, died_at = random.Random(seed), []
    until = 40
    run = {"do": "curve", "values": EVERYTHING, "until": until, "save_at": list(range(1, until + 1))}
    alone = launch(folder / "alone", [{**run, "name": "run"}])
    finish(launch(folder, [{**run, "name": "run", "die_in_save": 3}]), wanted=-signal.SIGKILL)
    finish(launch(folder, [{**run, "name": "run", "resume": True, "die_in_save": 9}]), wanted=-signal.SIGKILL)
    for _ in range(count):
        (process,) = launch(folder, [{**run, "name": "run", "resume": True, "say": True}])
        read_until(process, "going on")
        time.sleep(draw.uniform(0, 4))
        process.kill()
        process.communicate()
        died_at.append(max(int(path.name) for path in (folder / "run/checkpoints").iterdir() if path.name.isdecimal()))
    finish(launch(folder, [{**run, "name": "run", "resume": True}]))
    finish(alone)
    with np.load(folder / "run.npz") as found, np.load(folder / "alone/run.npz") as wanted:
        differing = [name for name in wanted.files if found[name].tobytes() != wanted[name].tobytes()]
    return {"seed": seed, "newest checkpoint after each kill": died_at, "arrays that differ": differing}


def losses(folder: Path) -> dict[str, Any]:
    """5 and 7: see `tf_losses`."""
    finish(launch(folder, [{"do": "losses", "name": "losses", "all_chunks": True}], devices=4), timeout=1200)
    found = json.loads((folder / "losses.json").read_text("utf-8"))
    return {**found, "greatest error in float64": max(max(case.values()) for case in found["modes"].values())}


def parts(folder: Path) -> dict[str, float]:
    """8: gradients of the first step in k parts over those of the whole batch."""
    runs = [{"do": "curve", "name": f"{k}", "values": {"accumulate": k}, "until": 1} for k in (1, 2, 8)]
    finish(launch(folder, runs))
    found = {}
    with np.load(folder / "1.npz") as whole:
        for k in (2, 8):
            with np.load(folder / f"{k}.npz") as split:
                found[f"logit_scale gradient ratio, {k} parts"] = float(
                    split["first.logit_scale"] / whole["first.logit_scale"]
                )
                names = [name for name in whole.files if name.startswith("first.")]
                largest = max(float(np.abs(whole[name]).max()) for name in names)
                worst = max(float(np.abs(split[name] - whole[name]).max()) for name in names)
                found[f"gradients, {k} parts"] = worst / largest
    return found


CHECKS: dict[str, Callable[[Path], Any]] = {
    "1, 4 topologies": topologies,
    "2 kills": kills,
    "5, 7 losses": losses,
    "8 parts": parts,
}


def main() -> None:
    results: dict[str, Any] = {}
    for name, check in CHECKS.items():
        if sys.argv[1:] and not any(name.startswith(wanted) for wanted in sys.argv[1:]):
            continue
        began = time.time()
        with tempfile.TemporaryDirectory() as folder:
            results[name] = {"found": check(Path(folder)), "seconds": round(time.time() - began)}
        print(f"{name}: {results[name]['seconds']} s", file=sys.stderr)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
