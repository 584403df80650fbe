"""The engine on one device, in this process: optimiser, modes of a step, checkpoints, features, errors."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from clip_core.config import CLIPConfig
from clip_core.errors import CheckpointError, ConfigError
from clip_tf import TFCLIPModel
from conformance.training.tf_worker import SIZE, TINY, advance, batch_of, state, tiny_config, tiny_engine
from triclip.train.config import MeshSection, OptimizerSection
from triclip.train.engine import Rule
from triclip.train.engines.tf_.optimizer import AdamW
from triclip.train.engines.tf_.training import Engine, start
from triclip.train.schedule import ema_decay
from triclip.train.start import prepare

GOLDEN = Path(__file__).parents[2] / "golden" / "training" / "adamw.npz"
# float32: the same sums in other orders.
SAME = 1e-6
EVERYTHING = {"ema": 0.99, "loss.anchors": {}, "optimizer.clip_norm": 1.0}


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Any]:
    """Makes engines that are closed at the end."""
    made: list[Engine] = []

    def make(output: str = "run", **values: Any) -> Engine:
        made.append(tiny_engine(tmp_path / output, **{"mesh.data": 1, **values}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


# -- the step ---------------------------------------------------------------------------------------------------------


def test_adamw_is_that_of_torch() -> None:
    golden = np.load(GOLDEN)
    section = OptimizerSection(
        betas=golden["betas"].tolist(),
        eps=float(golden["eps"]),
        weight_decay=float(golden["weight_decay"]),
        clip_norm=float(golden["clip_norm"]),
    )
    names = ["decayed", "plain"]
    variables = {name: tf.Variable(golden[f"{name}.begin"]) for name in names}
    rules = {"decayed": Rule(1.0, True, True), "plain": Rule(1.0, False, True)}
    optimizer = AdamW(section, variables, {}, rules, None)
    for step, rate in enumerate(golden["rates"]):
        gradients = [tf.constant(golden[f"{name}.gradients"][step]) for name in names]
        norm, gradients = optimizer.clipped(gradients)
        assert float(norm) == pytest.approx(golden["norms"][step], rel=1e-6)
        optimizer.update(tf.distribute.get_strategy(), gradients, tf.unstack(optimizer.scalars(float(rate), step)))
        for name in names:
            np.testing.assert_allclose(variables[name], golden[f"{name}.values"][step], rtol=1e-5, atol=1e-6)


def test_rate_scales_average_and_what_is_locked(engines: Any) -> None:
    engine = engines(**{**EVERYTHING, "model.lock": ["vision"], "optimizer.layer_decay": 0.5, "optimizer.eps": 1e-12})
    begin, averages = engine.weights(False), engine.weights(True)
    for step in range(3):
        advance(engine, step + 1)
        now, decay = engine.weights(False), ema_decay(0.99, step)
        averages = {name: decay * averages[name] + (1 - decay) * now[name] for name in now}
    found = engine.weights(True)
    for name in now:
        locked = name.startswith(("vision_model.", "visual_projection."))
        assert (now[name].tobytes() == begin[name].tobytes()) == locked, name
        if locked:
            assert found[name].tobytes() == begin[name].tobytes()
        np.testing.assert_allclose(found[name], averages[name], rtol=1e-5, atol=1e-6)
    assert not any(name.startswith(("first.vision_model", "second.vision_model")) for name in engine._state())


def test_first_step_moves_by_the_rate_of_the_layer(engines: Any) -> None:
    """Adam's first step is the rate times the sign of the gradient."""
    engine = engines(**{"optimizer.layer_decay": 0.5, "optimizer.weight_decay": 0.0, "optimizer.eps": 1e-15})
    begin = engine.weights(False)
    engine.train_step(batch_of(0), 1e-2)
    now = engine.weights(False)
    for name, share in {
        "text_projection.weight": 1.0,
        "text_model.encoder.layers.0.mlp.fc1.bias": 0.5,
        "vision_model.embeddings.class_embedding": 0.25,
    }.items():
        np.testing.assert_allclose(np.abs(now[name] - begin[name]), 1e-2 * share, rtol=1e-3)


