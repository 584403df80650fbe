"""Acceptance checks 8 to 10 and bad input, in this process: the optimiser's contract, accumulation, the hot path."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_core.errors import CheckpointError, ConfigError
from clip_flax import FlaxCLIPModel
from conformance.training.flax_worker import MODEL, SAMPLES, Spec, batch, run_config
from triclip.train.config import LockSection, MeshSection, TrainConfig
from triclip.train.engine import Process, Rule
from triclip.train.engines.flax_ import training
from triclip.train.engines.flax_.sharding import make_mesh, parameter_spec
from triclip.train.start import extra_parameters, prepare

ALONE = Process(0, 1)


@pytest.fixture(scope="module", autouse=True)
def quick_compiling() -> Iterator[None]:
    """Compiling is most of what these tests do, and optimised programs would save nothing at this size."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def config(folder: Path, **changes: Any) -> TrainConfig:
    return run_config(Spec(str(folder / "run"), changes=changes))


def engine(folder: Path, **changes: Any) -> training.Engine:
    settings = config(folder, **changes)
    assert training.start(settings) == ALONE
    return training.Engine(prepare(settings, SAMPLES if settings.loss.anchors else 0))


def host(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def gradients(folder: Path, **changes: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of one batch."""
    job = prepare(config(folder, **changes), SAMPLES)
    network = training.Network(job, make_mesh(MeshSection(1)))
    params = training.initial_parameters(job, network.layouts)
    rows = {name: jnp.asarray(value) for name, value in batch(job, ALONE, 0).items()}
    return host(jax.jit(network.gradients)(params, rows))


def apart(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Distance over length, of all gradients as one vector."""
    assert a.keys() == b.keys()
    square = sum(float(((a[name] - b[name]) ** 2).sum(dtype=np.float64)) for name in a)
    return (square / sum(float((value**2).sum(dtype=np.float64)) for value in a.values())) ** 0.5


# -- gradients --------------------------------------------------------------------------------------------------------

ANCHORED = {"kind": "sigmoid", "anchors": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, np.ndarray]]:
    """With everything that a run can have: sigmoid, anchors, patch dropout."""
    return gradients(tmp_path_factory.mktemp("whole"), loss=ANCHORED, model={"patch_dropout": 0.5})


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulation_is_exact(tmp_path: Path, whole: Any, parts: int) -> None:
    loss, found = gradients(tmp_path, loss=ANCHORED, model={"patch_dropout": 0.5}, accumulate=parts)
    assert loss == pytest.approx(whole[0], rel=1e-6)
    assert apart(whole[1], found) < 1e-6
    for name in ("logit_scale", "logit_bias"):
        assert found[name] / whole[1][name] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_recomputing_changes_nothing(tmp_path: Path, whole: Any, remat: str) -> None:
    model = {"patch_dropout": 0.5, "gradient_checkpointing": remat}
    loss, found = gradients(tmp_path, loss=ANCHORED, model=model)
    assert loss == pytest.approx(whole[0], rel=1e-6)
    assert apart(whole[1], found) < 1e-6  # `apart` wants the same names


def test_remat_recomputes(tmp_path: Path) -> None:
    """The policies are there: products of the backward pass that are computed again."""
    counts = {}
    for remat in ("none", "dots", "full"):
        job = prepare(config(tmp_path, model={"gradient_checkpointing": remat}))
        network = training.Network(job, make_mesh(MeshSection(1)))
        params = training.initial_parameters(job, network.layouts)
        counts[remat] = str(jax.make_jaxpr(network.gradients)(params, batch(job, ALONE, 0))).count("dot_general")
    assert counts["none"] < counts["dots"] < counts["full"]


def test_dropout_depends_on_the_step_alone(tmp_path: Path) -> None:
    """Both passes over a part drop the same weights: the gradient is that of the loss."""
    model = {**MODEL, "vision_config": {**MODEL["vision_config"], "attention_dropout": 0.5}}
    job = prepare(config(tmp_path, model={"config": model}, accumulate=2))
    network = training.Network(job, make_mesh(MeshSection(1)))
    params = training.initial_parameters(job, network.layouts)
    rows = {name: jnp.asarray(value) for name, value in batch(job, ALONE, 0).items()}
    compute = jax.jit(network.gradients)
    (first, slope), (again, _), (other, _) = (compute(params, rows, step) for step in (3, 3, 4))
    assert first == again != other
    name, change = "vision_model.post_layernorm.weight", 2e-2 * np.sign(slope["vision_model.post_layernorm.weight"])
    up, down = (compute({**params, name: params[name] + sign * change}, rows, 3)[0] for sign in (1, -1))
    assert float(up - down) == pytest.approx(2 * float((slope[name] * change).sum()), rel=0.01)


def test_bfloat16_keeps_float32_parameters(tmp_path: Path, whole: Any) -> None:
    loss, found = gradients(tmp_path, loss=ANCHORED, model={"patch_dropout": 0.5}, precision="bf16")
    assert loss == pytest.approx(whole[0], rel=0.01) and loss != whole[0]
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    assert apart(whole[1], found) < 0.05


# -- a step -----------------------------------------------------------------------------------------------------------


def adamw(params: Any, moments: Any, found: Any, rules: dict[str, Rule], section: Any, step: int, lr: float) -> None:
    """One step as the contract words it, in float64 and in place."""
    norm = sum(float((g.astype(np.float64) ** 2).sum()) for g in found.values()) ** 0.5
    (b1, b2), clip = section.betas, min(1.0, section.clip_norm / norm)
    for name, rule in rules.items():
        g, (m, v) = found[name].astype(np.float64) * clip, moments[name]
        m[...], v[...] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step_size = m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + section.eps)
        decay = section.weight_decay * params[name] if rule.decay else 0
        params[name][...] -= lr * rule.lr_scale * (step_size + decay)
    params["logit_scale"][...] = np.clip(params["logit_scale"], 0, section.max_logit_scale)


