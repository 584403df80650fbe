"""The engine in several processes: four with DDP, FSDP2 and both, two that are stopped, one that is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_torch import CLIPModel
from conformance.training.torch_worker import advance, launch, tiny_job
from triclip.train.engines.torch_.training import Engine

# DCP says so of every run of one process, from a thread.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

CURVE = 1e-5  # float32, gradients added up in another order
BRAIN = 2e-3  # bfloat16 matrices, the same ones: 2**-9, one rounding of bfloat16
EXACT = 1e-12
BASE: dict[str, Any] = {"ema": 0.99, "loss.anchors": {}, "optimizer.clip_norm": 1.0}
FSDP = {**BASE, "mesh.data": 1, "mesh.fsdp": 4, "loss.mode": "chunked", "loss.chunk": 3}
HSDP = {**BASE, "mesh.data": 2, "mesh.fsdp": 2, "loss.mode": "ring", "loss.chunk": 3, "accumulate": 2}
HALF = {"precision": "bf16", "model.lock": ["vision"], "loss.kind": "sigmoid", "ema": 0.9, "accumulate": 2}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have: to the bit
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, list[dict[str, float]]]:
    """Six steps in this process."""
    engine = Engine(tiny_job(tmp_path_factory.mktemp("alone"), **BASE))
    return engine, advance(engine, 6)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    launch(4, folder, [
        {"do": "losses", "name": "losses"},
        {"do": "curve", "name": "ddp", "values": BASE, "until": 6, "save_at": [3]},
        {"do": "curve", "name": "resumed", "values": BASE, "until": 6, "resume": True, "output": str(folder / "ddp")},
        {"do": "curve", "name": "fsdp", "values": FSDP, "until": 6, "save_at": [4], "export": "exported"},
        {"do": "curve", "name": "hsdp", "values": HSDP, "until": 6},
        {"do": "curve", "name": "half", "values": {**HALF, "mesh.fsdp": 4}, "until": 3},
    ])  # fmt: skip
    return folder


def curve_of(folder: Path, name: str) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    content = json.loads((folder / f"{name}.json").read_text("utf-8"))
    with np.load(folder / f"{name}.npz") as arrays:
        return content["figures"], dict(arrays)


def test_losses_over_four_processes(four: Path) -> None:
    for rank in range(4):
        found = json.loads((four / f"losses-{rank}.json").read_text("utf-8"))
        assert len(found["right"]) == 6 and max(found["right"].values()) <= EXACT, found
        assert len(found["wrong"]) == 2 and min(found["wrong"].values()) > 0.01, found


@pytest.mark.parametrize("name", ["ddp", "fsdp", "hsdp"])
def test_the_curve_is_that_of_one_process(four: Path, alone: tuple[Engine, list], name: str) -> None:
    engine, wanted = alone
    figures, arrays = curve_of(four, name)
    for found, right in zip(figures, wanted, strict=True):
        for key, value in right.items():
            assert found[key] == pytest.approx(value, rel=CURVE), (name, key)
    for average, kind in ((False, "parameters"), (True, "average")):
        for key, value in engine.weights(average).items():
            np.testing.assert_allclose(arrays[f"{kind}/{key}"], value, rtol=0, atol=CURVE, err_msg=key)


def test_bfloat16_shards_compute_what_one_process_does(four: Path, tmp_path: Path) -> None:
    """The first step's figures differ by the rounding of products alone.

    After it Adam has moved each weight by the sign of its gradient, so a gradient near zero that a processor rounds
    otherwise moves its weight the other way: later steps may differ by as much as bfloat16 itself changes the curve on
    this processor.
    """
    wanted = advance(Engine(tiny_job(tmp_path / "bf16", **HALF)), 3)
    exact = advance(Engine(tiny_job(tmp_path / "fp32", **{**HALF, "precision": "fp32"})), 3)
    figures, arrays = curve_of(four, "half")
    for key, value in wanted[0].items():
        assert figures[0][key] == pytest.approx(value, rel=BRAIN), key
    for key in wanted[0]:
        moved = max(abs(right[key] / plain[key] - 1) for right, plain in zip(wanted, exact, strict=True))
        assert moved < 0.1, (key, moved)
        for found, right in zip(figures[1:], wanted[1:], strict=True):
            assert found[key] == pytest.approx(right[key], rel=max(BRAIN, moved)), key
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}


def test_features_of_uneven_rows_are_gathered_in_order(four: Path, alone: tuple[Engine, list]) -> None:
    from conformance.training.torch_worker import batch_of

    _, arrays = curve_of(four, "fsdp")
    rows = batch_of(0)["pixel_values"]
    wanted = alone[0].image_features(np.concatenate([rows[sum(range(i + 1)) :][: i + 1] for i in range(4)]))
    np.testing.assert_allclose(arrays["features"], wanted, rtol=0, atol=1e-4)


def test_ddp_goes_on_to_the_bit(four: Path) -> None:
    whole, resumed = curve_of(four, "ddp"), curve_of(four, "resumed")
    assert whole[0][3:] == resumed[0]
    for key, value in whole[1].items():
        np.testing.assert_array_equal(resumed[1][key], value, err_msg=key)


def test_the_export_holds_the_average(four: Path) -> None:
    _, arrays = curve_of(four, "fsdp")
    model = CLIPModel.from_pretrained(four / "exported")
    state = model.state_dict()
    assert {f"average/{name}" for name in state} == {n for n in arrays if n.startswith("average/")} - {
        "average/anchors"
    }
    for name, value in state.items():
        np.testing.assert_array_equal(value.numpy(), arrays[f"average/{name}"], err_msg=name)
    assert model.config.architectures == ["CLIPModel"]


@pytest.fixture(scope="module")
def two(four: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    launch(2, folder, [
        {"do": "terminated", "name": "stopped", "values": BASE, "at": 3},
        {"do": "curve", "name": "whole", "values": BASE, "until": 6},
        {"do": "curve", "name": "resumed", "values": BASE, "until": 6, "resume": True,
         "output": str(folder / "stopped")},
        {"do": "curve", "name": "fewer", "values": BASE, "until": 6, "resume": True, "output": str(four / "fsdp")},
        {"do": "full_disk", "name": "full", "values": BASE},
    ])  # fmt: skip
    return folder


def test_sigterm_to_one_stops_all_at_one_step(two: Path) -> None:
    steps = [json.loads((two / f"stopped-{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert steps == [4, 4]
    whole, resumed = curve_of(two, "whole"), curve_of(two, "resumed")
    assert whole[0][4:] == resumed[0]
    for key, value in whole[1].items():
        np.testing.assert_array_equal(resumed[1][key], value, err_msg=key)


def test_a_checkpoint_of_four_shards_goes_on_in_two_replicas_and_alone(
    two: Path, four: Path, alone: tuple[Engine, list]
) -> None:
    wanted = alone[1]
    figures, _ = curve_of(two, "fewer")
    engine = Engine(tiny_job(four / "fsdp", **BASE))
    assert engine.restore() == {"position": 4}
    for found in (figures, advance(engine, 6)):
        assert len(found) == 2
        for step, right in zip(found, wanted[4:], strict=True):
            assert step["loss"] == pytest.approx(right["loss"], rel=CURVE)


def test_a_full_disk_in_mid_save_is_an_error_in_every_process(two: Path) -> None:
    for rank in range(2):
        said = json.loads((two / f"full-{rank}.json").read_text("utf-8"))
        assert "could not be written" in said and str(two / "full" / "checkpoints" / "step-00000003") in said
    assert [path.name for path in (two / "full" / "checkpoints").iterdir()] == ["step-00000002"]


def test_killed_between_writing_and_renaming(tmp_path: Path, alone: tuple[Engine, list]) -> None:
    """SIGKILL: the checkpoint before is found, and the run ends as if nothing had happened, to the bit."""
    output = tmp_path / "killed"
    action = {"do": "curve", "name": "killed", "values": BASE, "until": 6, "save_at": [2, 4], "die_committing": 4}
    assert launch(1, tmp_path, [action], ok=False) == [-9]
    left = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert len(left) == 2 and left[0].endswith(".partial") and left[1] == "step-00000002"
    engine = Engine(tiny_job(output, **BASE))
    assert engine.restore() == {"position": 2}
    assert advance(engine, 6, save_at=(4,)) == alone[1][2:]
    for average in (False, True):
        for key, value in alone[0].weights(average).items():
            np.testing.assert_array_equal(engine.weights(average)[key], value, err_msg=key)
    assert [path.name for path in sorted((output / "checkpoints").iterdir())] == ["step-00000002", "step-00000004"]
