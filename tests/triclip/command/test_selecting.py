"""`triclip duplicates` and `triclip filter`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_core.errors import InputError
from clip_core.hub import MODELS
from tests.triclip.command.command import failing, run
from triclip.search import Index
from triclip.search import duplicates as module
from triclip.search.duplicates import near_duplicates

PICTURES = MODELS / "emoji" / "pictures"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """photos/ of three pictures, a smaller copy and a JPEG of one, and its index."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("lion", "pizza", "rocket"):
        shutil.copy(PICTURES / f"{name}.png", tmp_path / "photos")
    picture = Image.open(PICTURES / "lion.png").convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    picture.save(tmp_path / "photos" / "sub" / "lion.jpg", quality=60)
    monkeypatch.chdir(tmp_path)
    assert run("embed", "photos") == 0
    return tmp_path


def test_groups_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 7)
    random = np.random.default_rng(0)
    base = random.normal(size=(12, 16))
    vectors = np.concatenate([base, base[[3, 5, 3]] + 0.01 * random.normal(size=(3, 16)), base[[5]]])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = Index(vectors, [str(row) for row in range(16)], "emoji")
    assert near_duplicates(index) == [[3, 12, 14], [5, 13, 15]]
    assert near_duplicates(index, 0.999999) == [[5, 15]]
    with pytest.raises(InputError, match="threshold"):
        near_duplicates(index, 1.5)


def test_duplicates_of_a_folder(here, capsys):
    capsys.readouterr()
    assert run("duplicates", "photos", "--threshold", 0.95, "--json") == 0
    groups = json.loads(capsys.readouterr().out)
    assert len(groups) == 1 and set(groups[0]) == {"photos/lion.png", "photos/sub/lion.jpg"}
    assert Path(groups[0][0]).stat().st_size >= Path(groups[0][1]).stat().st_size
    assert run("duplicates", "photos", "--threshold", 0.95, "-f") == 0
    assert capsys.readouterr().out == f"{groups[0][1]}\n"
    assert run("duplicates", "photos", "--threshold", 0.95) == 0
    assert "1 groups, 1 pictures more than one of each" in capsys.readouterr().out


def test_filter_lists_copies_and_links(here, capsys):
    capsys.readouterr()
    assert run("filter", "photos", "photos/lion.png", "--above", 0.9) == 0
    assert set(capsys.readouterr().out.split()) == {
        str(here / "photos" / name) for name in ("lion.png", "sub/lion.jpg")
    }
    for _ in range(2):  # again, nothing is written over
        assert run("filter", "photos", "photos/lion.png", "--top", 2, "--copy", "out") == 0
    assert capsys.readouterr().out == "2 pictures -> out\n" * 2
    assert Path("out/sub/lion.jpg").read_bytes() == Path("photos/sub/lion.jpg").read_bytes()
    Path("out/lion.png").write_bytes(b"mine")
    said = failing(capsys, "filter", "photos", "photos/lion.png", "--top", 1, "--copy", "out")
    assert "is another file" in said and Path("out/lion.png").read_bytes() == b"mine"
    assert run("filter", "photos", "a pizza", "--top", 1, "--link", "links") == 0
    assert Path("links/pizza.png").is_symlink() and Path("links/pizza.png").samefile("photos/pizza.png")
    capsys.readouterr()
    assert "wanted --above X or --top K" in failing(capsys, "filter", "photos", "a pizza")
