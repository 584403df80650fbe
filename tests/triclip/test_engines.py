"""An index on Qdrant (the client's local mode) and on LanceDB (a folder): uploaded, resumed, searched, served."""

import json
import shutil

import numpy as np
import pytest

from clip_core.errors import InputError, MissingDependencyError
from clip_core.hub import MODELS
from tests.triclip.command.command import failing, run
from triclip.search import Index, open_searchable
from triclip.search.engines import is_address, open_engine
from triclip.search.engines import upload as module
from triclip.search.engines.upload import upload

PICTURES = MODELS / "emoji" / "pictures"


@pytest.fixture(params=["qdrant", "lancedb"])
def engine(request, tmp_path):
    pytest.importorskip(
        {"qdrant": "qdrant_client", "lancedb": "lancedb"}[request.param], reason="an extra of that name"
    )
    return f"{request.param}:{tmp_path}/base/photos"


def closed(address):
    """The client's local mode lets one user in at a time."""
    found = open_searchable(address)
    if hasattr(found, "_client"):
        found._client.close()


def an_index(count=230, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, 16))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    metadata = {
        "year": [2000 + row % 7 for row in range(count)],
        "shelf": [("upper", "lower's")[row % 2] for row in range(count)],
        "sharp": [row % 3 == 0 for row in range(count)], "weight": [row / 10 for row in range(count)],
    }  # fmt: skip
    return Index(vectors, [f"{row % 5}/{row}.png" for row in range(count)], "emoji", metadata, "f00d", "/photos")


@pytest.fixture(autouse=True)
def let_go(monkeypatch):
    """Every client of the local mode that a test opened is closed when another is wanted."""
    try:
        from triclip.search.engines.qdrant import Qdrant
    except ImportError:
        return
    opened, start = [], Qdrant.__init__

    def alone(self, place, name):
        while opened:
            opened.pop()._client.close()
        start(self, place, name)
        opened.append(self)

    monkeypatch.setattr(Qdrant, "__init__", alone)


def test_what_was_uploaded_is_found_as_in_the_index(engine):
    index = an_index()
    report = upload(index, engine)
    assert report == {"count": 230, "uploaded": 230, "recall@10": 1.0, "queries": 115}
    found = open_searchable(engine)
    assert len(found) == 230 and found.origin == index.origin and found.width == 16
    queries = index.vectors[:4]
    wanted = index.search_rows(queries, 7)
    for kind in ("exact", found.default_kind):
        scores, rows = found.search_rows(queries, 7, kind=kind)
        np.testing.assert_array_equal(rows, wanted[1])
        np.testing.assert_allclose(scores, wanted[0], atol=1e-5)
    assert found.metadata(12) == index.metadata(12)
    np.testing.assert_allclose(found.vector(12), index.vector(12), atol=1e-7)
    with pytest.raises(IndexError):
        found.metadata(230)


@pytest.mark.parametrize(
    "where",
    [
        "year=2003",
        "year!=2003",
        ["year>2002", "year<=2004"],
        "shelf=lower's",
        "sharp=true",
        "weight>=3.55",
        "weight=3.5",
    ],
)
def test_filters_are_the_engines(engine, where):
    index = an_index()
    upload(index, engine)
    found = open_searchable(engine)
    wanted = index.search_rows(index.vectors[:2], 6, where)
    np.testing.assert_array_equal(found.search_rows(index.vectors[:2], 6, where)[1], wanted[1])
    with pytest.raises(InputError, match="no column 'colour'"):
        found.search_rows(index.vectors[:2], 6, "colour=red")
    if engine.startswith("lancedb"):
        names = index.search_rows(index.vectors[:2], 6, "name~3/*.png")
        np.testing.assert_array_equal(found.search_rows(index.vectors[:2], 6, "name~3/*.png")[1], names[1])
    else:
        with pytest.raises(InputError, match="no patterns"):
            found.search_rows(index.vectors[:2], 6, "name~3/*.png")


