"""Saving is all or nothing: hundreds of kills, failures half-way, readers in the middle of a commit."""

import ast
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import clip_core
from clip_core import CLIPTextConfig, files
from clip_core.checkpoint import CheckpointError, convert, load, save
from clip_core.checkpoint.tensor import Tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
CORE = Path(clip_core.__file__).parent
TOOLS = (
    "bulk",
    "index",
    "serve",
    "conform",
    "viz",
    "train",
    "data",
    "demo.py",
    "cli.py",
)  # on their way out of the core
UMASK = os.umask(0o022)
os.umask(UMASK)
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
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
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
    (folder / files.JOURNAL).write_text(
        json.dumps({"stage": stage.name, "moved": ["config.json", "model.safetensors"], "removed": removed})
    )
    os.replace(stage / "config.json", folder / "config.json")  # killed after the first of its steps
    assert first(folder) == 2.0
    files.finish(folder)
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
    (tmp_path / files.JOURNAL).write_text(journal)
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


# --- threads and processes -------------------------------------------------------------------------------------------


def save_often(folder, value, count):
    for _ in range(count):
        save(folder, *model(value))


def test_threads_write_one_config(tmp_path):
    configs = [CLIPTextConfig(projection_dim=number) for number in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(configs[i % 4].save_pretrained, tmp_path) for i in range(160)]:
            done.result()
    assert CLIPTextConfig.from_pretrained(tmp_path).projection_dim in range(1, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("obstacle", ["none", "folder inside"])
def test_threads_write_one_folder(obstacle, tmp_path):
    (tmp_path / "x" / "logs").mkdir(parents=True) if obstacle == "folder inside" else None
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(save_often, tmp_path / "x", float(value), 10) for value in range(1, 5)]:
            done.result()
    values = {float(t.numpy().flat[0]) for t in load(tmp_path / "x").tensors.values()}
    assert len(values) == 1 and values <= {1.0, 2.0, 3.0, 4.0}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert not [p for p in (tmp_path / "x").iterdir() if p.name.startswith(".")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_write_one_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    saves = [context.Process(target=save_often, args=(tmp_path / "x", float(value), 10)) for value in range(1, 4)]
    for process in saves:
        process.start()
    for process in saves:
        process.join()
    assert [process.exitcode for process in saves] == [0, 0, 0]
    assert len({float(t.numpy().flat[0]) for t in load(tmp_path / "x").tensors.values()}) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_save_inside_a_save(tmp_path):
    with files.replace_folder(tmp_path / "x") as outer:
        files.write_text(outer.path / "note.txt", "a")
        save(outer.path, *model(1.0))
        save(outer.path / "inner", *model(2.0))
        save(outer.path, *model(3.0))
        outside = threading.Thread(target=files.write_text, args=(tmp_path / "x.txt", "b"))
        outside.start()
        outside.join()
    assert (first(tmp_path / "x"), first(tmp_path / "x" / "inner")) == (3.0, 2.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.txt"]


# --- other systems ---------------------------------------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch):
    """Renames onto files that are held open fail, folders can't be locked or exchanged, as on Windows."""
    replace, held, calls = os.replace, {}, []

    def replacing(source, target):
        calls.append(Path(target).name)
        if held.get(Path(target).name, 0) > 0:
            held[Path(target).name] -= 1
            raise PermissionError(13, "Access is denied", str(source), 5, str(target))
        replace(source, target)

    monkeypatch.setattr("os.replace", replacing)
    monkeypatch.setattr(files, "_can_exchange", lambda target, keep: False)
    monkeypatch.setattr(files, "_lock", lambda path, wait=True: None)
    monkeypatch.setattr(files, "_WAITS", (0.0,) * 4)
    return held


@pytest.mark.parametrize("busy", [0, 3])
def test_a_file_that_is_open_for_a_moment(busy, windows, tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    windows["a.txt"] = busy
    files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    save(tmp_path / "x", *model(1.0))
    windows["model.safetensors"] = busy
    save(tmp_path / "x", *model(2.0))
    assert first(tmp_path / "x") == 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "x"]


def test_a_file_that_stays_open(windows, tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    windows["a.txt"] = 10**6
    with pytest.raises(PermissionError, match="a program has it open.*Close it there and save again.*a.txt"):
        files.write_text(tmp_path / "a.txt", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]
    save(tmp_path / "x", *model(1.0))
    windows["model.safetensors"] = 10**6
    with pytest.raises(PermissionError, match="model.safetensors"):
        save(tmp_path / "x", *model(2.0))
    assert first(tmp_path / "x") == 2.0  # committed: our readers have the new one, whole
    windows.clear()
    save(tmp_path / "x", *model(3.0))
    assert first(tmp_path / "x") == 3.0
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["config.json", "model.safetensors"]


def test_lines_end_alike_on_every_system():
    """A text file that Python opens for writing ends its lines as the system does, unless it is told otherwise."""
    wrong = []
    for path in sorted(CORE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and writes_text(node) and "newline" not in {k.arg for k in node.keywords}:
                wrong.append(f"{path.relative_to(CORE)}:{node.lineno}")
    assert not wrong


def writes_text(call):
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if isinstance(call.func, ast.Attribute) and name in ("write_text", "open"):
        return name == "write_text" and getattr(call.func.value, "id", "") != "files"
    mode = next((a.value for a in call.args if isinstance(a, ast.Constant) and a.value in ("w", "a", "x")), None)
    return name in ("open", "fdopen") and mode is not None


# --- folders with folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [False, True])
def test_nothing_of_the_old_folder_stays_where_that_is_asked(journal, tmp_path, monkeypatch):
    target = tmp_path / "x"
    (target / "inner").mkdir(parents=True)
    (target / "inner" / "a").write_text("old")
    (target / "b").write_text("old")
    if journal:
        monkeypatch.setattr(files, "_can_exchange", lambda target, keep: False)
    with files.replace_folder(target, keep=False) as stage:
        (stage.path / "inner").mkdir()
        (stage.path / "inner" / "c").write_text("new")
    assert {str(p.relative_to(target)) for p in target.rglob("*")} == {"inner", os.path.join("inner", "c")}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_in_a_folder_is_replaced(tmp_path):
    for text in ("old", "new"):
        with files.replace_folder(tmp_path / "x") as stage:
            (stage.path / "inner").mkdir()
            (stage.path / "inner" / text).write_text(text)
    assert [p.name for p in (tmp_path / "x").rglob("*")] == ["inner", "new"]


def test_permissions_and_links(tmp_path):
    files.write_text(tmp_path / "a", "1")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~UMASK
    (tmp_path / "a").chmod(0o640)
    (tmp_path / "link").symlink_to("a")
    files.write_text(tmp_path / "link", "2\n")
    assert (tmp_path / "a").read_bytes() == b"2\n" and (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
