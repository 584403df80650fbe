"""Acceptance checks 1 to 4 on tiny runs: topologies, kill -9, SIGTERM, other numbers of devices."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.training.flax_runs import curve, differing, finish, launch
from conformance.training.flax_worker import Spec

# float32 sums in another order, over eight steps at a high rate.
SAME_CURVE = 1e-5

TOPOLOGIES: dict[str, dict[str, Any]] = {
    "one device": {"mesh": {"data": 1}},
    "8 x 1 x 1": {},
    "2 x 2 x 2": {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}},
    "ring": {"loss": {"mode": "ring", "chunk": 3}},
    "chunked, 2 x 2 x 2, in 4 parts": {
        "mesh": {"data": 2, "fsdp": 2, "tensor": 2}, "loss": {"mode": "chunked", "chunk": 3}, "accumulate": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs: the runs of a test are the same program more than once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Every topology's result, and that of one run which goes on with other devices."""
    folder = tmp_path_factory.mktemp("runs")
    specs = [
        Spec(str(folder / name), str(folder / f"{name}.npz"), changes=changes) for name, changes in TOPOLOGIES.items()
    ]
    for number, (devices, steps) in enumerate([(8, 3), (1, 6), (4, 8)]):
        changes = {"mesh": {"data": devices}}
        specs.append(Spec(str(folder / "elastic"), str(folder / f"elastic{number}.npz"), steps, 3, changes=changes))
    finish(launch(specs, devices=8, cache=cache))
    return folder


@pytest.mark.parametrize("name", list(TOPOLOGIES)[1:])
def test_same_curve_on_every_topology(runs: Path, name: str) -> None:
    for figure in ("loss", "grad_norm", "logit_scale"):
        wanted = curve(runs / "one device.npz", figure)
        assert len(wanted) == 8 and len(set(wanted)) == 8
        np.testing.assert_allclose(curve(runs / f"{name}.npz", figure), wanted, rtol=SAME_CURVE)


def test_one_compilation_per_run(runs: Path) -> None:
    for name in TOPOLOGIES:
        assert np.load(runs / f"{name}.npz")["compiled"] == 1


def test_state_is_spread(runs: Path) -> None:
    """Over fsdp and tensor; `data` keeps copies."""
    kept = {name: int(np.load(runs / f"{name}.npz")["kept"]) for name in TOPOLOGIES}
    assert kept["one device"] == kept["8 x 1 x 1"]
    assert kept["2 x 2 x 2"] < 0.4 * kept["one device"]  # a quarter, and the vectors


def test_goes_on_with_other_numbers_of_devices(runs: Path) -> None:
    parts = [runs / f"elastic{number}.npz" for number in range(3)]
    assert [list(curve(part, "step")) for part in parts] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    found = np.concatenate([curve(part) for part in parts])
    np.testing.assert_allclose(found, curve(runs / "one device.npz"), rtol=SAME_CURVE)


def test_kill_in_a_save(tmp_path: Path, cache: Path) -> None:
    """Killed as the checkpoint of step 6 gets its name; goes on from step 3's, to the very bits of a run left alone."""
    output = tmp_path / "run"
    finish(launch([Spec(str(output), every=3, die_in_save=6)], cache=cache), wanted=-signal.SIGKILL)
    names = {path.name for path in (output / "checkpoints").iterdir()}
    assert "3" in names and "6" not in names
    assert any(name.startswith("6.") for name in names)  # it was killed with that save unfinished
    again, alone = tmp_path / "again.npz", tmp_path / "alone.npz"
    finish(launch([Spec(str(output), str(again), every=3), Spec(str(tmp_path / "alone"), str(alone))], cache=cache))
    assert list(curve(again, "step")) == [4, 5, 6, 7, 8]
    assert differing(again, alone) == []
    assert {path.name for path in (output / "checkpoints").iterdir()} == {"3", "6"}


def test_two_processes_and_sigterm_to_one(tmp_path: Path, cache: Path) -> None:
    """Both save the same step and end well. Another number of processes goes on to the bits of a run left alone."""
    output, steps = tmp_path / "run", 40
    part, again, alone = (tmp_path / f"{name}.npz" for name in ("part", "again", "alone"))
    group = launch([Spec(str(output), str(part), steps, pause=0.2)], processes=2, cache=cache)
    assert group[1].stdout is not None
    while "step 2" not in group[1].stdout.readline():
        assert group[1].poll() is None
    group[1].send_signal(signal.SIGTERM)
    ends = [out.splitlines()[-1] for out in finish(group)]
    assert ends[0] == ends[1] and ends[0].startswith("stopped at")
    step = int(ends[0].split()[-1])
    assert [path.name for path in (output / "checkpoints").iterdir()] == [str(step)]
    # Two devices add up the same two numbers as two processes with one each.
    specs = [Spec(str(output), str(again), step + 3), Spec(str(tmp_path / "alone"), str(alone), step + 3)]
    finish(launch(specs, devices=2, cache=cache))
    assert list(curve(again, "step")) == [step + 1, step + 2, step + 3]
    assert np.concatenate([curve(part), curve(again)]).tolist() == curve(alone).tolist()
    assert differing(again, alone) == []