@pytest.mark.parametrize("largest", [2.65, 0.0])
def test_scale_is_clamped_after_every_step(engines: Any, largest: float) -> None:
    engine = engines(**{"optimizer.max_logit_scale": largest})
    for step in range(3):
        figures = engine.train_step(batch_of(step), 0.1)
        scale = float(engine.weights(False)["logit_scale"])
        assert 0 <= scale <= np.float32(largest)
        assert float(figures["logit_scale"]) == pytest.approx(np.exp(scale))


def test_parts_are_the_whole_batch(engines: Any) -> None:
    """Acceptance check 8. The first moments of step one are 0.1 times the gradients, the scale's among them."""
    found = []
    for parts in (1, 2, 8):
        engine = engines(**{"loss.anchors": {}, "accumulate": parts})
        curve = advance(engine, 1)
        found.append((curve, state(engine)))
        curve.extend(advance(engine, 4))
    (whole_curve, whole), *others = found
    scale = whole["first.logit_scale"]
    assert abs(float(scale)) > 1e-4
    for curve, gradients in others:
        assert gradients["first.logit_scale"] / scale == pytest.approx(1.0, abs=SAME)
        for name in whole:
            if name.startswith("first."):
                atol = SAME * np.abs(whole[name]).max()
                np.testing.assert_allclose(gradients[name], whole[name], rtol=SAME, atol=max(atol, 1e-8), err_msg=name)
        np.testing.assert_allclose([f["loss"] for f in curve], [f["loss"] for f in whole_curve], rtol=5e-6)


@pytest.mark.parametrize(
    "values",
    [
        {"loss.mode": "chunked", "loss.chunk": 5},
        {"loss.mode": "ring", "loss.chunk": 5},
        {"model.gradient_checkpointing": "full"},
        {"model.gradient_checkpointing": "dots", "accumulate": 2},
    ],
)
def test_ways_to_save_memory_change_nothing(engines: Any, values: dict[str, Any]) -> None:
    wanted, found = advance(engines(), 3), advance(engines(**values), 3)
    for name in ("loss", "grad_norm", "logit_scale"):
        np.testing.assert_allclose([f[name] for f in found], [f[name] for f in wanted], rtol=5e-6)


def test_dropout_depends_on_the_step_alone(engines: Any) -> None:
    """Parts that are computed again drop the same weights, and a run that goes on drops what it would have."""
    towers = {key: {**TINY[key], "attention_dropout": 0.5} for key in ("text_config", "vision_config")}
    values = {"model.config": {**TINY, **towers}, "accumulate": 2}
    engine = engines(**values)
    curve = advance(engine, 4, save_at=[2])
    losses = [f["loss"] for f in curve]
    assert losses[0] != pytest.approx(advance(engines("without"), 1)[0]["loss"], rel=1e-3)
    again = engines(**{**values, "model.gradient_checkpointing": "full"})
    again._checkpoints.keep = 9
    assert again.restore() == {"position": 2}
    np.testing.assert_allclose([f["loss"] for f in advance(again, 4)], losses[2:], rtol=5e-6)


def test_one_trace_whatever_the_rate(engines: Any) -> None:
    engine = engines(**EVERYTHING)
    for step in range(3):
        engine.train_step(batch_of(step), 1e-3 / (1 + step))
    assert engine._train.experimental_get_tracing_count() == 1
    assert engine.step == 3 and engine.devices == 1


def test_patches(engines: Any) -> None:
    """With all patches named nothing changes; with some of them much does."""
    engine, same, fewer = (engines() for _ in range(3))
    loss = float(engine.train_step(batch_of(0), 1e-3)["loss"])
    assert float(same.train_step(batch_of(0, patches=4), 1e-3)["loss"]) == pytest.approx(loss, rel=1e-6)
    assert float(fewer.train_step(batch_of(0, patches=2), 1e-3)["loss"]) != pytest.approx(loss, rel=1e-4)