def test_steps_are_the_contracts(tmp_path: Path) -> None:
    """AdamW, clipping, layer-wise rates, decay by rule, the clamp and the average against plain NumPy; and the hot
    path: one compilation at changing rates, no hidden transfers, buffers given away."""
    run = engine(tmp_path, optimizer={"layer_decay": 0.7, "clip_norm": 1.0, "max_logit_scale": 2.6, "lr": 1e-2})
    section, rules = run.config.optimizer, run.job.rules
    params = {name: value.astype(np.float64) for name, value in host(run.state["params"]).items()}
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in params.items()}
    average = {name: value.copy() for name, value in params.items()}
    compute = jax.jit(run.network.gradients)
    for step in range(1, 5):
        rows, lr = batch(run.job, ALONE, step), 1e-2 / step
        _, found = host(compute(run.state["params"], {name: jnp.asarray(value) for name, value in rows.items()}))
        adamw(params, moments, found, rules, section, step, lr)
        decay = min(run.config.ema, step / (9 + step))  # (1 + n) / (10 + n) of the step before
        for name, value in params.items():
            average[name][...] = decay * average[name] + (1 - decay) * value
        old = jax.tree.leaves(run.state)
        with jax.transfer_guard("disallow"):
            metrics = run.train_step(rows, lr)
        assert all(leaf.is_deleted() for leaf in old)
        scale = float(run.state["params"]["logit_scale"])
        assert scale <= np.float32(2.6) < run.job.weights["logit_scale"]
        assert (scale == np.float32(2.6)) or step > 1
        assert float(metrics["logit_scale"]) == pytest.approx(np.exp(scale))
        for name, value in host(run.state["params"]).items():
            np.testing.assert_allclose(value, params[name], atol=2e-6, err_msg=name)
            np.testing.assert_allclose(host(run.state["average"][name]), average[name], atol=2e-6, err_msg=name)
    assert run._train._cache_size() == 1 and run.step == 4
    run.close()


