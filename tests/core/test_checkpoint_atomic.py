"""Saving is all or nothing: hundreds of kills, failures half-way, readers in the middle of a commit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clip_core.checkpoint import CheckpointError, atomic, convert, load, save
from clip_core.checkpoint.tensor import Tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
KILLS = Path(__file__).parent / "hostile" / "kills.py"


MODES = ["exchange", "journal", "new", "file", "convert"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are delivered to forked processes")
@pytest.mark.parametrize("count", [0, 20], ids=["before every operation", "at random moments"])
@pytest.mark.parametrize("mode", MODES)
def test_a_kill_leaves_the_old_or_the_new_checkpoint(mode, count, tmp_path):
    command = [sys.executable, KILLS, mode, str(count), tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    kills = int(result.stdout.split()[1])
    assert kills == count if count else kills >= 15, result.stdout


def model(value):
    read = load(GOLDEN / "hf-text-projection")
    return {n: Tensor.from_numpy(np.full(t.shape, value, "f4")) for n, t in read.tensors.items()}, read.config


def first(folder):
    return load(folder).tensors["text_projection.weight"].numpy().flat[0]


def listing(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def broken():
    raise RuntimeError("the disk is full")


@pytest.mark.parametrize("to", ["hf", "hf-bin", "tf", "flax", "openai"])
def test_a_failure_half_way_changes_nothing(to, tmp_path):
    tensors, config = model(1.0)
    save(tmp_path / "x", tensors, config, to=to)
    before = listing(tmp_path / "x")
    tensors["text_model.final_layer_norm.bias"] = Tensor("float32", (16,), broken)
    with pytest.raises(RuntimeError):
        save(tmp_path / "x", tensors, config, to=to)
    assert listing(tmp_path / "x") == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_other_files_stay_and_surplus_shards_go(tmp_path):
    tensors, config = model(1.0)
    save(tmp_path / "x", tensors, config, shard_size="5KB")
    (tmp_path / "x" / "README.md").write_text("mine")
    (tmp_path / "x" / "link").symlink_to("README.md")
    inode = (tmp_path / "x" / "README.md").stat().st_ino
    save(tmp_path / "x", model(2.0)[0], config)
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == [
        "README.md",
        "config.json",
        "link",
        "model.safetensors",
    ]
    assert (tmp_path / "x" / "README.md").stat().st_ino == inode
    assert first(tmp_path / "x") == 2.0


def test_pytorch_model_bin_replaces_safetensors(tmp_path):
    save(tmp_path, model(1.0)[0], model(1.0)[1])
    save(tmp_path, *model(2.0), to="hf-bin")
    assert first(tmp_path) == 2.0  # the older model.safetensors would be preferred


@pytest.mark.parametrize("obstacle", ["folder inside", "working directory", "no exchange"])
def test_the_journal_is_used_where_folders_cannot_be_exchanged(obstacle, tmp_path, monkeypatch):
    folder = tmp_path / "x"
    tensors, config = model(1.0)
    save(folder, tensors, config, shard_size="5KB")
    if obstacle == "folder inside":
        (folder / "logs").mkdir()
    elif obstacle == "working directory":
        monkeypatch.chdir(folder)
    else:
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    inode = folder.stat().st_ino
    save(folder, model(2.0)[0], config)
    assert folder.stat().st_ino == inode
    assert first(folder) == 2.0
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["config.json", "model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_interrupted_commit_reads_as_the_new_one_and_is_finished_by_the_next_save(tmp_path):
    folder = tmp_path / "x"
    save(folder, model(1.0)[0], model(1.0)[1], shard_size="5KB")
    save(tmp_path / "new", model(2.0)[0], model(2.0)[1])
    stage = folder / ".triclip-123456"
    (tmp_path / "new").rename(stage)
    removed = [p.name for p in folder.glob("model*")]
    (folder / atomic.JOURNAL).write_text(
        json.dumps({"stage": stage.name, "moved": ["config.json", "model.safetensors"], "removed": removed})
    )
    os.replace(stage / "config.json", folder / "config.json")  # killed after the first of its steps
    assert first(folder) == 2.0
    atomic.finish(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert first(folder) == 2.0


@pytest.mark.parametrize(
    "journal",
    [
        "{",
        "[]",
        '{"stage": "../..", "moved": [], "removed": []}',
        '{"stage": ".triclip-1", "moved": ["../../etc/passwd"], "removed": []}',
        '{"stage": ".triclip-1", "moved": [], "removed": ["/etc/passwd"]}',
        '{"stage": ".triclip-1", "moved": [], "removed": [3]}',
        '{"stage": "models", "moved": ["a"], "removed": []}',
    ],
)
def test_a_bad_journal_is_refused(journal, tmp_path):
    save(tmp_path, model(1.0)[0], model(1.0)[1])
    (tmp_path / atomic.JOURNAL).write_text(journal)
    for act in (load, lambda folder: save(folder, *model(2.0))):
        with pytest.raises(CheckpointError, match="journal"):
            act(tmp_path)


def test_a_checkpoint_can_be_converted_onto_itself(tmp_path):
    save(tmp_path / "x", model(1.5)[0], model(1.5)[1])
    old = load(tmp_path / "x")
    convert(tmp_path / "x", tmp_path / "x", dtype="float16")
    assert load(tmp_path / "x").tensors["text_projection.weight"].dtype == "float16"
    # what was opened before still gives the old numbers: the file is held, not its name
    assert old.tensors["text_projection.weight"].numpy().dtype == np.float32


def test_a_file_where_a_folder_is_wanted(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match="a folder was wanted"):
        save(tmp_path / "x", *model(1.0))
