"""Configurations: files, overrides, and errors that name file and key."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_core import ConfigError
from triclip.train import TrainConfig, load_config, validate
from triclip.train.config import AnchorSection, DataSection, LockSection, ModelSection
from triclip.train.load import to_dict

YAML = """
output: runs/a
steps: 1_000
ema: 0.999
model: {init: emoji, lock: vision}
data:
  train: [shards/*.tar, /data/b.tar]
  augment: {crop_scale: [0.5, 1]}
optimizer: {lr: 1e-4, betas: [0.9, 9.5e-1], clip_norm: 1}
loss:
mesh: {data: 2, fsdp: -1}
evaluate: {zero_shot: imagenet, labels: labels.txt}
"""
TOML = """
output = "runs/a"
steps = 1000
ema = 0.999
model = {init = "emoji", lock = ["vision"]}
[data]
train = ["shards/*.tar", "/data/b.tar"]
augment.crop_scale = [0.5, 1]
[optimizer]
lr = 1e-4
betas = [0.9, 0.95]
clip_norm = 1
[loss]
[mesh]
data = 2
fsdp = -1
[evaluate]
zero_shot = ["imagenet"]
labels = "labels.txt"
"""
LEAST = {"output": "out", "steps": 10, "model": {"init": "emoji"}, "data": {"train": ["a.tar"]}}


def write(folder, text, name="run.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def least(tmp_path):
    return write(tmp_path, "output: out\nsteps: 10\nmodel: {init: emoji}\ndata: {train: a.tar}\n")


def test_yaml_and_toml_say_the_same(tmp_path):
    found = load_config(write(tmp_path, YAML))
    assert found == load_config(write(tmp_path, TOML, "run.toml"))
    assert found.optimizer.lr == 1e-4 and isinstance(found.optimizer.lr, float)  # YAML reads 1e-4 as a text
    assert found.optimizer.betas == [0.9, 0.95] and found.optimizer.clip_norm == 1.0 and found.steps == 1000
    assert found.model.lock == ["vision"] and found.loss == TrainConfig().loss and found.mesh.fsdp == -1
    assert found.data.augment.crop_scale == [0.5, 1.0] and isinstance(found.data.augment.crop_scale[1], float)


def test_paths_start_at_the_file_and_names_stay(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", YAML)
    monkeypatch.chdir(tmp_path)
    found = load_config("sub/run.yaml", ["model.tokenizer=tok", "model.init=./here", "compile_cache=gs://bucket/c"])
    here = tmp_path / "sub"
    assert found.output == str(here / "runs/a") and found.data.train == [str(here / "shards/*.tar"), "/data/b.tar"]
    assert found.evaluate.labels == str(here / "labels.txt") and found.evaluate.zero_shot == [str(here / "imagenet")]
    assert found.model.tokenizer == str(tmp_path / "tok")  # overrides: from the working directory
    assert found.model.init == str(tmp_path / "here") and found.compile_cache == "gs://bucket/c"
    assert load_config(path).model.init == "emoji"
    (here / "emoji").mkdir()
    assert load_config(path).model.init == str(here / "emoji")


def test_overrides_win_and_are_typed(least):
    found = load_config(
        least,
        ["optimizer.lr=3e-3", "steps=20", "data.train=[x.tar, y.tar]", "ema=none", "loss.anchors={}", "output=1e5",
         "loss.anchors.scale=8", "model.lock=[text]", "optimizer.clip_norm=null", "evaluate.templates=a {} thing",
         "data.caption_key=123", "data.shuffle=false"],
    )  # fmt: skip
    assert found.optimizer.lr == 3e-3 and found.steps == 20 and len(found.data.train) == 2 and found.ema is None
    assert found.loss.anchors == AnchorSection(scale=8.0) and Path(found.output).name == "1e5"
    assert found.model.lock == ["text"] and found.data.caption_key == "123" and not found.data.shuffle


def test_a_model_config_of_ones_own(tmp_path):
    text = "output: o\nsteps: 1\ndata: {train: a}\nmodel: {config: {projection_dim: 8, text_config: {vocab_size: 9}}}\n"
    found = load_config(write(tmp_path, text), ["model.config.text_config.hidden_size=32"])
    assert found.model.config == {"projection_dim": 8, "text_config": {"vocab_size": 9, "hidden_size": 32}}
    text = text.replace("{projection_dim: 8, text_config: {vocab_size: 9}}", "clip.json")
    assert load_config(write(tmp_path, text)).model.config == str(tmp_path / "clip.json")


@pytest.mark.parametrize(
    "override, message",
    [
        ("optimizer.learning_rate=1", "optimizer.learning_rate: there is no such key"),
        ("optimiser.lr=1", "optimiser: there is no such key; did you mean optimizer?"),
        ("data.batchsize=1", "data.batchsize: there is no such key; did you mean data.batch_size?"),
        ("batch_size=1", "batch_size: there is no such key; did you mean data.batch_size?"),
        ("steps=1.5", "steps: wanted an integer, found 1.5"),
        ("steps=true", "steps: wanted an integer, found True"),
        ("steps=0", "steps: wanted an integer from 1 to 2147483647, found 0"),
        ("steps=99999999999999999999", "steps: wanted an integer from 1 to 2147483647"),
        ("steps=null", "steps: wanted an integer, found nothing"),
        ("optimizer.lr=.nan", "optimizer.lr: wanted a finite number, found nan"),
        ("optimizer.lr=.inf", "optimizer.lr: wanted a finite number, found inf"),
        ("optimizer.lr=1e999", "optimizer.lr: wanted a finite number, found '1e999'"),
        ("optimizer.lr=fast", "optimizer.lr: wanted a finite number, found 'fast'"),
        ("optimizer.lr=true", "optimizer.lr: wanted a finite number, found True"),
        ("optimizer.lr=-1", "optimizer.lr: wanted a number from 0, found -1.0"),
        ("optimizer.betas=[0.9]", "optimizer.betas: wanted two numbers"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas: wanted two numbers"),
        ("optimizer.eps=0", "optimizer.eps: wanted a number above 0"),
        ("optimizer.schedule=linear", "optimizer.schedule: wanted one of cosine, constant, wsd, found 'linear'"),
        ("optimizer.no_decay=['a(']", "optimizer.no_decay: wanted regular expressions, found 'a('"),
        ("optimizer.warmup=11", "optimizer.warmup: wanted at most steps 10, found 11"),
        ("optimizer.min_lr=1", "optimizer.min_lr: wanted at most optimizer.lr 0.0005"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay: wanted a number above 0, at most 1"),
        ("optimizer=5", "optimizer: wanted keys and values, found 5"),
        ("data.train=[]", "data.train: wanted paths or patterns of the training data, found none"),
        ("data.train=[3]", "data.train: wanted a text, found 3"),
        ("data.shuffle=1", "data.shuffle: wanted true or false, found 1"),
        ("data.format=zip", "data.format: wanted one of auto, webdataset"),
        ("data.augment.crop_scale=[0.9, 0.1]", "data.augment.crop_scale: wanted two shares"),
        ("data.augment.color_jitter=[0, 0, 0, 0.6]", "data.augment.color_jitter: wanted"),
        ("accumulate=3", "accumulate: wanted a divisor of data.batch_size 256, found 3"),
        ("backend=jax", "backend: wanted one of torch, tf, flax, found 'jax'"),
        ("ema=1", "ema: wanted a number from 0 to less than 1"),
        ("model.config=x.json", "model.config: wanted either model.init or model.config, found both"),
        ("model.init=null", "model.init: wanted model.init (a checkpoint) or model.config"),
        ("model.lock=[audio]", 'model.lock: wanted "vision" or "text"'),
        ("model.patch_dropout=1", "model.patch_dropout: wanted"),
        ("output=", "output: wanted a folder for the results"),
        ("mesh.fsdp=0", "mesh.fsdp: wanted an integer from 1, or -1 for the rest, found 0"),
        ("mesh.fsdp=-1", "mesh: wanted -1 at most once"),
        ("evaluate.every=5", "evaluate.every: wanted 0 without evaluate.retrieval"),
        ("evaluate.labels=l.txt", "evaluate.labels: wanted evaluate.zero_shot"),
        ("evaluate.templates=[a photo]", "evaluate.templates: wanted sentences with {}"),
        ("loss.anchors.scale=0", "loss.anchors.scale: wanted a number above 0"),
        ("nonsense", "override 'nonsense': wanted dotted.key=value"),
        ("=3", "override '=3': wanted dotted.key=value"),
        ("steps.a=3", "override 'steps.a=3': steps holds no keys but 10"),
        ("optimizer.betas=[0.9", "does not parse as YAML"),
    ],
)
def test_wrong_values_are_named(least, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(least, [override])
    assert repr(override) in str(caught.value) or str(least) in str(caught.value)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["loss.kind=sigmoid", "loss.label_smoothing=0.1"], "loss.label_smoothing: wanted 0 with loss.kind sigmoid"),
        (["loss.mode=ring", "loss.label_smoothing=0.1"], "loss.label_smoothing: wanted 0 with loss.mode ring"),
        (["loss.mode=chunked", "loss.label_smoothing=0.1"], "loss.label_smoothing: wanted 0 with loss.mode chunked"),
        (["backend=tf", "mesh.fsdp=2"], "mesh.fsdp: wanted 1 with backend tf, found 2"),
        (["backend=torch", "mesh.tensor=2"], "mesh.tensor: wanted 1 with backend torch, found 2"),
        (["backend=tf", "mesh.tensor=2"], "mesh.tensor: wanted 1 with backend tf, found 2"),
        (["optimizer.schedule=wsd", "optimizer.warmup=8"], "optimizer.warmup: wanted at most steps 10 less the 3 of"),
    ],
)
def test_what_cannot_go_together(least, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(least, overrides)


def test_flax_may_do_what_others_may_not(least):
    assert load_config(least, ["backend=flax", "mesh.tensor=2", "mesh.fsdp=2", "loss.mode=ring"]).mesh.tensor == 2


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.yaml", "steps: [1", "wanted YAML, found what does not parse"),
        ("a.yaml", "steps: 1\nsteps: 2\n", "the key 'steps' stands twice (line 2)"),
        ("a.yaml", "data:\n  train: a\n  train: b\n", "the key 'train' stands twice"),
        ("a.yaml", "- a\n- b\n", "wanted keys and values, found a list"),
        ("a.yaml", "just a text", "wanted keys and values, found 'just a text'"),
        ("a.yaml", "on: 3", "True: there is no such key"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "does not parse"),
        ("a.yaml", "", "output: wanted a folder for the results"),
        ("a.toml", "steps = ", "wanted TOML, found what does not parse"),
        ("a.toml", "steps = 1\nsteps = 2", "wanted TOML"),
        ("a.txt", "steps: 1", "wanted a file that ends in .yaml, .yml, .toml, .json"),
        ("a.json", "[" * 100_000, "does not parse"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, text, message):
    path = write(tmp_path, text, name)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(path)
    assert name in str(caught.value)


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00steps")
    with pytest.raises(ConfigError, match="b.yaml"):
        load_config(tmp_path / "b.yaml")


def test_what_python_builds_is_checked_alike():
    good = TrainConfig(output="o", steps=3, model=ModelSection(init="emoji"), data=DataSection(train=["a"]))
    checked = validate(good)
    assert checked == good and checked is not good and checked.data is not good.data
    good.optimizer.lr = math.nan
    with pytest.raises(ConfigError, match="TrainConfig: optimizer.lr: wanted a finite number"):
        validate(good)
    good.optimizer = {"lr": 1}
    assert validate(good).optimizer.lr == 1.0
    good.steps = "3"
    with pytest.raises(ConfigError, match="TrainConfig: steps: wanted an integer, found '3'"):
        validate(good)


def test_imagenet_labels_are_no_file(tmp_path, least):
    found = load_config(least, ["evaluate.zero_shot=val", "evaluate.labels=imagenet"])
    assert found.evaluate.labels == "imagenet"
    found = load_config(least, ["evaluate.zero_shot=val", "evaluate.labels=./imagenet"])
    assert found.evaluate.labels.endswith("/imagenet")


def test_to_dict_is_what_a_file_holds(tmp_path):
    import json

    found = load_config(write(tmp_path, YAML), ["loss.anchors={}"])
    path = write(tmp_path, json.dumps(to_dict(found)), "again.json")
    assert load_config(path) == found


KEYS = st.sampled_from(["steps", "output", "data", "train", "optimizer", "lr", "betas", "loss", "x"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(tree=TREES, text=st.text(max_size=30))
def test_no_file_ends_in_another_error(tmp_path_factory, tree, text):
    import yaml

    folder = tmp_path_factory.getbasetemp()
    for content in (yaml.safe_dump(tree), text):
        path = folder / "fuzz.yaml"
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(ConfigError, match="fuzz.yaml"):
            load_config(path)


@pytest.mark.parametrize(
    "written, lock, groups",
    [
        ("vision", ["vision"], {"vision": 0}),
        ("[vision, text]", ["vision", "text"], {"vision": 0, "text": 0}),
        ("{vision: {unlocked_groups: 2}}", {"vision": LockSection(2)}, {"vision": 2}),
        ("{vision: , text: {unlocked_groups: 1}}", {"vision": LockSection(), "text": LockSection(1)},
         {"vision": 0, "text": 1}),
    ],
)  # fmt: skip
def test_locks(tmp_path, least, written, lock, groups):
    import json

    found = load_config(least, [f"model.lock={written}"])
    assert found.model.lock == lock and found.model.unlocked_groups() == groups
    assert load_config(write(tmp_path, json.dumps(to_dict(found)), "b.json")) == found == validate(found)


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.lock={audio: {unlocked_groups: 2}}", 'model.lock: wanted "vision" or "text"'),
        ("model.lock={vision: {unlocked_groups: -1}}", "model.lock.vision.unlocked_groups: wanted an integer from 0"),
        ("model.lock={vision: {unlocked: 1}}", "model.lock.vision.unlocked: there is no such key; did you mean"),
        ("model.lock={vision: 2}", "model.lock.vision: wanted keys and values, found 2"),
        ("loss.logit_bias=-10", "loss.logit_bias: wanted none with loss.kind softmax"),
        ("loss.logit_scale=5", "loss.logit_scale: wanted at most optimizer.max_logit_scale"),
    ],
)
def test_locks_and_beginnings_that_cannot_be(least, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(least, [override])
