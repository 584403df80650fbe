"""The engine in one process: what a step does, against NumPy; checkpoints; evaluation; refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_core.errors import CheckpointError, ConfigError
from clip_torch import CLIPModel
from conformance import losses_reference
from conformance.training.torch_worker import BATCH, TINY, advance, batch_of, tiny_config, tiny_job
from triclip.train.config import LockSection, MeshSection
from triclip.train.engines.torch_.parallel import mesh_shape
from triclip.train.engines.torch_.training import Engine, shortened, start
from triclip.train.start import extra_parameters

# DCP says so of every run of one process, from a thread.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

STEP = 2e-6  # float32 parameters after three steps at rate 1e-3
GRADIENT = 2e-6  # of the largest, between one part and several: float32 sums in another order, some 30 roundings


@pytest.fixture
def engines() -> Iterator[Any]:
    """Makes engines, and gives SIGTERM back."""
    made: list[Engine] = []

    def make(output: Any, **values: Any) -> Engine:
        made.append(Engine(tiny_job(output, **values)))
        return made[-1]

    yield make
    for engine in reversed(made):
        engine.close()


# -- a step -----------------------------------------------------------------------------------------------------------


def reference_gradients(engine: Engine, weights: dict[str, np.ndarray], batch: Any) -> dict[str, np.ndarray]:
    """Gradients of the whole loss at `weights`: the public model in float64, the losses by their definition."""
    model = CLIPModel(engine.job.model_config).double()
    model.load_state_dict({name: torch.tensor(weights[name]) for name in model.state_dict()})
    model.train()
    images = model.get_image_features(torch.tensor(batch["pixel_values"]).double())
    texts = model.get_text_features(torch.tensor(batch["input_ids"]))
    images, texts = (rows / rows.norm(dim=1, keepdim=True) for rows in (images, texts))
    x, y = images.detach().numpy(), texts.detach().numpy()
    section = engine.config.loss
    if section.kind == "softmax":
        pairs = losses_reference.softmax(x, y, weights["logit_scale"], section.label_smoothing)
    else:
        pairs = losses_reference.sigmoid(x, y, weights["logit_scale"], weights["logit_bias"])
    dx, dy, extra = pairs.dx, pairs.dy, {"logit_bias": pairs.db} if section.kind == "sigmoid" else {}
    if section.anchors is not None:
        weight = section.anchors.image_weight, section.anchors.text_weight
        add = losses_reference.anchored(
            x, y, weights["anchors"], batch["sample"], section.anchors.scale, *weight, section.label_smoothing
        )
        dx, dy, extra = dx + add.dx, dy + add.dy, {**extra, "anchors": add.danchors}
    torch.autograd.backward([images, texts], [torch.tensor(dx), torch.tensor(dy)])
    grads = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return {**grads, "logit_scale": pairs.dt, **extra}


def adamw(job: Any, weights: dict, grads: dict, moments: dict, step: int, lr: float) -> dict[str, np.ndarray]:
    """The contract's formulas."""
    section = job.config.optimizer
    norm = np.sqrt(sum(np.square(g).sum() for name, g in grads.items() if job.rules[name].trainable))
    factor = 1.0 if section.clip_norm is None else section.clip_norm / max(norm, section.clip_norm)
    new = dict(weights)
    for name, rule in job.rules.items():
        if not rule.trainable:
            continue
        m, v = moments.get(name, (0.0, 0.0))
        g, (b1, b2), rate = grads[name] * factor, section.betas, lr * rule.lr_scale
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        moments[name] = m, v
        update = m / (1 - b1 ** (step + 1)) / (np.sqrt(v / (1 - b2 ** (step + 1))) + section.eps)
        decay = section.weight_decay if rule.decay else 0.0
        new[name] = weights[name] * (1 - rate * decay) - rate * update
    new["logit_scale"] = np.clip(new["logit_scale"], 0, section.max_logit_scale)
    return new


