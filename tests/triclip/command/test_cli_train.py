"""`triclip train` and `triclip evaluate`, run in this process: output, files, refusals, exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.triclip import fake_engine
from triclip import Clip
from triclip.command import main

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Nine pictures in a table, and in a folder per class."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    lines = ["filename\tcaption\tlabel"]
    for i in range(9):
        name = list(COLOURS)[i % 3]
        pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 25, (50, 50, 3)), 0, 255).astype(np.uint8)
        (folder / "classes" / name).mkdir(parents=True, exist_ok=True)
        for path in (folder / f"{i}.png", folder / "classes" / name / f"{i}.png"):
            Image.fromarray(pixels).save(path)
        lines.append(f"{i}.png\ta {name} square {i}\t{name}")
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def recipe(pairs, tmp_path, monkeypatch):
    fake_engine.install(monkeypatch)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"output: run\nsteps: 6\nmodel: {{init: emoji}}\ndata: {{train: {pairs}/pairs.tsv, batch_size: 3}}\n"
        "optimizer: {lr: 1e-3}\nlog: {every: 2, tensorboard: false}\n"
    )
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def failing(capsys, *arguments):
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


def test_train_then_use_the_model(recipe, tmp_path, capsys):
    assert run("train", "--config", recipe, "optimizer.lr=1e-2", "ema=0.5") == 0
    out, err = capsys.readouterr()
    model = tmp_path / "run" / "model"
    assert out.startswith("step 6 of 6, ") and out.endswith(f"model: {model}\n")
    assert [line.split(" | ")[0] for line in err.splitlines()] == ["step 2/6", "step 4/6", "step 6/6"]
    assert Clip.from_pretrained(model).encode_text(["a red square"]).shape == (1, 192)
    assert run("train", "--config", recipe, "optimizer.lr=1e-2", "ema=0.5", "--export", tmp_path / "copy") == 0
    assert capsys.readouterr().out == f"step 6 -> {tmp_path / 'copy'}\n"
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_mistakes_in_a_recipe_are_one_line(recipe, tmp_path, capsys):
    assert "optimizer.lrr: there is no such key" in failing(capsys, "train", "--config", recipe, "optimizer.lrr=3")
    assert "nothing.yaml" in failing(capsys, "train", "--config", tmp_path / "nothing.yaml")
    assert "no-data.tar" in failing(capsys, "train", "--config", recipe, "data.train=no-data.tar")
    assert "'nope'" in failing(capsys, "train", "--config", recipe, "data.caption_key=nope")
    assert "checkpoints" in failing(capsys, "train", "--config", recipe, "--export", tmp_path / "copy")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "file" in failing(capsys, "train", "--config", recipe, f"output={blocked}")


def test_evaluate_prints_figures_and_json(pairs, tmp_path, capsys):
    table = pairs / "pairs.tsv"
    arguments = ["evaluate", "--retrieval", table, "--zero-shot", table, "--templates", "a {} square", "the {}"]
    assert run(*arguments, "--json", tmp_path / "figures.json") == 0
    out = capsys.readouterr().out
    assert "retrieval: 9 pictures, 9 texts" in out and "zero-shot: 9 pictures, 3 classes" in out
    assert run(*arguments, "--json", "--batch-size", 2) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "figures.json").read_text())
    clip = Clip.from_pretrained()
    pictures = [pairs / f"{i}.png" for i in range(9)]
    labels = sorted(COLOURS)
    best = clip.classify(pictures, labels, ["a {} square", "the {}"]).best
    assert found["zero_shot"]["top1"] == np.mean([name == list(COLOURS)[i % 3] for i, name in enumerate(best)])
    texts = [f"a {list(COLOURS)[i % 3]} square {i}" for i in range(9)]
    scores = clip.similarity(pictures, texts)
    ranks = (scores >= np.diag(scores)[:, None]).sum(1)
    assert found["retrieval"]["image_to_text"]["R@1"] == pytest.approx((ranks == 1).mean())
    assert found["retrieval"]["image_to_text"]["MRR"] == pytest.approx((1 / ranks).mean())


@pytest.mark.parametrize("backend", ["torch", "tf", "flax"])
def test_shared_captions_and_broken_pictures_in_batches_of_one(pairs, tmp_path, capsys, backend):
    for i in (0, 1, 3):
        (tmp_path / f"{i}.png").write_bytes((pairs / f"{i}.png").read_bytes())
    (tmp_path / "2.png").write_text("broken")
    names = ["a red square", "a green square", "a blue square", "a red square"]
    rows = "".join(f'{{"image": "{i}.png", "caption": "{name}"}}\n' for i, name in enumerate(names))
    (tmp_path / "shared.jsonl").write_text(rows)
    arguments = ["evaluate", "--retrieval", tmp_path / "shared.jsonl", "--backend", backend, "--json", "--batch-size"]
    reports = []
    for size in (1, 4):
        assert run(*arguments, size) == 0
        reports.append(json.loads(capsys.readouterr().out)["retrieval"])
    assert reports[0] == reports[1] and reports[0]["skipped"] == 1 and reports[0]["texts"] == 3
    assert reports[0]["text_to_image"]["R@1"] == 1  # either of the red pictures is right for either of their captions


def test_evaluate_a_folder_per_class_with_a_file_of_labels(pairs, tmp_path, capsys):
    classes = pairs / "classes"
    assert run("evaluate", "--zero-shot", classes, "--json") == 0
    found = json.loads(capsys.readouterr().out)["zero_shot"]
    assert found["images"] == 9 and found["classes"] == 3
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\nmauve\n")
    assert run("evaluate", "--zero-shot", classes, "--labels", tmp_path / "labels.txt", "--json") == 0
    again = json.loads(capsys.readouterr().out)["zero_shot"]
    assert again["classes"] == 4 and again["top1"] <= found["top1"]  # classes are told by name, not by the order
    (tmp_path / "labels.txt").write_text("BLUE\nGREEN\nRED\n")  # other names, in the folders' order
    assert run("evaluate", "--zero-shot", classes, "--labels", tmp_path / "labels.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out)["zero_shot"]["top1"] == found["top1"]
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    assert "'blue'" in failing(capsys, "evaluate", "--zero-shot", classes, "--labels", tmp_path / "labels.txt")


def test_what_evaluate_refuses(pairs, tmp_path, capsys):
    assert "--retrieval PATH or --zero-shot PATH" in failing(capsys, "evaluate")
    (tmp_path / "labels.txt").write_text("red\n\nred\n")
    wrong = ["evaluate", "--labels", tmp_path / "labels.txt"]
    assert "line 2: wanted a label" in failing(capsys, *wrong, "--zero-shot", pairs / "classes")
    assert "--zero-shot" in failing(capsys, *wrong, "--retrieval", pairs / "pairs.tsv")
    assert "none.tar" in failing(capsys, "evaluate", "--retrieval", tmp_path / "none.tar")
    assert "'no braces'" in failing(capsys, "evaluate", "--zero-shot", pairs / "classes", "--template", "no braces")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and f"usage: triclip {command}" in capsys.readouterr().out.lower()


def test_the_loop_imports_no_framework():
    code = (
        "import sys, triclip.train.loop, triclip.train.load;"
        "names = ('torch', 'tensorflow', 'keras', 'jax', 'flax', 'grain', 'yaml', 'matplotlib', 'tensorboardX');"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_import_load_none_of_this():
    code = (
        "import sys, clip_core, triclip.command; triclip.command.build_parser();"
        "print([m for m in sys.modules if m.split('.')[0] in ('yaml', 'grain', 'matplotlib', 'numpy')"
        " or m.startswith('triclip.train.') and m != 'triclip.command.train'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