def test_sigmoid_begins_as_siglip_and_learns_its_bias(engines: Any) -> None:
    engine = engines(**{"loss.kind": "sigmoid"})
    assert float(engine.weights(False)["logit_bias"]) == -10
    assert float(engine.weights(False)["logit_scale"]) == pytest.approx(np.log(10))
    figures = engine.train_step(batch_of(0), 1e-3)
    bias = float(engine.weights(False)["logit_bias"])
    assert bias != -10 and bias == pytest.approx(float(figures["logit_bias"]))


def test_half_precision_computes_with_whole_parameters(engines: Any) -> None:
    whole, half = engines(), engines(precision="bf16")
    wanted, found = advance(whole, 2), advance(half, 2)
    assert all(value.dtype == np.float32 for value in half.weights(False).values())
    np.testing.assert_allclose([f["loss"] for f in found], [f["loss"] for f in wanted], rtol=2e-2)
    assert found[0]["loss"] != wanted[0]["loss"]
    assert half.image_features(batch_of(0)["pixel_values"]).dtype == np.float32


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_goes_on_to_the_bit(engines: Any, tmp_path: Path) -> None:
    engine = engines(**EVERYTHING)
    advance(engine, 2)
    engine.save({"position": 2, "epoch": [0, 1]})
    curve = advance(engine, 4)  # while it is being written
    other = engines(**{**EVERYTHING, "seed": 5})
    assert other.restore() == {"position": 2, "epoch": [0, 1]} and other.step == 2
    assert advance(other, 4) == curve
    for name, value in state(engine).items():
        assert state(other)[name].tobytes() == value.tobytes(), name


def test_keeps_the_newest(engines: Any, tmp_path: Path) -> None:
    engine = engines()
    assert engine.restore() is None
    (tmp_path / "run/checkpoints/.9.triclip-0").mkdir(parents=True)  # what a killed process left
    advance(engine, 4, save_at=[1, 2, 3, 4])
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["3", "4"]
    assert engines().restore() == {"position": 4}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model.config": {**TINY, "projection_dim": 8}}, r"text_projection\.weight: got \(16, 16\), want \(8, 16\)"),
        ({"loss.kind": "sigmoid"}, "- parameters.logit_bias"),
        ({"ema": 0.9}, "- averages.logit_scale"),
        ({"model.lock": ["text"]}, r"\+ first\.text_model"),
    ],
)
def test_another_architecture_is_refused(engines: Any, values: dict[str, Any], said: str) -> None:
    advance(engines(), 1, save_at=[1])
    other = engines(**values)
    before = other.weights(False)
    with pytest.raises(CheckpointError, match=said):
        other.restore()
    assert other.step == 0
    assert all(value.tobytes() == before[name].tobytes() for name, value in other.weights(False).items())


@pytest.mark.parametrize(("file", "content"), [("state.json", b"{"), ("state.json", b"[]"), ("state.safetensors", b"")])
def test_a_damaged_checkpoint_is_named(engines: Any, tmp_path: Path, file: str, content: bytes) -> None:
    advance(engines(), 1, save_at=[1])
    path = tmp_path / "run/checkpoints/1" / file
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checkpoints/1"):
        engines().restore()


@pytest.mark.parametrize(
    ("file", "content"),
    [("state.json", None), ("state.json", b"[]"), ("state.safetensors", None), ("state.safetensors", b"")],
)
def test_a_damaged_newest_checkpoint_is_passed_over(
    engines: Any, tmp_path: Path, file: str, content: bytes | None, caplog: Any
) -> None:
    advance(engines(), 2, save_at=[1, 2])
    path = tmp_path / "run/checkpoints/2" / file
    path.unlink() if content is None else path.write_bytes(content)
    other = engines()
    assert other.restore() == {"position": 1} and other.step == 1
    assert "passed over a damaged checkpoint" in caplog.text and "checkpoints/2" in caplog.text
    advance(other, 2, save_at=[2])
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["1", "2", "2.damaged"]
    assert engines().restore() == {"position": 2}


