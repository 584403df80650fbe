"""`triclip embed`, `index` and `search` from end to end with the embedded model."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clip_core.hub import MODELS
from tests.triclip.command.command import failing, run
from triclip import Clip
from triclip.search import FolderIndex, Index, open_index

PICTURES = MODELS / "emoji" / "pictures"


@pytest.fixture(scope="module")
def clip():
    return Clip.from_pretrained("emoji")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The emoji as an index, a second source with metadata beside it."""
    folder = tmp_path_factory.mktemp("index")
    assert run("embed", PICTURES, "--output", folder / "all.index") == 0
    index = open_index(folder / "all.index")
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
    assert "32 vectors" in (out := capsys.readouterr().out) and "0 of them new" in out
    index = FolderIndex(target)
    index.append(index.vectors[:1], ["new"], {"shelf": ["lower"], "place": [99]})
    assert len(index) == 2 * count + 1 and index.dtype == np.float16
    exact = search(capsys, target, "a rocket", "--top", 7)
    assert stems(exact)[:2] == ["rocket"] * 2
    assert search(capsys, target, "a rocket", "--top", 7, "--index-type", "hnsw") == exact


def test_embed_appends_to_a_folder(tmp_path, capsys):
    target = tmp_path / "a.index"
    assert run("embed", PICTURES / "lion.png", "--output", target) == 0
    assert run("embed", PICTURES / "pizza.png", "--output", target, "--append") == 0
    assert [Path(name).stem for name in FolderIndex(target).names] == ["lion", "pizza"]
    assert run("embed", PICTURES / "lion.png", PICTURES / "pizza.png", "--output", target, "--append") == 0
    assert "0 vectors" in (out := capsys.readouterr().out) and "2 were there already" in out
    assert run("embed", PICTURES / "rocket.png", "--output", target) == 0  # adds it, and replaces nothing
    assert len(FolderIndex(target)) == 3
    assert run("embed", PICTURES / "rocket.png", "--output", target, "--force") == 0
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
    (tmp_path / "x.index" / "letter.txt").touch()
    assert "no index folder" in failing(capsys, "index", index, "--output", tmp_path / "x.index")


def test_names_are_relative_to_a_root_that_is_kept(tmp_path, capsys, monkeypatch):
    """Whatever folder it is made or searched from; `--folder` where the pictures were moved."""
    photos, other = tmp_path / "photos", tmp_path / "other"
    (photos / "deep").mkdir(parents=True)
    other.mkdir()
    for name, place in (("lion", photos), ("pizza", photos / "deep"), ("rocket", other)):
        shutil.copy(PICTURES / f"{name}.png", place)
    monkeypatch.chdir(tmp_path)
    for suffix in ("npz", "npy", "index"):
        assert run("embed", "photos", "-o", f"x.{suffix}") == 0
        index = open_index(f"x.{suffix}")
        assert sorted(index.names) == ["deep/pizza.png", "lion.png"] and index.origin.root == str(photos)
        assert search(capsys, f"x.{suffix}", "a pizza", "--top", 1)[0]["name"] == "photos/deep/pizza.png"
        monkeypatch.chdir(photos / "deep")
        assert search(capsys, tmp_path / f"x.{suffix}", "a pizza", "--top", 1)[0]["name"] == "pizza.png"
        lion = (tmp_path / f"x.{suffix}", "--image", PICTURES / "lion.png", "--top", 1)
        assert search(capsys, *lion)[0]["name"] == str(photos / "lion.png")
        found = search(capsys, *lion, "--folder", tmp_path / "moved")
        assert found[0]["name"] == str(tmp_path / "moved" / "lion.png")
        monkeypatch.chdir(tmp_path)
    assert run("embed", "other", "-o", "x.index", "--append") == 0
    assert search(capsys, "x.index", "a rocket", "--top", 1)[0]["name"] == "other/rocket.png"
    assert run("index", "x.npz", "x.index", "-o", "y.index") == 0
    assert open_index("y.index").names.count("lion.png") == 2 and open_index("y.index").origin.root == str(photos)


