"""The acceptance checks of the TensorFlow trainer in full, with figures:

    python -m conformance.training.tf_checks [NAME ...]

records them in tf_results.json: 1 and 4 topologies and other numbers of devices, 2 kills at random moments, 3 SIGTERM,
5 and 7 losses, 8 parts. The tests hold the fast part (tests/triclip/tf/test_train_*.py, tests/tf/test_loss.py); 9 is
there, 11 is `same_curve`. Takes several minutes on two cores, most of it TensorFlow's tracing for four devices.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .record import run_checks
from .tf_worker import finish, launch, read_until

EVERYTHING: dict[str, Any] = {"ema": 0.99, "loss.anchors": {}, "optimizer.clip_norm": 1.0}
STEPS = 8
SAME_CURVE, EXACT, PARTS = 1e-5, 1e-12, 1e-6  # the limits of checks 1 and 4, 5, 8
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


def differing(one: Path, other: Path) -> list[str]:
    """Of parameters, moments and averages, what is not equal to the bit."""
    with np.load(one) as found, np.load(other) as wanted:
        return [name for name in wanted.files if found[name].tobytes() != wanted[name].tobytes()]


def topologies(folder: Path) -> dict[str, Any]:
    """Greatest relative difference of loss, gradient norm and scale from one device's, over eight steps."""
    runs = [
        {"do": "curve", "name": name, "values": {**EVERYTHING, **values}, "until": STEPS}
        for name, values in CURVES.items()
    ]
    finish(launch(folder, runs, devices=4), timeout=1200)
    for until, devices in (
        (3, 4),
        (6, 1),
        (STEPS, 2),
    ):  # each in a process of its own: TensorFlow's groups stay as they are
        run = {"do": "curve", "name": f"elastic {until}", "values": EVERYTHING, "until": until, "save_at": [until]}
        finish(launch(folder, [{**run, "output": "elastic", "resume": until > 3}], devices=devices))
    two = folder / "processes"
    finish(launch(two, [{"do": "curve", "name": "two", "values": EVERYTHING, "until": STEPS}], processes=2))
    wanted = curve(folder, "one device")
    found = {name: apart(curve(folder, name), wanted) for name in CURVES}
    found["two processes"] = apart(curve(two, "two"), wanted)
    parts = [curve(folder, f"elastic {until}") for until in (3, 6, STEPS)]
    found["4, then 1, then 2 devices"] = apart(np.concatenate(parts), wanted)
    return {"ok": max(found.values()) <= SAME_CURVE, "limit": SAME_CURVE, "found": found}


def kills(folder: Path, count: int = 5) -> dict[str, Any]:
    """A run that saves at every step, killed at random moments and in two saves, against one left alone."""
    seed = random.SystemRandom().randrange(10**6)
    draw, died_at = random.Random(seed), []
    until = 100
    run = {"do": "curve", "values": EVERYTHING, "until": until, "save_at": list(range(1, until + 1))}
    alone = launch(folder / "alone", [{**run, "name": "run"}])
    finish(launch(folder, [{**run, "name": "run", "die_in_save": 3}]), wanted=-signal.SIGKILL)
    finish(launch(folder, [{**run, "name": "run", "resume": True, "die_in_save": 9}]), wanted=-signal.SIGKILL)
    for _ in range(count):
        (process,) = launch(folder, [{**run, "name": "run", "resume": True, "say": True}])
        first = int(read_until(process, "going on").split()[-1])
        if steps := draw.randrange(8):  # none: before the first step, or in it
            read_until(process, f"step {first + steps}\n")
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.communicate()
        died_at.append(max(int(path.name) for path in (folder / "run/checkpoints").iterdir() if path.name.isdecimal()))
    finish(launch(folder, [{**run, "name": "run", "resume": True}]))
    finish(alone)
    different = differing(folder / "run.npz", folder / "alone/run.npz")
    return {
        "ok": not different,
        "seed": seed,
        "newest checkpoint after each kill": died_at,
        "arrays that differ": different,
    }


def sigterm(folder: Path) -> dict[str, Any]:
    """SIGTERM to one of two processes: both save one step and exit 0; the resumed run equals the uninterrupted."""
    group = launch(folder, [{"do": "until_stopped", "name": "stopped", "values": EVERYTHING}], processes=2)
    try:
        read_until(group[1], "step 3")
        group[1].send_signal(signal.SIGTERM)
        outputs = finish(group)
    finally:
        for process in group:
            process.kill()
    # The runtime's own messages may come behind.
    ends = [next(line for line in out.splitlines()[::-1] if line.startswith("stopped at")) for out in outputs]
    step = int(ends[0].split()[-1])
    saved = sorted(path.name for path in (folder / "stopped/checkpoints").iterdir())
    run = {"do": "curve", "values": EVERYTHING, "until": step + 4}
    again = {**run, "name": "again", "output": "stopped", "resume": True}
    finish(launch(folder, [again, {**run, "name": "whole"}], processes=2))
    different = differing(folder / "again.npz", folder / "whole.npz")
    same_step = ends == [f"stopped at {step}"] * 2 and saved == [str(step)]
    return {"ok": same_step and not different, "said": ends, "saved": saved, "arrays that differ": different}


def losses(folder: Path) -> dict[str, Any]:
    """Losses in float64 against their definition, what must not pass, s = 100 with duplicates: see `tf_losses`."""
    finish(launch(folder, [{"do": "losses", "name": "losses", "all_chunks": True}], devices=4), timeout=1200)
    found = json.loads((folder / "losses.json").read_text("utf-8"))
    worst = max(max(case.values()) for case in found["modes"].values())
    noticed = min(max(case.values()) for case in found["controls"].values())
    return {
        "ok": worst <= EXACT and noticed > 0.01,
        "limit": EXACT,
        "greatest error in float64": worst,
        "least error of what must not pass": noticed,
        **found,
    }


def parts(folder: Path) -> dict[str, Any]:
    """Gradients of the first step in k parts over those of the whole batch."""
    runs = [{"do": "curve", "name": f"{k}", "values": {"accumulate": k}, "until": 1} for k in (1, 2, 8)]
    finish(launch(folder, runs))
    worst, ratio = {}, {}
    with np.load(folder / "1.npz") as whole:
        names = [name for name in whole.files if name.startswith("first.")]
        largest = max(float(np.abs(whole[name]).max()) for name in names)
        for k in (2, 8):
            with np.load(folder / f"{k}.npz") as split:
                ratio[k] = float(split["first.logit_scale"] / whole["first.logit_scale"])
                worst[k] = max(float(np.abs(split[name] - whole[name]).max()) for name in names) / largest
    ok = max(worst.values()) <= PARTS and all(abs(value - 1) < 5e-4 for value in ratio.values())
    return {"ok": ok, "limit": PARTS, "worst by parts": worst, "logit_scale gradient ratio": ratio}


RESULTS = Path(__file__).with_name("tf_results.json")
CHECKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "1, 4": topologies, "2": kills, "3": sigterm, "5, 7": losses, "8": parts,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_checks(CHECKS, RESULTS, ("tensorflow", "keras"), sys.argv[1:]))