def test_full_disk(engines: Any, tmp_path: Path) -> None:
    """An OSError that names the checkpoint; the one before stays, and nothing half-written."""
    engine = engines()
    advance(engine, 1, save_at=[1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="checkpoints/2"):
            advance(engine, 2, save_at=[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["1"]
    assert engine.restore() == {"position": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(engines: Any, number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
    before = signal.getsignal(number)
    engine = engines()
    assert not engine.stopping()
    os.kill(os.getpid(), number)
    assert engine.stopping()
    engine.close()
    assert signal.getsignal(number) is before


# -- results ----------------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_exported_average(engines: Any, tmp_path: Path) -> None:
    engine = engines(ema=0.5)
    advance(engine, 3)
    engine.export(tmp_path / "model", average=True)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    model = TFCLIPModel.from_pretrained(tmp_path / "model")
    for rows in (1, 5, 0):
        batch = {name: value[:rows] for name, value in batch_of(0).items()}
        for name, found, method in (
            ("pixel_values", engine.image_features, model.get_image_features),
            ("input_ids", engine.text_features, model.get_text_features),
        ):
            features = found(batch[name])
            assert features.shape == (rows, 16) and features.dtype == np.float32
            if rows:
                wanted = method(batch[name]).numpy()
                wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
                np.testing.assert_allclose(features, wanted, atol=2e-6)
    np.testing.assert_array_equal(engine.gather(features), features)

    engine.export(tmp_path / "model", average=False)
    last = TFCLIPModel.from_pretrained(tmp_path / "model")
    weights = engine.weights(False)
    for name, tensor in last._get_weights().items():
        assert tensor.numpy().tobytes() == weights[name].tobytes()
    assert weights["text_projection.weight"].tobytes() != engine.weights(True)["text_projection.weight"].tobytes()


def test_weights_begin_as_the_run_says(engines: Any, tmp_path: Path) -> None:
    engine = engines(**EVERYTHING)
    job = prepare(tiny_config(tmp_path, **EVERYTHING), 20)
    for average in (False, True):
        found = engine.weights(average)
        assert set(found) == {*job.weights, "anchors"}
        for name in job.weights:
            np.testing.assert_array_equal(found[name], job.weights[name])


# -- errors -----------------------------------------------------------------------------------------------------------


def test_devices_that_do_not_exist(tmp_path: Path) -> None:
    count = len(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))
    config = tiny_config(tmp_path, **{"mesh.data": 99})
    with pytest.raises(ConfigError, match=rf"mesh\.data: wanted 99 devices, found {count}"):
        start(config)
    for section in (MeshSection(fsdp=2), MeshSection(tensor=2)):
        with pytest.raises(ConfigError, match="wanted 1 with backend tf.*found 2"):
            start(replace(config, mesh=section))


def test_a_batch_that_does_not_divide(engines: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size: wanted a multiple of 3 .*found 16"):
        engines(accumulate=3)


@pytest.mark.parametrize(
    "described", ["{", "[]", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}']
)
def test_a_cluster_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, described: str) -> None:
    monkeypatch.setenv("TF_CONFIG", described)
    with pytest.raises(ConfigError, match="TF_CONFIG: wanted"):
        start(tiny_config(tmp_path))


def test_another_picture_size_than_the_checkpoint(engines: Any, tmp_path: Path) -> None:
    engines().export(tmp_path / "model", average=False)
    engine = engines(**{"model.config": None, "model.init": str(tmp_path / "model"), "model.image_size": 2 * SIZE})
    pixels = np.zeros((2, 3, 2 * SIZE, 2 * SIZE), np.float32)
    assert engine.image_features(pixels).shape == (2, 16)
    engine.export(tmp_path / "larger", average=True)
    assert CLIPConfig.from_pretrained(tmp_path / "larger").vision_config.image_size == 2 * SIZE


def test_features_ask_whether_the_pooled_row_may_be_had_alone() -> None:
    """A tower whose call was exchanged is called."""
    model, ids = TFCLIPModel.from_pretrained("emoji"), tf.constant([[0, 5, 1]])
    before = Engine._text(None, model, ids, training=False)
    tower, kept = model.text_model, model.text_model.call
    tower.call = lambda *args, **kwargs: (None, -kept(*args, **kwargs)[1])
    assert np.allclose(Engine._text(None, model, ids, training=False), -before, atol=1e-6)
