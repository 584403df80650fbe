"""`triclip embed`, `index` and `search` from end to end with the embedded model."""

import json
from pathlib import Path

import numpy as np
import pytest

from clip_core.hub import MODELS
from tests.triclip.command.command import failing, run
from triclip import Clip
from triclip.search import FolderIndex, Index

PICTURES = MODELS / "emoji" / "pictures"


@pytest.fixture(scope="module")
def clip():
    return Clip.from_pretrained("emoji")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The emoji as an index, a second source with metadata beside it."""
    folder = tmp_path_factory.mktemp("index")
    assert run("embed", PICTURES, "--output", folder / "all.index") == 0
    index = Index.load(folder / "all.index")
    names = index.names
    metadata = {"shelf": ["upper" if i % 2 else "lower" for i in range(len(names))], "place": list(range(len(names)))}
    Index(index.vectors, names, "emoji", metadata).save(folder / "described.parquet")
    return folder


def search(capsys, *arguments):
    capsys.readouterr()
    assert run("search", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def stems(found):
    return [Path(one["name"]).stem for one in found]


def test_words_and_pictures_and_both(built, clip, capsys):
    index = built / "all.index"
    assert stems(search(capsys, index, "a rocket"))[0] == "rocket"
    assert stems(search(capsys, index, "--image", PICTURES / "pizza.png"))[0] == "pizza"
    found = search(capsys, index, "--text", "a lion", "--image", PICTURES / "pizza.png", "--top", 16)
    query = clip.encode_text("a lion")[0] + clip.encode_image(PICTURES / "pizza.png")[0]
    vectors = {path.stem: clip.encode_image(path)[0] for path in PICTURES.glob("*.png")}
    for one in found:
        wanted = vectors[Path(one["name"]).stem] @ query / np.linalg.norm(query)
        assert one["similarity"] == pytest.approx(wanted, abs=1e-5)


def test_what_is_not_wanted_falls(built, capsys):
    index = built / "all.index"
    plain = stems(search(capsys, index, "an animal", "--top", 16))
    without = stems(search(capsys, index, "an animal", "--term", "-0.8", "a lion", "--top", 16))
    assert without.index("lion") > plain.index("lion")
    assert stems(search(capsys, index, "--term", 2, PICTURES / "lion.png", "--term", 0.1, "pizza"))[0] == "lion"


def test_a_file_of_the_name_of_the_words(built, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rocket").write_text("no picture")
    assert stems(search(capsys, built / "all.index", "--text", "rocket"))[0] == "rocket"
    assert "rocket" in failing(capsys, "search", built / "all.index", "rocket")


def test_filters(built, capsys):
    source = built / "described.parquet"
    found = search(capsys, source, "an animal", "--filter", "shelf=upper", "--filter", "place<9", "--top", 99)
    assert sorted(one["metadata"]["place"] for one in found) == [1, 3, 5, 7]
    assert {one["metadata"]["shelf"] for one in found} == {"upper"}
    found = search(capsys, built / "all.index", "an animal", "--filter", "name~*hot-*", "--top", 99)
    assert sorted(stems(found)) == ["hot-beverage", "hot-pepper"] and "metadata" not in found[0]
    assert search(capsys, source, "an animal", "--filter", "place>99") == []
    assert "no column 'colour'" in failing(capsys, "search", source, "x", "--filter", "colour=red")
    assert "COLUMN OPERATOR VALUE" in failing(capsys, "search", source, "x", "--filter", "shelf")


def test_build_append_and_measure(built, tmp_path, capsys):
    pytest.importorskip("faiss", reason="extra `search`")
    source, target = built / "described.parquet", tmp_path / "both.index"
    assert run("index", source, source, "--output", target, "--dtype", "float16", "--index-type", "hnsw", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    count = len(list(PICTURES.glob("*.png")))
    assert report["count"] == 2 * count and report["recall@10"] == 1.0 and report["queries"] == 2 * count
    assert run("index", source, "--output", target, "--append") == 0
    index = FolderIndex(target)
    assert len(index) == 3 * count and index.dtype == np.float16
    exact = search(capsys, target, "a rocket", "--top", 7)
    assert stems(exact)[:3] == ["rocket"] * 3
    assert search(capsys, target, "a rocket", "--top", 7, "--index-type", "hnsw") == exact


def test_embed_appends_to_a_folder(tmp_path, capsys):
    target = tmp_path / "a.index"
    assert run("embed", PICTURES / "lion.png", "--output", target) == 0
    assert run("embed", PICTURES / "pizza.png", "--output", target, "--append") == 0
    assert [Path(name).stem for name in FolderIndex(target).names] == ["lion", "pizza"]
    assert run("embed", PICTURES / "rocket.png", "--output", target) == 0
    assert [Path(name).stem for name in FolderIndex(target).names] == ["rocket"]
    capsys.readouterr()
    assert ".index folder" in failing(capsys, "embed", PICTURES, "--output", tmp_path / "a.npz", "--append")
    assert "no index" in failing(capsys, "embed", PICTURES, "--output", tmp_path / "b.index", "--append")


def test_errors(built, tmp_path, capsys):
    index = built / "all.index"
    assert "wanted a QUERY" in failing(capsys, "search", index)
    assert "number as the weight" in failing(capsys, "search", index, "--term", "much", "cat")
    assert "cancel" in failing(capsys, "search", index, "cat", "--term", "-1", "cat")
    assert "absent.png" in failing(capsys, "search", index, "--image", "absent.png")
    assert "ending in .index" in failing(capsys, "index", index, "--output", tmp_path / "a.npz")
    assert "without --dtype" in failing(capsys, "index", index, "-o", index, "--append", "--dtype", "float16")
    assert "holds no index.json" in failing(capsys, "search", tmp_path, "cat")
    (tmp_path / "x.index").mkdir()
    assert "no index folder" in failing(capsys, "index", index, "--output", tmp_path / "x.index")