UPPER = ("visual_projection.", "vision_model.post_layernorm.", "vision_model.encoder.layers.1.")


@pytest.mark.parametrize(("lock", "free"), [(["vision"], ()), ({"vision": LockSection(2)}, UPPER)])
def test_locked_tower(tmp_path: Path, lock: Any, free: tuple[str, ...]) -> None:
    run = engine(tmp_path, model={"lock": lock})
    before = host(run.state["params"])
    for step in range(2):
        run.train_step(batch(run.job, ALONE, step), 1e-3)
    after = host(run.state["params"])
    locked = {name for name in before if name.startswith(("vision_model.", "visual_projection."))}
    locked = {name for name in locked if not name.startswith(free)} if free else locked
    for name in before:
        assert (before[name].tobytes() == after[name].tobytes()) == (name in locked), name
    assert len(jax.tree.leaves(run.state["moments"])) == 1 + 2 * (len(before) - len(locked))  # a counter, and two each
    assert run.state["average"].keys() == before.keys() - locked
    assert run.weights(average=True).keys() == before.keys()
    run.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[training.Engine]:
    """A run of two steps with sigmoid and anchors."""
    run = engine(tmp_path_factory.mktemp("trained"), loss={**ANCHORED, "mode": "chunked", "chunk": 5})
    for step in range(2):
        metrics = run.train_step(batch(run.job, ALONE, step), 1e-3)
    assert set(metrics) == {"loss", "logit_scale", "logit_bias", "grad_norm"}
    yield run
    run.close()


def test_extra_parameters(trained: training.Engine) -> None:
    weights, begun = trained.weights(average=False), extra_parameters(trained.job)
    assert weights["anchors"].shape == (SAMPLES, 16) and begun["logit_bias"] == -10
    for name, value in begun.items():
        assert 0 < np.abs(weights[name] - value).max() < 0.01


def test_features_and_export(trained: training.Engine, tmp_path: Path) -> None:
    """Unit rows of the averaged weights, any number of them, as the exported model computes them."""
    trained.export(tmp_path / "model", average=True)
    model = FlaxCLIPModel.from_pretrained(tmp_path / "model")
    rows = batch(trained.job, ALONE, 7)
    for found, wanted in (
        (trained.image_features(rows["pixel_values"][:5]), model.get_image_features(rows["pixel_values"][:5])),
        (trained.text_features(rows["input_ids"][:3]), model.get_text_features(rows["input_ids"][:3])),
    ):
        wanted = np.asarray(wanted)
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=2e-6)
        assert found.dtype == np.float32
    assert trained.image_features(rows["pixel_values"][:0]).shape == (0, 16)
    exported = training.initial_parameters(dataclasses.replace(trained.job, weights=trained.weights(True)), {})
    assert exported.keys() == {"anchors", "logit_bias"}


def test_gather_alone(trained: training.Engine) -> None:
    rows = np.arange(6, dtype=np.int64).reshape(3, 2) << 40
    assert trained.gather(rows).tolist() == rows.tolist()


# -- checkpoints ------------------------------------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_and_another_model(trained: training.Engine, tmp_path: Path) -> None:
    """A save that fails says where, and leaves the checkpoint before it, to the bit."""
    folder = Path(trained.config.output) / "checkpoints"
    trained.save({"position": [2, "a"]})
    trained.wait()
    saved = host(trained.state)
    trained.train_step(batch(trained.job, ALONE, 2), 1e-3)
    with largest_file(2000), pytest.raises(OSError, match=str(folder)):
        trained.save({"position": [3, "b"]})
        trained.wait()
    assert trained.restore() == {"position": [2, "a"]} and trained.step == 2
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, saved, host(trained.state))))
    trained.train_step(batch(trained.job, ALONE, 2), 1e-3)
    trained.save({"position": [3, "c"]})  # there is room again
    trained.wait()

    with pytest.raises(CheckpointError) as wrong:
        other = training.Checkpoints(folder, 2)
        like = jax.eval_shape(lambda: trained.state)
        like["params"] = {**like["params"], "anchors": jax.ShapeDtypeStruct((3, 16), jnp.float32)}
        del like["params"]["logit_bias"]
        other.restore(like)
    text = str(wrong.value)
    assert str(folder / "3") in text and "+ params/logit_bias" in text
    assert f"params/anchors: got ({SAMPLES}, 16), want (3, 16)" in text


