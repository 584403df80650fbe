"""`--plot FILE` of every command: writes the figure, and refuses impossible files before the work."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_core.hub import MODELS
from triclip import Clip, viz
from triclip.command import main
from triclip.explain import explain

pytest.importorskip("matplotlib", reason="extra `viz`")
PICTURES = MODELS / "emoji" / "pictures"


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def saved(monkeypatch):
    """The figures that were saved."""
    figures = []
    real = viz.save

    def save(figure, path):
        figures.append(figure)
        return real(figure, path)

    monkeypatch.setattr(viz, "save", save)
    return figures


def words_of(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_classify(tmp_path, capsys, saved):
    picture = PICTURES / "rocket.png"
    assert run("classify", picture, "--labels", "rocket", "pizza", "--json", "--plot", tmp_path / "a.png") == 0
    found = json.loads(capsys.readouterr().out)[0]["labels"]
    assert Image.open(tmp_path / "a.png").size[0] > 500
    words = words_of(saved[0])
    assert {"rocket", "pizza"} <= set(words)
    assert f"{found[0]['probability']:.1%}" in words


def test_classify_as_a_grid_of_cosines(tmp_path, capsys, saved):
    pictures = [PICTURES / "rocket.png", PICTURES / "lion.png"]
    labels = ["rocket", "pizza", "lion"]
    arguments = ["--labels", *labels, "--template", "an image of {}", "--plot-grid"]
    assert run("classify", *pictures, *arguments, "--plot", tmp_path / "a.pdf") == 0
    clip = Clip.from_pretrained("emoji")
    wanted = clip.similarity(pictures, [f"an image of {label}" for label in labels])
    np.testing.assert_allclose(saved[0].axes[0].images[0].get_array(), wanted.T, atol=1e-5)
    assert {*labels, "cosine similarity"} <= set(words_of(saved[0]))
    assert run("classify", *pictures, *arguments) == 1
    assert "wanted --plot FILE with --plot-grid" in capsys.readouterr().err


def test_evaluate(tmp_path, capsys, saved):
    for name, kind in (("pizza", "food"), ("birthday-cake", "food"), ("lion", "animal"), ("octopus", "animal")):
        (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(PICTURES / f"{name}.png", tmp_path / "data" / kind)
    arguments = ["--zero-shot", tmp_path / "data", "--json", "--plot"]
    assert run("evaluate", *arguments, tmp_path / "a.png") == 0
    found = json.loads(capsys.readouterr().out)["zero_shot"]
    cells = np.asarray(saved[0].axes[0].images[0].get_array())
    assert cells.shape == (2, 2) and cells.sum(1).tolist() == [100, 100]
    assert np.trace(cells) / 200 == pytest.approx(found["mean_per_class"])
    assert {"food", "animal", "true", "predicted", f"emoji: top-1 {found['top1']:.1%}"} <= set(words_of(saved[0]))
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"image": str(PICTURES / f"{name}.png"), "caption": f"a {name}"} for name in ("lion", "pizza", "rocket")]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("evaluate", "--retrieval", pairs, "--plot", tmp_path / "b.svg") == 0
    assert {"R@1", "MRR", "image to text", "text to image"} <= set(words_of(saved[1]))
    both = ["--retrieval", pairs, "--zero-shot", tmp_path / "data", "--plot", tmp_path / "c.png"]
    assert run("evaluate", *both) == 1
    assert "--plot draws one figure" in capsys.readouterr().err


def test_explain(tmp_path, capsys, saved):
    arguments = [PICTURES / "rocket.png", "this is a rocket", "--plot", tmp_path / "a.png"]
    assert run("explain", *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    wanted = explain(Clip.from_pretrained("emoji"), *arguments[:2])
    assert found["similarity"] == pytest.approx(wanted.similarity, abs=1e-5)
    assert [one["word"] for one in found["words"]] == ["this", "is", "a", "rocket"]
    np.testing.assert_allclose([one["score"] for one in found["words"]], wanted.word_scores, atol=1e-5)
    np.testing.assert_allclose(found["patches"], wanted.patches, atol=1e-5)
    assert {"this", "rocket", "relevance"} <= set(words_of(saved[0]))
    assert run("explain", *arguments[:2], "--method", "rollout", "--first-layer", "-1") == 0
    assert "rollout of the words" in capsys.readouterr().out


def test_embed_and_search(tmp_path, capsys, saved):
    index = tmp_path / "a.index"
    assert run("embed", PICTURES, "--output", index, "--plot", tmp_path / "map.svg") == 0
    assert "<svg" in (tmp_path / "map.svg").read_text()
    assert "sunflower" in words_of(saved[0])
    capsys.readouterr()
    arguments = ["a pizza", "--term", "-0.5", "snow", "--top", 3, "--json", "--plot", tmp_path / "b.pdf"]
    assert run("search", index, *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    words = words_of(saved[1])
    assert [f"{one['similarity']:.3f}" for one in found] == [word for word in words if word[-4:-3] == "."]
    assert any("a pizza" in word and "− 0.5 × snow" in word.replace("\n", " ") for word in words)
    assert run("search", index, PICTURES / "lion.png", "--plot", tmp_path / "c.png") == 0
    assert len(saved[2].findobj(lambda artist: type(artist).__name__ == "AxesImage")) == 6  # query and five found


def test_conform(tmp_path, capsys, saved, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["triclip", "conform"])
    arguments = ["--backends", "torch,torch", "--plot", tmp_path / "a.svg", "--save", tmp_path / "reference.npz"]
    assert run("conform", "emoji", *arguments) == 0
    arguments = ["--backends", "torch", "--reference", tmp_path / "reference.npz", "--plot", tmp_path / "a.svg"]
    assert run("conform", "emoji", *arguments) == 0
    words = words_of(saved[0])
    assert {"vision tower", "text tower", "hidden 4", "logits_per_image"} <= set(words)


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("triclip.pipeline.Clip.from_pretrained", None)
    assert run("classify", PICTURES, "--labels", "a", "--plot", tmp_path / "a.gif") == 1
    assert "a.gif: wanted a name ending in .pdf, .png, .svg" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("embed", PICTURES, "-o", tmp_path / "a.npz", "--plot", Path(tmp_path, "a.png")) == 1
    assert "triclip[viz]" in capsys.readouterr().err


def test_a_map_to_zoom(tmp_path):
    """Of more than thirty pictures: in groups that have names."""
    for number in range(34):
        Image.new("RGB", (20, 20), (7 * number, 255 - 7 * number, 40 * (number % 6))).save(tmp_path / f"{number}.png")
    assert run("embed", tmp_path, "-o", tmp_path / "x.index", "--plot", tmp_path / "map.html") == 0
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert text.count('"picture": "') == 34 and text.count('"group": "') == 34