def test_a_model_by_a_relative_path_is_found_from_elsewhere(tmp_path, capsys, monkeypatch):
    shutil.copytree(MODELS / "emoji", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    assert run("embed", PICTURES / "lion.png", "-o", "a.npz", "--model", "copy") == 0
    monkeypatch.chdir(PICTURES)
    assert stems(search(capsys, tmp_path / "a.npz", "a lion")) == ["lion"]


def test_another_model_is_refused(tmp_path, capsys):
    """By its content, whatever it is called; a model of another name and the same content is the same."""
    shutil.copytree(MODELS / "emoji", tmp_path / "copy")
    shutil.copytree(MODELS / "emoji", tmp_path / "tuned")
    weights = tmp_path / "tuned" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2:] = b"\0\x3c"
    weights.write_bytes(content)
    target = tmp_path / "a.index"
    assert run("embed", PICTURES / "lion.png", "-o", target) == 0
    assert stems(search(capsys, target, "a lion", "--model", tmp_path / "copy")) == ["lion"]
    said = failing(capsys, "search", target, "a lion", "--model", tmp_path / "tuned")
    assert "wanted the model 'emoji'" in said and "tuned" in said
    assert stems(search(capsys, target, "a lion", "--model", tmp_path / "tuned", "--force")) == ["lion"]
    more = ("embed", PICTURES / "pizza.png", "-o", target, "--append", "--model")
    assert "wanted the model 'emoji'" in failing(capsys, *more, tmp_path / "tuned")
    assert run(*more, tmp_path / "copy") == 0 and len(FolderIndex(target)) == 2
    assert run("embed", PICTURES / "pizza.png", "-o", tmp_path / "b.npz", "--model", tmp_path / "tuned") == 0
    capsys.readouterr()
    assert "wanted the model 'emoji'" in failing(
        capsys, "index", target, tmp_path / "b.npz", "-o", tmp_path / "c.index"
    )
    pytest.importorskip("starlette", reason="extra `serve`")
    said = failing(capsys, "serve", target, "--port", 0, "--model", tmp_path / "tuned")
    assert "wanted the model 'emoji'" in said


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two pictures, from above."""
    (tmp_path / "photos").mkdir()
    for name in ("lion", "pizza"):
        shutil.copy(PICTURES / f"{name}.png", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_embed_again_brings_up_to_date(photos, capsys):
    assert run("embed", "photos", "-o", "x.index") == 0
    assert "2 vectors of width 192 -> x.index\n" in capsys.readouterr().out
    shutil.copy(PICTURES / "rocket.png", photos)
    (photos / "notes.txt").touch()
    (photos / "lion.png").unlink()
    (photos / "broken.jpg").write_bytes(b"none")
    assert run("embed", "photos", "-o", "x.index") == 0
    out, err = capsys.readouterr()
    assert out == "1 vectors of width 192 -> x.index, 1 were there already, 1 have left\n" \
        "left out: 1 could not be read, 1 no pictures\n"  # fmt: skip
    assert "skipped" in err and "broken.jpg" in err
    assert run("embed", "photos", "-o", "x.index", "--exclude", "[p]*", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["count"], report["gone"], report["left_out"]["excluded"]) == (1, 1, 1)
    assert run("embed", "photos", "-o", "x.index") == 0  # what is left out is known by now
    assert "0 vectors" in capsys.readouterr().out and open_index("x.index").names == ["rocket.png"]
    assert "background" in failing(capsys, "embed", "photos", "-o", "x.index", "--background", "black")


def test_a_folder_of_pictures_is_offered_an_index(photos, capsys, monkeypatch):
    assert "2 pictures, and no index" in failing(capsys, "search", "photos", "a lion")
    for answer, place in (("\n", "photos/.triclip"), ("y\n", "photos/.triclip"), ("it.index\n", "it.index")):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        monkeypatch.setattr("sys.stderr", Terminal())
        assert run("search", "photos", "a pizza", "--top", "1") == 0
        assert "photos/pizza.png" in capsys.readouterr().out and len(FolderIndex(place)) == 2
        shutil.rmtree(place)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert run("search", "photos", "a lion") == 1 and not (photos / ".triclip").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_index_inside_is_brought_up_to_date_by_a_search(photos, capsys):
    assert run("embed", "photos") == 0 and len(FolderIndex(photos / ".triclip")) == 2
    shutil.copy(PICTURES / "rocket.png", photos)
    assert stems(search(capsys, "photos", "a rocket", "--no-update"))[0] != "rocket"
    assert stems(search(capsys, "photos", "a rocket"))[0] == "rocket"
    assert run("embed", "photos", "-o", "x.index") == 0
    shutil.copy(PICTURES / "guitar.png", photos)
    assert "guitar" not in stems(search(capsys, "x.index", "a guitar"))
    assert stems(search(capsys, "x.index", "a guitar", "--update"))[0] == "guitar"


def test_a_search_goes_on_where_its_index_can_t_be_brought_up_to_date(photos, capsys):
    from triclip.locks import locked

    assert run("embed", "photos") == 0
    with locked(photos / ".triclip" / ".updating"):
        assert stems(search(capsys, "photos", "a pizza"))[0] == "pizza"
        assert "another program" in failing(capsys, "search", "photos", "a pizza", "--update")
    for name in ("lion", "pizza"):
        (photos / f"{name}.png").unlink()
    assert run("search", "photos", "a pizza") == 0
    assert "is a drive missing" in capsys.readouterr().err and len(FolderIndex(photos / ".triclip")) == 2


def test_watching_from_the_command_line(photos, tmp_path):
    """A process that watches sees a new picture, and ends at Ctrl+C without an error."""
    command = [sys.executable, "-m", "triclip", "embed", "photos", "-o", "x.index", "--watch"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command,
        **options,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever started the tests may ignore it
    ) as process:
        try:
            assert "2 vectors" in process.stdout.readline()
            shutil.copy(PICTURES / "rocket.png", photos / "draft")
            (photos / "draft").rename(photos / "rocket.png")
            while "1 vectors" not in (line := process.stdout.readline()):
                assert line  # else it has ended
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0 and "stopped" in process.stderr.read()
        finally:
            process.kill()
    assert len(FolderIndex("x.index")) == 3