@pytest.mark.parametrize("damage", ["no state", "cut", "empty"])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, damage: str, caplog: Any) -> None:
    state = {"params": {"a": jnp.arange(4096.0)}, "moments": {"b": jnp.ones((64, 64))}}
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)

    def opened() -> Any:
        return training.Checkpoints(tmp_path, 2)

    first = opened()
    for step in (1, 2):
        first.save(step, jax.tree.map(lambda leaf, by=step: leaf * by, state), {"position": step})
    first.close()
    if damage == "no state":
        shutil.rmtree(tmp_path / "2" / "state")
    elif damage == "empty":
        shutil.rmtree(tmp_path / "2")
        (tmp_path / "2").mkdir()
    else:
        for file in (tmp_path / "2" / "state").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:10])
    second = opened()
    step, found, data = second.restore(like)
    assert step == 1 and data == {"position": 1} and np.array_equal(found["params"]["a"], np.arange(4096.0))
    assert "passed over a damaged checkpoint" in caplog.text and str(tmp_path / "2") in caplog.text
    second.save(2, state, {"position": 3})
    second.close()
    assert {"1", "2", "2.damaged"} <= {path.name for path in tmp_path.iterdir()}
    assert opened().restore(like)[2] == {"position": 3}
    for number in (1, 2):
        shutil.rmtree(tmp_path / str(number) / "state")
    with pytest.raises(CheckpointError, match="2 that are damaged"):
        opened().restore(like)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    request = training.processes.StopRequest()
    assert not request.seen()
    os.kill(os.getpid(), number)
    assert request.seen()
    request.close()
    assert signal.getsignal(number) is before


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert training.Checkpoints(tmp_path / "new", 2).restore({}) is None


# -- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshSection(2, 3, 1), r"mesh: wanted 6 devices \(data 2 x fsdp 3 x tensor 1\), found 4"),
        (MeshSection(-1, 3, 1), r"mesh: wanted a multiple of 3 devices .*, found 4"),
        (MeshSection(-1, 8, 1), r"mesh: wanted 8 devices .*, found 4"),
    ],
)
def test_more_devices_than_there_are(mesh: MeshSection, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_mesh(mesh, jax.devices() * 4)


def test_batch_and_devices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.batch_size: wanted a multiple of 3 .*accumulate 3.*, found 32"):
        training.start(config(tmp_path, accumulate=3))


def test_parameters_on_a_mesh() -> None:
    mesh = jax.sharding.AbstractMesh((2, 4, 2), ("data", "fsdp", "tensor"))
    layer = "text_model.encoder.layers.0"
    for name, shape, wanted in (
        (f"{layer}.self_attn.q_proj.weight", (512, 512), ("fsdp", "tensor")),
        (f"{layer}.self_attn.out_proj.weight", (512, 512), ("tensor", "fsdp")),
        (f"{layer}.mlp.fc1.bias", (2048,), ("tensor",)),
        (f"{layer}.layer_norm1.weight", (512,), ()),
        ("text_model.embeddings.token_embedding.weight", (49409, 512), (None, "fsdp")),  # an odd vocabulary
        ("vision_model.embeddings.patch_embedding.weight", (32, 32, 3, 768), (None, None, None, "fsdp")),
        ("visual_projection.weight", (768, 510), ("fsdp", None)),
        ("logit_scale", (), ()),
    ):
        assert tuple(parameter_spec(name, shape, mesh)) == wanted, name