@pytest.mark.parametrize("values", [
    {"ema": 0.9, "optimizer.clip_norm": 0.5, "loss.anchors": {}, "loss.label_smoothing": 0.1},
    {"loss.kind": "sigmoid", "loss.mode": "chunked", "loss.chunk": 5, "optimizer.layer_decay": 0.7,
     "optimizer.no_decay": ["projection"], "accumulate": 3},
    {"model.lock": ["vision"], "optimizer.max_logit_scale": 2.6585, "loss.mode": "ring", "ema": 0.5},
    {"model.lock": {"vision": LockSection(2), "text": LockSection()}, "loss.kind": "sigmoid", "loss.logit_bias": -2.0},
])  # fmt: skip
def test_steps_are_the_contract(tmp_path: Path, engines: Any, values: dict[str, Any]) -> None:
    # A small eps would make a step of the mere rounding of gradients that are 0, a key bias's for one.
    engine = engines(tmp_path, **values, **{"optimizer.eps": 1e-2})
    job = engine.job
    weights = {name: np.float64(value) for name, value in {**job.weights, **extra_parameters(job)}.items()}
    average, moments = dict(weights), {}
    for step, lr in enumerate((1e-3, 5e-4, 2e-3)):
        batch = batch_of(step)
        grads = reference_gradients(engine, weights, batch)
        figures = engine.train_step(batch, lr)
        norm = np.sqrt(sum(np.square(g).sum() for name, g in grads.items() if job.rules[name].trainable))
        assert float(figures["grad_norm"]) == pytest.approx(norm, rel=1e-4)
        weights = adamw(job, weights, grads, moments, step, lr)
        assert float(figures["logit_scale"]) == pytest.approx(np.exp(weights["logit_scale"]), rel=1e-6)
        if job.config.ema is not None:
            decay = min(job.config.ema, (1 + step) / (10 + step))
            average = {name: decay * average[name] + (1 - decay) * weights[name] for name in weights}
    found = engine.weights(False)
    assert set(found) == set(weights) == set(job.rules)
    for name, value in weights.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=STEP, err_msg=name)
        if not job.rules[name].trainable:
            np.testing.assert_array_equal(found[name], job.weights[name], err_msg=name)  # to the bit
    if job.config.ema is not None:
        for name, value in engine.weights(True).items():
            np.testing.assert_allclose(value, average[name], rtol=0, atol=STEP, err_msg=name)


def gradients_of(engine: Engine, batch: Any) -> dict[str, np.ndarray]:
    engine._gradients(engine._inputs(batch))
    return {name: p.grad.numpy().copy() for name, p in engine.trained.items()}


def test_parts_give_the_gradients_of_the_whole_batch(tmp_path: Path, engines: Any) -> None:
    values = {"loss.anchors": {}, "loss.kind": "sigmoid"}
    whole = gradients_of(engines(tmp_path, **values), batch_of(0))
    for parts in (2, 8, 16, 99):
        found = gradients_of(engines(tmp_path, **values, accumulate=parts), batch_of(0))
        assert found["logit_scale"] / whole["logit_scale"] == pytest.approx(1, abs=1e-6)
        for name, value in whole.items():
            assert np.abs(found[name] - value).max() <= GRADIENT * max(1, np.abs(value).max()), (name, parts)


def test_gradients_added_up_naively_would_be_found_out(tmp_path: Path, engines: Any) -> None:
    """Cached embeddings with one part's in their place, backward k times: the scale's gradient is k times too large."""
    engine = engines(tmp_path)
    whole = gradients_of(engine, batch_of(0))
    engine.optimizer.zero_grad()
    inputs = engine._inputs(batch_of(0))
    del inputs["sample"]
    with torch.no_grad():
        images, texts, *_ = engine.network(**inputs)
    for first in range(0, BATCH, 4):
        rows = slice(first, first + 4)
        part = engine.network(**{name: value[rows] for name, value in inputs.items()})
        both = [
            torch.cat([kept[:first], own, kept[first + 4 :]]) for kept, own in ((images, part[0]), (texts, part[1]))
        ]
        engine._loss([*both, *part[2:]], None).backward()
    assert engine.trained["logit_scale"].grad / whole["logit_scale"] == pytest.approx(4, rel=1e-4)


