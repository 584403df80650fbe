"""Acceptance checks 1 to 4 on tiny runs: four devices and one, two processes, kill -9, SIGTERM, a full disk.

Each test starts all its processes itself: two workers of pytest would otherwise start them twice.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np

from conformance.training.tf_worker import finish, launch, read_until

# float32 sums in another order, over six steps at a high rate.
SAME_CURVE = 1e-5
EVERYTHING: dict[str, Any] = {"ema": 0.99, "loss.anchors": {}, "optimizer.clip_norm": 1.0}
ONE = {**EVERYTHING, "mesh.data": 1}
RING = {**EVERYTHING, "loss.mode": "ring", "loss.chunk": 3, "accumulate": 2}


def figures(folder: Path, name: str, first: int = 0) -> dict[str, np.ndarray]:
    content = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert content["traces"] == 1 and content["first"] == first
    steps = content["figures"]
    return {key: np.array([figure[key] for figure in steps]) for key in ("loss", "grad_norm", "logit_scale")}


def compare(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], first: int = 0) -> None:
    for name, values in wanted.items():
        assert len(set(values)) == len(values)
        np.testing.assert_allclose(found[name], values[first:], rtol=SAME_CURVE)


def differing(folder: Path, a: str, b: str) -> list[str]:
    """Of everything a checkpoint holds, what is not equal to the bit."""
    with np.load(folder / f"{a}.npz") as one, np.load(folder / f"{b}.npz") as other:
        names = [name for name in one.files if name != "features"]
        assert set(one.files) == set(other.files) and len(names) > 60
        return [name for name in names if one[name].tobytes() != other[name].tobytes()]


def test_four_devices_and_one(tmp_path: Path) -> None:
    """The same curve, also as a ring in two parts; checkpoints of four devices go on with one, and of one with four."""
    finish(launch(tmp_path, [
        {"do": "curve", "name": "one", "values": ONE, "until": 6},
        {"do": "curve", "name": "four", "values": EVERYTHING, "until": 4, "save_at": [4]},
        {"do": "curve", "name": "then one", "values": ONE, "until": 5, "output": "four", "resume": True,
         "save_at": [5]},
        {"do": "curve", "name": "ring", "values": RING, "until": 6, "output": "four", "resume": True},
    ], devices=4))  # fmt: skip
    wanted = figures(tmp_path, "one")
    compare(figures(tmp_path, "four"), {name: values[:4] for name, values in wanted.items()})
    compare(figures(tmp_path, "then one", 4), {name: values[:5] for name, values in wanted.items()}, 4)
    compare(figures(tmp_path, "ring", 5), wanted, 5)
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "ring.npz") as ring:
        for name in one.files:
            if name.startswith(("parameters.", "averages.")):
                # A first gradient that is all rounding gives Adam a full step in a direction of its own.
                np.testing.assert_allclose(ring[name], one[name], atol=2e-5, err_msg=name)


def test_two_processes(tmp_path: Path) -> None:
    """One device's curve and features; a full disk is an error in both; SIGTERM to one stops both at one step, and
    one process goes on from there."""
    alone = launch(tmp_path / "alone", [{"do": "curve", "name": "run", "values": EVERYTHING, "until": 4}])
    group = launch(tmp_path, [
        {"do": "curve", "name": "two", "values": EVERYTHING, "until": 4},
        {"do": "full_disk", "name": "full"},
        {"do": "until_stopped", "name": "stopped", "values": EVERYTHING},
    ], processes=2)  # fmt: skip
    try:
        before = read_until(group[1], "step 3")
        group[1].send_signal(signal.SIGTERM)
    except BaseException:
        for process in group:
            process.kill()
        raise
    outputs = finish(group)
    outputs[1] = before + outputs[1]
    finish(alone)

    wanted = figures(tmp_path / "alone", "run")
    compare(figures(tmp_path, "two"), wanted)
    with np.load(tmp_path / "two.npz") as two, np.load(tmp_path / "alone/run.npz") as one:
        assert two["features"].shape == (3 + 4, 16)
        np.testing.assert_allclose(two["features"][:3], one["features"], atol=1e-5)
        np.testing.assert_allclose(two["features"][3:6], one["features"], atol=1e-5)

    said = [next(line for line in lines if line.startswith("said")) for lines in map(str.splitlines, outputs)]
    assert all("full/checkpoints" in line and "{'position': 1}" in line for line in said), said
    assert [path.name for path in (tmp_path / "full/checkpoints").iterdir()] == ["1"]

    ends = [next(line for line in out.splitlines()[::-1] if line.startswith("stopped at")) for out in outputs]
    assert ends[0] == ends[1]
    step = int(ends[0].split()[-1])
    assert [path.name for path in (tmp_path / "stopped/checkpoints").iterdir()] == [str(step)]
    finish(launch(tmp_path, [
        {"do": "curve", "name": "rest", "values": EVERYTHING, "until": step + 2, "output": "stopped", "resume": True},
    ]))  # fmt: skip
    assert len(figures(tmp_path, "rest", step)["loss"]) == 2


def test_kill_in_a_save(tmp_path: Path) -> None:
    """Killed as the checkpoint of step 4 gets its name; goes on from step 2's, to the bits of a run left alone."""
    run = {"do": "curve", "values": EVERYTHING, "until": 6, "save_at": [2, 4]}
    finish(launch(tmp_path, [{**run, "name": "run", "die_in_save": 4}]), wanted=-signal.SIGKILL)
    names = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert "2" in names and "4" not in names
    assert any(name.startswith(".4.") for name in names)  # it was killed with that save unfinished
    finish(launch(tmp_path, [
        {**run, "name": "again", "output": "run", "resume": True},
        {**run, "name": "alone"},
    ]))  # fmt: skip
    assert differing(tmp_path, "again", "alone") == []
    again, alone = figures(tmp_path, "again", 2), figures(tmp_path, "alone")
    assert again["loss"].tolist() == alone["loss"][2:].tolist()
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["2", "4"]