def test_an_upload_that_was_ended_goes_on(engine, monkeypatch):
    index = an_index()
    monkeypatch.setattr(module, "BATCH", 50)
    kind = type(open_engine(engine))
    add, calls = kind.add, []

    def dying(self, *arguments):
        calls.append(arguments[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(self, *arguments)

    monkeypatch.setattr(kind, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        upload(index, engine)
    with pytest.raises(InputError, match="wanted 230 rows, found 100"):
        open_searchable(engine)
    assert upload(index, engine)["uploaded"] == 130 and [len(rows) for rows in calls] == [50, 50, 50, 50, 50, 30]
    assert upload(index, engine) == {"count": 230, "uploaded": 0, "recall@10": 1.0, "queries": 115}
    with pytest.raises(InputError, match="--force replaces it"):
        upload(an_index(seed=1), engine)
    assert upload(an_index(90, seed=1), engine, replace=True)["count"] == 90 == len(open_searchable(engine))


def test_the_commands_take_an_address(engine, tmp_path, monkeypatch, capsys):
    name, _, place = engine.partition(":")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PICTURES, "photos")
    assert run("embed", "photos", "-o", "x.index") == 0
    capsys.readouterr()
    assert run("index", "x.index", "--to", name, place, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["count"] == 16 and report["recall@10"] == 1.0
    assert run("search", "x.index", "a pizza", "--json") == 0
    wanted = capsys.readouterr().out
    assert run("search", engine, "a pizza", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    for one, other in zip(found, json.loads(wanted), strict=True):
        assert one["name"] == other["name"] and one["similarity"] == pytest.approx(other["similarity"], abs=1e-5)
    assert "another index" in failing(capsys, "index", *["x.index"] * 2, "--to", name, place)
    assert "no index is there" in failing(capsys, "search", f"{engine}2", "a pizza")
    assert "wanted one of qdrant, lancedb" in failing(capsys, "index", "x.index", "--to", "chroma", place)


def test_serve_takes_an_address(engine, tmp_path):
    pytest.importorskip("starlette")
    pytest.importorskip("httpx2")
    from starlette.testclient import TestClient

    from triclip import Clip
    from triclip.embed import ClipSpec
    from triclip.search import open_index
    from triclip.serve import create_app, open_library
    from triclip.upkeep import update

    photos = tmp_path / "photos"
    shutil.copytree(PICTURES, photos)
    update(tmp_path / "x.index", [photos], ClipSpec())
    upload(open_index(tmp_path / "x.index"), engine)
    clip = Clip.from_pretrained()
    with TestClient(create_app(open_library(engine, lambda _: clip))) as client:
        found = client.get("/api/search?q=a rocket&top=3").json()["results"]
        assert len(found) == 3 and found[0]["name"] == "rocket.png"
        assert client.get(found[0]["picture"]).content == (photos / "rocket.png").read_bytes()
        assert client.get(f"/api/search?like={found[0]['id']}").json()["results"][0]["id"] == found[0]["id"]
        assert client.get(f"/show/{found[0]['id']}").status_code == 200 and client.get("/").status_code == 200
        assert client.get("/picture/ffffffffffffffff").status_code == 404
    with TestClient(create_app(open_library(engine, lambda _: clip, folder=tmp_path / "base"))) as client:
        answer = client.get("/api/search?q=a rocket").json()["results"]
        assert all(client.get(one["picture"]).status_code == 404 for one in answer)


def test_addresses():
    assert is_address("qdrant:http://h:6333/a") and is_address("lancedb:a/b")
    assert not is_address("photos.index") and not is_address("C:/photos") and not is_address("qdrant")
    for address in ("qdrant:photos", "lancedb:", "qdrant:http://h:6333/"):
        with pytest.raises(InputError, match="wanted qdrant:http"):
            open_engine(address)


@pytest.mark.parametrize("name, package", [("qdrant", "qdrant_client"), ("lancedb", "lancedb")])
def test_a_missing_client_names_its_extra(name, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'triclip\[{name}\]'"):
        open_engine(f"{name}:a/b")