def test_dropout_is_drawn_once_per_part(tmp_path: Path, engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads(json.dumps(TINY))
    for tower in ("text_config", "vision_config"):
        config[tower]["attention_dropout"] = 0.5
    engine = engines(tmp_path, accumulate=2, **{"model.config": config})
    seen, forward = [], engine.network.forward
    monkeypatch.setattr(engine.network, "forward", lambda **inputs: seen.append(forward(**inputs)) or seen[-1])
    engine.train_step(batch_of(0), 1e-3)
    first, second, first_again, second_again = (outputs[0].detach() for outputs in seen)
    assert torch.equal(first, first_again) and torch.equal(second, second_again)
    again = engine.network(**{k: v[:8] for k, v in engine._inputs(batch_of(0)).items() if k != "sample"})[0]
    assert not torch.allclose(first, again)


def test_recomputed_layers_give_the_same_gradients(tmp_path: Path, engines: Any) -> None:
    plain = gradients_of(engines(tmp_path), batch_of(0, patches=6))
    for kind in ("full", "dots"):
        engine = engines(tmp_path, **{"model.gradient_checkpointing": kind})
        assert engine.network.model.is_gradient_checkpointing
        found = gradients_of(engine, batch_of(0, patches=6))
        for name, value in plain.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_patches_left_out_change_nothing(tmp_path: Path, engines: Any) -> None:
    engine, batch = engines(tmp_path), batch_of(0, patches=6)
    hidden = np.ones((BATCH, 16), bool)
    np.put_along_axis(hidden, batch["patches"], False, axis=1)
    noise = np.kron(hidden.reshape(BATCH, 1, 4, 4), np.ones((1, 3, 4, 4))).astype(np.float32)
    other = {**batch, "pixel_values": batch["pixel_values"] + 5 * noise}
    losses = [float(engine._gradients(engine._inputs(b))) for b in (batch, other, batch_of(0))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and abs(losses[0] - losses[2]) > 1e-3


def test_bfloat16_stays_near_and_its_parameters_float32(tmp_path: Path, engines: Any) -> None:
    right = advance(engines(tmp_path / "a", precision="fp32"), 4)
    engine = engines(tmp_path / "b", precision="bf16")
    found = advance(engine, 4)
    assert found != right
    for one, other in zip(found, right, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
    assert {p.dtype for p in engine.parameters.values()} == {torch.float32}


def test_columns_behind_every_end_are_left_out() -> None:
    ids = np.full((3, 20), 98, np.int32)
    ids[0, :4], ids[1, :9] = 5, 7
    assert shortened(ids, 98).shape == (3, 16)  # the end at 9: ten columns, rounded up to eights
    assert shortened(ids, 2).shape == (3, 16)  # legacy: the highest id
    assert shortened(ids[:, :10], 98).shape == (3, 10) and shortened(ids[:0], 98).shape[0] == 0


# -- checkpoints ------------------------------------------------------------------------------------------------------


VALUES: dict[str, Any] = {"ema": 0.99, "loss.anchors": {}, "loss.kind": "sigmoid"}


def dropout_config() -> dict[str, Any]:
    config = json.loads(json.dumps(TINY))
    config["vision_config"]["attention_dropout"] = 0.3
    return config


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path: Path, engines: Any) -> None:
    values = {**VALUES, "model.config": dropout_config()}
    whole = engines(tmp_path, **values)
    advance(whole, 3, save_at=(2, 3))
    whole.image_features(batch_of(0)["pixel_values"])  # an evaluation leaves nothing behind
    figures = advance(whole, 6)
    torch.randn(3)  # someone draws in between
    resumed = engines(tmp_path, **values)
    assert resumed.restore() == {"position": 3} and resumed.step == 3
    assert advance(resumed, 6) == figures
    for average in (False, True):
        for name, value in whole.weights(average).items():
            np.testing.assert_array_equal(resumed.weights(average)[name], value, err_msg=name)


def test_nothing_to_restore(tmp_path: Path, engines: Any) -> None:
    assert engines(tmp_path).restore() is None


def test_saving_copies_before_it_returns(tmp_path: Path, engines: Any) -> None:
    engine = engines(tmp_path)
    advance(engine, 1)
    wanted = engine.weights(False)
    engine.save({"position": [1, {"a": "b"}]})
    engine.train_step(batch_of(1), 1.0)  # meanwhile
    engine.wait()
    other = engines(tmp_path)
    assert other.restore() == {"position": [1, {"a": "b"}]}
    for name, value in wanted.items():
        np.testing.assert_array_equal(other.weights(False)[name], value, err_msg=name)


def test_the_newest_stay_and_leftovers_go(tmp_path: Path, engines: Any) -> None:
    folder = tmp_path / "checkpoints"
    (folder / ".step-00000002.0badcafe.partial").mkdir(parents=True)
    engine = engines(tmp_path, **{"checkpoint.keep": 2})
    advance(engine, 5, save_at=(1, 3, 4, 5))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000005"]
    files = sorted(path.suffix for path in (folder / "step-00000005").iterdir())
    assert files == [".json", ".safetensors"]


@pytest.mark.parametrize("damage", ["shorter", "no state", "bad state", "no tensors", "bad header"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, engines: Any, damage: str, caplog: Any) -> None:
    engine = engines(tmp_path)
    advance(engine, 2, save_at=(1, 2))
    newest = tmp_path / "checkpoints" / "step-00000002"
    (file,) = newest.glob("*.safetensors")
    if damage == "shorter":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "no tensors":
        file.unlink()
    elif damage == "bad header":
        file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])
    elif damage == "no state":
        (newest / "state.json").unlink()
    else:
        (newest / "state.json").write_text('{"step": "two", "files": []}')
    other = engines(tmp_path)
    assert other.restore() == {"position": 1} and other.step == 1
    assert "passed over a damaged checkpoint" in caplog.text and "step-00000002" in caplog.text
    advance(other, 2, save_at=(2,))
    assert sorted(path.name for path in newest.parent.iterdir()) == [
        "step-00000001",
        "step-00000002",
        "step-00000002.damaged",
    ]
    assert engines(tmp_path).restore() == {"position": 2}


def test_damage_that_sizes_do_not_show_is_an_error(tmp_path: Path, engines: Any) -> None:
    advance(engines(tmp_path), 1, save_at=(1,))
    (file,) = tmp_path.glob("checkpoints/*/*.safetensors")
    content = file.read_bytes()
    file.write_bytes(b"\xff" * 64 + content[64:])
    with pytest.raises(CheckpointError, match="step-00000001.*damaged"):
        engines(tmp_path).restore()


def test_another_architecture_is_refused_naming_what_differs(tmp_path: Path, engines: Any) -> None:
    advance(engines(tmp_path), 1, save_at=(1,))
    config = json.loads(json.dumps(TINY))
    config["text_config"] |= {"intermediate_size": 24, "num_hidden_layers": 3}
    other = engines(tmp_path, **{"model.config": config})
    with pytest.raises(CheckpointError) as caught:
        other.restore()
    said = str(caught.value)
    assert "step-00000001" in said and "- text_model.encoder.layers.2.mlp.fc1.weight" in said
    assert "text_model.encoder.layers.0.mlp.fc1.weight: got (32, 16), want (24, 16)" in said
    with pytest.raises(CheckpointError, match=r"- average/"):  # the same model, another average
        engines(tmp_path, ema=0.9).restore()
    with pytest.raises(CheckpointError, match=r"(?s)\+ first_moment/vision_model"):
        engines(tmp_path, **{"model.lock": ["vision"]}).restore()


def test_no_room_is_an_oserror_that_names_the_place(tmp_path: Path, engines: Any) -> None:
    engine = engines(tmp_path)
    advance(engine, 1, save_at=(1,))
    folder = tmp_path / "checkpoints"
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    engine.train_step(batch_of(1), 1e-3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
    try:
        engine.save({"position": 2})
        with pytest.raises(OSError, match="step-00000002"):
            engine.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert engine.restore() == {"position": 1}
    blocked = engines(tmp_path / "file")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="checkpoints"):
        blocked.save({})
        blocked.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_listened_to_and_given_back(tmp_path: Path, number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
    before = signal.getsignal(number)
    engine = Engine(tiny_job(tmp_path))
    assert not engine.stopping()
    os.kill(os.getpid(), number)
    assert engine.stopping() and engine.stopping()
    engine.close()
    assert signal.getsignal(number) is before


# -- evaluation, export, start ----------------------------------------------------------------------------------------


def test_features_are_the_averages_and_unit(tmp_path: Path, engines: Any) -> None:
    engine = engines(tmp_path, ema=0.5)
    advance(engine, 3)
    engine.export(tmp_path / "model", average=True)
    engine.export(tmp_path / "plain", average=False)
    model, batch = CLIPModel.from_pretrained(tmp_path / "model"), batch_of(7)
    with torch.no_grad():
        images = model.get_image_features(torch.tensor(batch["pixel_values"])).numpy()
        texts = model.get_text_features(torch.tensor(batch["input_ids"])).numpy()
    for found, wanted in (
        (engine.image_features(batch["pixel_values"]), images),
        (engine.text_features(batch["input_ids"]), texts),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(engine.gather(found), found)
    assert engine.image_features(batch["pixel_values"][:0]).shape == (0, 16)
    assert engine.text_features(batch["input_ids"][:1]).shape == (1, 16)
    plain = CLIPModel.from_pretrained(tmp_path / "plain").state_dict()
    for name, value in engine.weights(False).items():
        np.testing.assert_array_equal(plain[name].numpy(), value, err_msg=name)


def test_frozen_arrays_are_taken_as_they_are(tmp_path: Path, engines: Any) -> None:
    batch = batch_of(0)
    for array in batch.values():
        array.flags.writeable = False
    assert np.isfinite(float(engines(tmp_path).train_step(batch, 1e-3)["loss"]))


def test_one_process_and_its_mesh(tmp_path: Path) -> None:
    process = start(tiny_config(tmp_path))
    assert (process.index, process.count) == (0, 1)
    for values, said in (
        ({"mesh.data": 8}, "mesh: .*wanted 8 devices, found 1"),
        ({"mesh.fsdp": 4}, "mesh: .*wanted a multiple of 4 devices, found 1"),
        ({"mesh.tensor": 2}, "mesh.tensor: wanted 1 .*found 2"),
    ):
        with pytest.raises(ConfigError, match=said):
            start(tiny_config(tmp_path, **values))


def test_meshes() -> None:
    assert mesh_shape(MeshSection(), 4) == (4, 1)
    assert mesh_shape(MeshSection(-1, 2), 8) == (4, 2)
    assert mesh_shape(MeshSection(2, -1), 8) == (2, 4)
    assert mesh_shape(MeshSection(2, 1, -1), 2) == (2, 1)
    for mesh, count in ((MeshSection(3, -1), 4), (MeshSection(2, 1, 1), 4), (MeshSection(4, 4), 4)):
        with pytest.raises(ConfigError, match=f"found {count}"):
            mesh_shape(mesh, count)


def test_a_batch_that_cannot_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="data.batch_size: wanted a multiple .*3, found 16"):
        start(tiny_config(tmp_path))


def test_the_package_does_not_load_the_engine() -> None:
    code = "import clip_torch, sys; print([m for m in sys.modules if m.startswith('clip_torch.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert "clip_torch.modeling" in found
    assert not any(
        f"clip_torch.{name}" in found for name in ("training", "loss", "streaming", "parallel", "checkpointing")
    )
