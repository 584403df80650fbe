"""The command line, run in this process on the embedded model and on pictures made here."""

import io
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

import clip_core
from triclip.command import main
from triclip.search import Index, open_index

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}


@pytest.fixture
def pictures(tmp_path):
    """A folder of three good pictures and two files that only look like pictures."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (60, 50), colour).save(folder / f"{name}.png")
    (folder / "green.png").rename(folder / "sub" / "green.png")
    (folder / "text.jpg").write_text("this is a text file")
    (folder / "half.png").write_bytes((folder / "red.png").read_bytes()[:60])
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_classify_prints_json_and_reports_what_it_skips(pictures, capsys):
    assert run("classify", pictures, "--labels", "a red square", "a cat", "blue", "--json", "--top", 2) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [Path(entry["image"]).name for entry in found] == ["blue.png", "red.png", "green.png"]
    for entry in found:
        probabilities = [label["probability"] for label in entry["labels"]]
        assert len(probabilities) == 2 and probabilities == sorted(probabilities, reverse=True)
    assert "skipped" in err and "text.jpg" in err and "half.png" in err


def test_classify_table_templates_and_label_files(pictures, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("a dog\n\n  a car \n", encoding="utf-8")
    one = pictures / "red.png"
    assert run("classify", one, "--labels-file", tmp_path / "labels.txt", "--template", "a drawing of {}") == 0
    out = capsys.readouterr().out
    assert "a dog" in out and "a car" in out and str(one) in out and "%" in out


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
def test_embed_then_search_by_words_and_by_picture(pictures, tmp_path, capsys, suffix):
    output = tmp_path / f"vectors{suffix}"
    assert run("embed", pictures, "--output", output, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["count"] == 3 and len(report["skipped"]) == 2
    index = open_index(output)
    assert index.model == "emoji" and index.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-5)
    assert run("search", output, pictures / "blue.png", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found[0]["name"]).name == "blue.png" and found[0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert run("search", output, "a red thing", "--top", 2) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_embed_texts(tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("one cat\ntwo dogs\n", encoding="utf-8")
    assert run("embed", "--texts", tmp_path / "lines.txt", "--output", tmp_path / "t.npz") == 0
    assert open_index(tmp_path / "t.npz").names == ["one cat", "two dogs"]


def test_inspect_the_embedded_model(capsys):
    assert run("inspect", "emoji", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    text = json.dumps(facts)
    assert "float16" in text and "text_config" in text
    assert run("inspect", "emoji") == 0
    assert "float16" in capsys.readouterr().out


def test_inspect_the_machine(capsys, monkeypatch):
    monkeypatch.setenv("TRICLIP_SHORT_CUTS", "linear=plain")
    assert run("inspect", "--machine") == 0
    found = capsys.readouterr().out
    assert "threads" in found and "linear       plain: set by TRICLIP_SHORT_CUTS" in found
    assert "pixels" in found and "pixels       decided at" not in found
    assert run("inspect", "--machine", "--json") == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert {step["way"] for step in steps.values()} <= {"fast", "plain"} and steps["linear"]["way"] == "plain"
    assert "--machine" in failing(capsys, "inspect")
    assert "found both" in failing(capsys, "inspect", "emoji", "--machine")
    monkeypatch.setenv("TRICLIP_SHORT_CUTS", "everything")
    assert "TRICLIP_SHORT_CUTS: wanted" in failing(capsys, "inspect", "--machine")


def failing(capsys, *arguments):
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("triclip: ") and "Traceback" not in err
    return err


def test_errors_are_one_line_that_names_the_cause(pictures, tmp_path, capsys):
    assert "/no/such" in failing(capsys, "classify", "/no/such", "--labels", "a")
    assert "text.jpg" in failing(capsys, "classify", pictures / "text.jpg", "--labels", "a")
    assert ".npz" in failing(capsys, "embed", pictures, "--output", tmp_path / "out.xyz")
    assert "absent" in failing(capsys, "embed", pictures, "--output", tmp_path / "absent" / "out.npz")
    assert "pictures or --texts" in failing(capsys, "embed", "--output", tmp_path / "out.npz")
    assert "no such index" in failing(capsys, "search", tmp_path / "none.npz", "cat")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    assert "bad.npz" in failing(capsys, "search", tmp_path / "bad.npz", "cat")
    assert "no-such-model-folder/x/y" in failing(capsys, "inspect", "no-such-model-folder/x/y")
    (tmp_path / "empty").mkdir()
    assert "empty" in failing(capsys, "classify", tmp_path / "empty", "--labels", "a")
    assert "empty" in failing(capsys, "classify", pictures, "--labels", "a", "--model", tmp_path / "empty")
    (tmp_path / "blank.txt").write_text("\n\n")
    assert "blank.txt" in failing(capsys, "classify", pictures, "--labels-file", tmp_path / "blank.txt")


def test_a_search_with_another_models_index_says_so(tmp_path, capsys):
    Index(np.eye(3, dtype=np.float32), ["a", "b", "c"], "emoji").save(tmp_path / "other.npz")
    assert "'emoji'" in failing(capsys, "search", tmp_path / "other.npz", "cat")


def test_wrong_usage_exits_with_2(capsys):
    for arguments in (["classify"], ["nonsense"], ["classify", "x", "--labels", "a", "--top", "0"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    capsys.readouterr()


COMMANDS = ("classify", "explain", "embed", "index", "search", "inspect", "convert", "conform", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and f"usage: triclip {command}" in capsys.readouterr().out.lower()


def test_the_version_names_what_a_bug_report_needs():
    done = subprocess.run([sys.executable, "-m", "triclip", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"triclip {clip_core.__version__}" and lines[1].startswith(f"Python {platform.python_version()}")
    assert {f"numpy {np.__version__}", f"pillow {PIL.__version__}"} <= set(lines)
    assert not any("None" in line for line in lines)


def test_the_demo_draws_its_grid(tmp_path, capsys):
    assert run("demo", "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    png = next((tmp_path / "out").glob("*.png"))
    assert str(png) in out
    assert min(Image.open(io.BytesIO(png.read_bytes())).size) > 200
