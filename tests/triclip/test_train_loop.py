"""The training loop around a NumPy engine: logs, saves, evaluation, exports, and resuming."""

import io
import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clip_core
from clip_core import CLIPProcessor, ConfigError, MissingDependencyError, checkpoint
from tests.triclip import fake_engine
from tests.triclip.fake_engine import Engine
from triclip.data import open_evaluation
from triclip.metrics import retrieval
from triclip.train import DivergedError, OutOfMemoryError, TrainConfig, export, load_config, train
from triclip.train.flops import training_flops
from triclip.train.start import prepare

TOKENIZER = str(Path(clip_core.__file__).parent / "models" / "emoji")
TOWER = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
MODEL = {
    "projection_dim": 6,
    "text_config": {**TOWER, "vocab_size": 2048, "max_position_embeddings": 12, "eos_token_id": 2047},
    "vision_config": {**TOWER, "image_size": 8, "patch_size": 4},
}
COLOURS = ["red", "green", "blue", "white", "black", "yellow"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eighteen coloured pictures with captions in a table, and the same by class."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = ["filename,caption,label"]
    for i in range(18):
        colour = COLOURS[i % 6]
        base = np.asarray(Image.new("RGB", (1, 1), colour))
        noisy = np.clip(base + rng.normal(0, 20, (10, 10, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.png")
        lines.append(f"{i}.png,a {colour} thing {i},{colour}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    """(function of overrides) -> TrainConfig of a run in tmp_path / "run"."""
    fake_engine.install(monkeypatch)
    base = {
        "output": str(tmp_path / "run"), "steps": 12, "seed": 3,
        "model": {"config": MODEL, "tokenizer": TOKENIZER},
        "data": {"train": [str(data / "pairs.csv")], "batch_size": 6},
        "optimizer": {"lr": 0.02, "warmup": 2},
        "checkpoint": {"every": 5}, "log": {"every": 3, "tensorboard": False},
    }  # fmt: skip
    path = tmp_path / "run.json"
    path.write_text(json.dumps(base))
    return lambda *overrides: load_config(path, overrides)


def lines(config, name="metrics.jsonl"):
    return [json.loads(line) for line in (Path(config.output) / name).read_text().splitlines()]


def quiet(config):
    return train(config, stream=io.StringIO())


def weights(config):
    folder = Path(config.output) / "model"
    return {name: tensor.numpy() for name, tensor in checkpoint.load(folder).tensors.items()}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def stop_at(step, also=None):
    """An engine that is sent SIGTERM while it computes a step."""

    class Stopped(Engine):
        def train_step(self, batch, lr):
            if self.step + 1 == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().train_step(batch, lr)

    return Stopped


def test_a_run_leaves_what_it_promises(config):
    found = config()
    stream = io.StringIO()
    summary = train(found, stream=stream)
    output = Path(found.output)
    written = lines(found)
    assert [line["step"] for line in written] == [3, 6, 9, 12]
    wanted = {"step", "loss", "logit_scale", "grad_norm", "lr", "images_per_second", "skipped", "seconds"}
    assert all(set(line) == wanted for line in written)
    assert written[0]["lr"] == pytest.approx(0.02) and written[-1]["lr"] < 0.001
    assert summary["step"] == 12 and not summary["stopped"] and summary["loss"] == written[-1]["loss"]
    assert Image.open(output / "loss.png").size[0] > 400
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["10", "12"]
    shown = stream.getvalue().splitlines()
    assert len(shown) == 4 and shown[-1].startswith("step 12/12 | loss ")
    processor = CLIPProcessor.from_pretrained(output / "model")
    assert processor.image_processor.crop_size == {"height": 8, "width": 8}
    assert len(processor.tokenizer) == 2048
    assert json.loads((output / "model" / "training.json").read_text())["step"] == 12
    exported = weights(found)
    assert exported["logit_scale"].dtype == np.float32 and "logit_bias" not in exported


def test_it_learns(config):
    found = config("steps=80", "data.batch_size=18", "loss.label_smoothing=0.1")
    quiet(found)
    assert lines(found)[-1]["loss"] < 0.8 * lines(found)[0]["loss"]


def test_stopped_and_gone_on_with_equals_the_uninterrupted_run(config, tmp_path, monkeypatch):
    whole = config(f"output={tmp_path / 'whole'}", "ema=0.9")
    quiet(whole)
    parted = config("ema=0.9")
    fake_engine.install(monkeypatch, stop_at(7))
    summary = quiet(parted)
    assert summary["stopped"] and summary["step"] == 7 and summary["model"] is None
    assert not (tmp_path / "run" / "model").exists()
    fake_engine.install(monkeypatch)
    stream = io.StringIO()
    assert not train(parted, stream=stream)["stopped"]
    assert "going on from step 7 of 12" in stream.getvalue()
    same(weights(whole), weights(parted))
    curve = [(line["step"], line["loss"]) for line in lines(whole)]
    assert curve == [(line["step"], line["loss"]) for line in lines(parted)]


def test_killed_after_a_save_leaves_no_doubles(config, tmp_path, monkeypatch):
    class Killed(Engine):
        def train_step(self, batch, lr):
            if self.step == 10:
                raise SystemExit(9)
            return super().train_step(batch, lr)

        def save(self, state):
            super().save(state) if self.step == 5 else None

    whole = config(f"output={tmp_path / 'whole'}")
    quiet(whole)
    found = config()
    fake_engine.install(monkeypatch, Killed)
    with pytest.raises(SystemExit):
        quiet(found)
    assert [line["step"] for line in lines(found)] == [3, 6, 9]
    with open(Path(found.output) / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')  # a line that the kill cut off
    fake_engine.install(monkeypatch)
    quiet(found)
    assert [line["step"] for line in lines(found)] == [3, 6, 9, 12]
    same(weights(whole), weights(found))
    seconds = [line["seconds"] for line in lines(found)]
    assert seconds == sorted(seconds)


def test_evaluation_in_training_is_the_brute_force_one(config, data, monkeypatch):
    engines = []

    class Kept(Engine):
        def __init__(self, job):
            super().__init__(job)
            engines.append(self)

    fake_engine.install(monkeypatch, Kept)
    pairs = str(data / "pairs.csv")
    found = config(
        "evaluate.every=5", f"evaluate.retrieval={pairs}", f"evaluate.zero_shot={pairs}", "evaluate.batch_size=7",
        "evaluate.caption_key=caption", "evaluate.label_key=label", "evaluate.templates=['a {} thing', 'very {}']",
    )  # fmt: skip
    summary = quiet(found)
    written = lines(found, "evaluation.jsonl")
    assert [line["step"] for line in written] == [5, 10, 12] and summary["evaluation"] == written[-1]
    engine, processor = engines[0], CLIPProcessor.from_pretrained(Path(found.output) / "model")
    batch = next(iter(open_evaluation(pairs, processor, caption_key="caption", batch_size=18, length=12)))
    images, texts = engine.image_features(batch.pixel_values), engine.text_features(batch.input_ids)
    assert written[-1]["retrieval"] == {**retrieval(images, texts, np.arange(18)), "skipped": 0}
    names = sorted(COLOURS)
    head = []
    for name in names:
        ids = processor.tokenizer([f"a {name} thing", f"very {name}"], padding="max_length", max_length=12)
        mean = engine.text_features(np.array(ids["input_ids"])).mean(0)
        head.append(mean / np.linalg.norm(mean))
    best = (images @ np.array(head).T).argmax(1)
    right = np.mean([names[b] == COLOURS[i % 6] for i, b in enumerate(best)])
    assert written[-1]["zero_shot"]["top1"] == pytest.approx(right) and written[-1]["zero_shot"]["classes"] == 6


def test_sigterm_in_evaluation_saves_and_the_evaluation_is_done_later(config, data, monkeypatch):
    class Interrupted(Engine):
        def image_features(self, pixel_values):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().image_features(pixel_values)

    found = config("evaluate.every=4", f"evaluate.retrieval={data / 'pairs.csv'}", "evaluate.batch_size=4",
                   "evaluate.caption_key=caption")  # fmt: skip
    fake_engine.install(monkeypatch, Interrupted)
    summary = quiet(found)
    assert summary["stopped"] and summary["step"] == 4
    assert (Path(found.output) / "checkpoints" / "4").is_dir()
    fake_engine.install(monkeypatch)
    quiet(found)
    assert [line["step"] for line in lines(found, "evaluation.jsonl")] == [4, 8, 12]


@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
def test_a_run_that_diverges_ends_and_keeps_its_last_good_checkpoint(config, monkeypatch, figure):
    class Diverging(Engine):
        def train_step(self, batch, lr):
            figures = super().train_step(batch, lr)
            return {**figures, figure: np.nan} if self.step >= 6 else figures

    found = config("checkpoint.every=2", "log.every=100")
    fake_engine.install(monkeypatch, Diverging)
    with pytest.raises(DivergedError, match=r"step 6: .*nan.* step 4's, in .*checkpoints"):
        quiet(found)
    assert sorted(os.listdir(Path(found.output) / "checkpoints")) == ["2", "4"]


class ResourceExhaustedError(Exception):
    """As TensorFlow's is called."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor with shape[4096,4096]\nmore lines"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 42 bytes"),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_change(config, monkeypatch, error):
    class Full(Engine):
        def train_step(self, batch, lr):
            raise error

    fake_engine.install(monkeypatch, Full)
    with pytest.raises(OutOfMemoryError, match=r"accumulate \(now 1\).*chunked.*data.batch_size \(now 6\)") as caught:
        quiet(config())
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_framework_stay_as_they_are(config, monkeypatch):
    class Wrong(Engine):
        def train_step(self, batch, lr):
            raise RuntimeError("shapes differ")

    fake_engine.install(monkeypatch, Wrong)
    with pytest.raises(RuntimeError, match="^shapes differ$"):
        quiet(config())


@pytest.mark.parametrize(
    "override, key",
    [
        ("seed=4", "seed: 3, now 4"),
        ("data.batch_size=3", "data.batch_size: 6, now 3"),
        ("model.config.projection_dim=4", "model: projection_dim: 6, now 4"),
        ("model.config.text_config.hidden_act=gelu", "hidden_act"),
        ("loss.kind=sigmoid", "loss.kind"),
        ("data.augment.flip=0.5", "data.augment"),
        ("ema=0.9", "ema"),
        ("steps=5", "steps: wanted at least 7"),
        ("checkpoint.resume=false", "checkpoint.resume"),
    ],
)
def test_another_run_is_not_gone_on_with(config, monkeypatch, override, key):
    fake_engine.install(monkeypatch, stop_at(7))
    quiet(config())
    before = {path: path.read_bytes() for path in Path(config().output).rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=re.escape(key)):
        quiet(config(override))
    assert {path: path.read_bytes() for path in Path(config().output).rglob("*") if path.is_file()} == before


def started(config, monkeypatch, *overrides):
    """A run that was stopped at step 7; the backend then goes on with it."""
    fake_engine.install(monkeypatch, stop_at(7))
    quiet(config(*overrides))
    fake_engine.install(monkeypatch)


def saved(config, folder, seed):
    """A model folder with fresh weights of a seed, as a checkpoint to begin with."""
    job = prepare(config(f"seed={seed}"))
    checkpoint.save(folder, dict(job.weights), job.model_config.to_dict())
    return f"model.init={folder}", "model.config=null", f"model.tokenizer={TOKENIZER}"


def test_other_weights_to_begin_with_are_another_run(config, tmp_path, monkeypatch):
    first, other = saved(config, tmp_path / "a", 1), saved(config, tmp_path / "b", 2)
    started(config, monkeypatch, *first)
    with pytest.raises(ConfigError, match=r"holds another run(.|\n)*model.init, its weights: '\w+', now '\w+'"):
        quiet(config(*other))
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert quiet(config(f"model.init={tmp_path / 'moved'}", *first[1:]))["step"] == 12


def test_a_config_saved_again_by_another_library_is_the_same_run(config, tmp_path, monkeypatch):
    first = saved(config, tmp_path / "a", 1)
    started(config, monkeypatch, *first)
    path = tmp_path / "a" / "config.json"
    written = json.loads(path.read_text())
    written |= {
        "torch_dtype": "float32",
        "dtype": "float32",
        "transformers_version": "4.57.6",
        "architectures": ["CLIPModel"],
    }
    for tower in ("text_config", "vision_config"):
        written[tower] |= {
            "torch_dtype": "float32",
            "dtype": "float32",
            "top_k": 50,
            "model_type": "x",
            "_name_or_path": "y",
        }
    path.write_text(json.dumps(written))
    assert quiet(config(*first))["step"] == 12


def test_other_data_of_the_same_names_and_number_are_another_run(config, data, monkeypatch):
    started(config, monkeypatch)
    table = next(data.glob("*.csv"))
    whole = table.read_text()
    table.write_text(whole.replace("red", "not red", 1))
    try:
        with pytest.raises(ConfigError, match="data.train, its content"):
            quiet(config())
    finally:
        table.write_text(whole)
    assert quiet(config())["step"] == 12


def test_steps_logging_and_rates_may_change(config, monkeypatch):
    fake_engine.install(monkeypatch, stop_at(7))
    quiet(config())
    fake_engine.install(monkeypatch)
    stream = io.StringIO()
    found = config("steps=14", "log.every=2", "optimizer.lr=0.01", "checkpoint.keep=1")
    assert train(found, stream=stream)["step"] == 14
    assert "optimizer.lr: 0.02, now 0.01" in stream.getvalue() and "log.every" not in stream.getvalue()
    assert [line["step"] for line in lines(found)] == [3, 6, 8, 10, 12, 14]


def test_a_finished_run_called_again_only_exports(config, monkeypatch):
    found = config()
    quiet(found)
    (Path(found.output) / "model" / "model.safetensors").unlink()

    class Still(Engine):
        def train_step(self, batch, lr):
            raise AssertionError("trained on")

    fake_engine.install(monkeypatch, Still)
    assert quiet(found)["step"] == 12
    assert (Path(found.output) / "model" / "model.safetensors").is_file()
    assert [line["step"] for line in lines(found)] == [3, 6, 9, 12]


def test_export_on_demand(config, tmp_path, monkeypatch):
    found = config()
    with pytest.raises(FileNotFoundError, match="checkpoints"):
        export(found, tmp_path / "early")
    fake_engine.install(monkeypatch, stop_at(7))
    quiet(found)
    assert export(found, tmp_path / "early")["step"] == 7
    assert checkpoint.load(tmp_path / "early").config["projection_dim"] == 6
    assert CLIPProcessor.from_pretrained(tmp_path / "early")


def test_sigmoid_begins_where_siglip_does_and_keeps_its_bias_beside_the_model(config):
    found = config("loss.kind=sigmoid", "log.every=1")
    quiet(found)
    first, last = lines(found)[0], lines(found)[-1]
    assert first["logit_bias"] == pytest.approx(-10, abs=0.01) and first["logit_scale"] == pytest.approx(10, rel=0.01)
    report = json.loads((Path(found.output) / "model" / "training.json").read_text())
    assert report["logit_bias"] == pytest.approx(last["logit_bias"]) and report["loss_kind"] == "sigmoid"


def test_the_learnt_bias_goes_on_with_the_model(config, tmp_path):
    found = config("loss.kind=sigmoid")
    quiet(found)
    bias = json.loads((Path(found.output) / "model" / "training.json").read_text())["logit_bias"]
    again = config("loss.kind=sigmoid", f"output={tmp_path / 'second'}", f"model.init={found.output}/model",
                   "model.config=null", "log.every=1", "optimizer.lr=1e-9", "optimizer.warmup=0")  # fmt: skip
    quiet(again)
    assert bias != -10 and lines(again)[0]["logit_bias"] == pytest.approx(bias, abs=1e-6)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_mfu_tensorboard_and_a_terminal(config):
    found = config("log.peak_flops=1e9", "log.tensorboard=true", "model.patch_dropout=0.5", "model.lock=vision")
    stream = Terminal()
    train(found, stream=stream)
    line = lines(found)[-1]
    from clip_core import CLIPConfig

    flops = training_flops(CLIPConfig(**MODEL), 2, {"vision": 0})
    assert line["mfu"] == pytest.approx(flops * line["images_per_second"] / 2e9, abs=1e-5)
    assert "\r\x1b[K" in stream.getvalue() and stream.getvalue().count("\n") == 1
    events = b"".join(path.read_bytes() for path in (Path(found.output) / "tensorboard").iterdir())
    assert b"train/loss" in events and b"train/mfu" in events


def test_warnings_do_not_run_into_the_progress_line(config, monkeypatch):
    class Warning(Engine):
        def train_step(self, batch, lr):
            if self.step == 7:
                logging.getLogger("triclip").warning("left out %s", "something")
            return super().train_step(batch, lr)

    fake_engine.install(monkeypatch, Warning)
    stream = Terminal()
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)  # as frameworks leave it
    train(config(), stream=stream)
    before, after = stream.getvalue().split("left out something")
    assert before.endswith("left\n") and after.startswith("\n\r")
    assert logging.getLogger("triclip").propagate and not logging.getLogger("triclip").handlers


def test_flops_of_a_published_model():
    from clip_core import CLIPConfig
    from triclip.train.flops import forward_flops

    vision, text = forward_flops(CLIPConfig())  # ViT-B/32: open_clip's profile states 4.37 and 2.95 GMACs
    assert vision / 2e9 == pytest.approx(4.41, rel=0.02) and text / 2e9 == pytest.approx(2.98, rel=0.03)
    assert training_flops(CLIPConfig(), None, {"vision": 0}) == vision + 3 * text
    assert training_flops(CLIPConfig(), None, {"vision": 7}) == 2 * vision + 3 * text  # six of twelve layers
    assert training_flops(CLIPConfig(), None, {"vision": 14}) == training_flops(CLIPConfig())
    assert forward_flops(CLIPConfig(), patches=24)[0] < 0.55 * vision


def test_a_backend_that_is_not_there(config, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'jax'", name="jax")

    monkeypatch.setattr("triclip.train.loop.import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"'flax' needs jax.*triclip\[flax,train\]"):
        quiet(config())


def test_train_takes_only_checked_configurations(config):
    with pytest.raises(ConfigError, match="TrainConfig: output: wanted a folder"):
        train(TrainConfig())
    with pytest.raises(TypeError, match="TrainConfig"):
        train({"output": "x"})
