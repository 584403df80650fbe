"""The JSON API: results, and the messages of refusals."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.triclip.serve.helpers import NAMES, PICTURES, refused, stems
from triclip.search import Index
from triclip.serve.queries import NAMES as NAMES_OF_PARAMETERS

ROCKET = (PICTURES / "rocket.png").read_bytes()


def picture_of(size=(40, 30), kind="PNG", mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, size, 120).save(out, kind)
    return out.getvalue()


# -- searches ---------------------------------------------------------------------------------------------------------


def test_words_find_what_the_index_finds(client, clip, index):
    answer = client.get("/api/search", params={"q": "a rocket", "top": 3})
    wanted = index.search(clip.encode_text("a rocket")[0], 3)
    found = answer.json()["results"]
    assert [one["name"] for one in found][0] == "rocket.png" and len(found) == 3
    assert [one["similarity"] for one in found] == pytest.approx([score for _, score in wanted], abs=1e-6)
    assert found[0]["metadata"] == {"year": 2019}
    assert answer.json()["count"] == 3 and answer.json()["query"] == {"q": "a rocket"}


def test_a_picture_as_the_body_or_in_a_form(client, clip, index):
    wanted = index.search(clip.encode_image(PICTURES / "rocket.png")[0], 6)
    for kind in ("image/png", "image/jpeg", "application/octet-stream"):  # what it says is not what it is
        answer = client.post("/api/search", content=ROCKET, headers={"content-type": kind})
        assert stems(answer)[0] == "rocket"
        scores = [one["similarity"] for one in answer.json()["results"]]
        assert scores == pytest.approx([score for _, score in wanted], abs=1e-6)
    assert stems(client.post("/api/search", files={"picture": ("x.png", ROCKET, "image/png")})) == stems(answer)


def test_words_and_pictures_combine(client, clip, index):
    lion = clip.encode_image(PICTURES / "lion.png")[0]
    both = index.search(lion + clip.encode_text("a pizza")[0], 6)
    answer = client.post("/api/search", files={"picture": (PICTURES / "lion.png").read_bytes()}, data={"q": "a pizza"})
    assert stems(answer) == [os.path.basename(name)[:-4] for name, _ in both]
    in_the_address = client.post(
        "/api/search",
        params={"q": "a pizza"},
        content=(PICTURES / "lion.png").read_bytes(),
        headers={"content-type": "image/png"},
    )
    assert stems(in_the_address) == stems(answer)
    without = client.get("/api/search", params={"q": "food", "without": "a pizza"})
    assert stems(without).index("pizza") > stems(client.get("/api/search", params={"q": "food"})).index("pizza")


def test_pictures_of_the_folder_by_id(client):
    ids = {one["name"]: one["id"] for one in client.get("/api/search", params={"q": "a thing"}).json()["results"]}
    assert stems(client.get("/api/search", params={"like": ids["lion.png"]}))[0] == "lion"
    unlike = client.get("/api/search", params={"q": "a lion", "unlike": ids["lion.png"]})
    assert stems(unlike)[-1] == "lion"
    several = client.get("/api/search", params=[("like", ids["lion.png"]), ("like", ids["food/pizza.png"])])
    assert set(stems(several)[:2]) == {"lion", "pizza"}
    assert refused(client.get("/api/search", params={"like": "0" * 16}), 404) == "no such picture"
    cancelled = client.get("/api/search", params={"like": ids["lion.png"], "unlike": ids["lion.png"]})
    assert "cancel each other out" in refused(cancelled, 400)


def test_filters_narrow_and_do_not_tell_where_the_folder_is(client, folder):
    assert set(stems(client.get("/api/search", params={"q": "a lion", "filter": "year>=2023"}))) == {
        "snowman",
        "sunflower",
    }
    two = [("q", "a lion"), ("filter", "year>=2020"), ("filter", "year<2021")]
    assert stems(client.get("/api/search", params=two)) == ["pizza"]
    for expression, wanted in (
        ("name~*r*.png", ["guitar", "rocket", "sunflower"]),
        ("name~food/*", ["pizza"]),
        ("name==food/pizza.png", ["pizza"]),
        ("name = 'rocket.png'", ["rocket"]),
        (f"name={folder}/rocket.png", []),
        (f"name~{folder.parent}*", []),
        ("name>=s", ["snowman", "sunflower"]),
    ):
        assert sorted(stems(client.get("/api/search", params={"q": "a", "filter": expression}))) == wanted, expression
    message = refused(client.get("/api/search", params={"q": "a", "filter": "place=1"}), 400)
    assert "no column" in message and "year" in message and str(folder.parent) not in message
    assert "wanted COLUMN" in refused(client.get("/api/search", params={"q": "a", "filter": "???"}), 400)


def test_health(client):
    answer = client.get("/api/health")
    assert answer.json()["status"] == "ok" and answer.json()["pictures"] == len(NAMES)
    assert client.post("/api/health").status_code == 405


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_uploads_of_any_mode(client, mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    answer = client.post("/api/search", content=picture_of(kind=kind, mode=mode), headers={"content-type": "image/x"})
    assert len(stems(answer)) == len(NAMES)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "wanted q=WORDS"),
        ("q=", "wanted q=WORDS"),
        ("q=%20%20", "wanted q=WORDS"),
        ("q=" + "a" * 401, "at most 400 letters, found 401"),
        ("q=a&q=b", "wanted it at most 1 times, found 2"),
        ("q=a&top=0", "top: wanted a whole number from 1 to 200, found '0'"),
        ("q=a&top=201", "found '201'"),
        ("q=a&top=-1", "found '-1'"),
        ("q=a&top=1e2", "found '1e2'"),
        ("q=a&top=" + "9" * 50, "from 1 to 200"),
        ("q=a&top=%D9%A3", "from 1 to 200"),
        ("q=a&path=/etc/passwd", "'path': no such parameter"),
        ("q=a" + "&filter=year>0" * 9, "filter: wanted it at most 8 times"),
    ],
)
def test_parameters_that_cannot_be(client, query, words):
    assert words in refused(client.get(f"/api/search?{query}"), 400)


@pytest.mark.parametrize("words", ["\0", "a\0b", "%ff", "\N{ROCKET}", "<|endoftext|>", "'; --", "\N{ROCKET}" * 400])
def test_any_words_are_words(client, words):
    assert len(stems(client.get("/api/search", params={"q": words}))) == len(NAMES)


def test_bytes_that_are_no_utf8(client):
    assert len(stems(client.get("/api/search?q=%ff%fe"))) == len(NAMES)


def test_an_upload_that_is_too_large(serving):
    with serving(upload_bytes=3000) as client:
        assert len(ROCKET) > 3000
        message = refused(client.post("/api/search", content=ROCKET, headers={"content-type": "image/png"}), 413)
        assert message == f"body: wanted at most 3000 bytes, found {len(ROCKET)}"
        chunks = (ROCKET[i : i + 500] for i in range(0, len(ROCKET), 500))  # no content-length
        answer = client.post("/api/search", content=chunks, headers={"content-type": "image/png"})
        assert refused(answer, 413) == "body: wanted at most 3000 bytes, found more"
        assert "3000 bytes" in refused(client.post("/api/search", files={"picture": ROCKET}), 413)
        assert client.post("/", files={"picture": ROCKET}).status_code == 413
        small = client.post("/api/search", content=picture_of(), headers={"content-type": "image/png"})
        assert small.status_code == 200


def test_a_picture_of_too_many_pixels_is_never_decoded(serving, monkeypatch):
    bomb = picture_of((4000, 4000), mode="1")
    assert len(bomb) < 10_000
    monkeypatch.setattr("triclip.serve.pictures.load_image", None)
    with serving(picture_pixels=1_000_000) as client:
        answer = client.post("/api/search", content=bomb, headers={"content-type": "image/png"})
        assert refused(answer, 413) == "picture: wanted at most 1000000 pixels, found 4000 x 4000"


def test_a_decompression_bomb_beyond_pillows_own_bound(client, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    answer = client.post("/api/search", content=picture_of(), headers={"content-type": "image/png"})
    assert "far more" in refused(answer, 413)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/png", 415),
        (b"hello", "image/png", 415),
        (ROCKET, "text/plain", 415),
        (ROCKET, "application/json", 415),
        (ROCKET[:2000], "image/png", 400),
        (b"", "image/png", 400),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
        (b"", "multipart/form-data", 400),
    ],
)
def test_bodies_that_are_no_picture(client, body, kind, status):
    message = refused(client.post("/api/search", content=body, headers={"content-type": kind}), status)
    assert (
        message
        and "Traceback" not in message
        and "/" not in message.replace("image/…", "").replace(kind, "")
        or (status == 415)
    )


def test_a_form_holds_one_picture_under_its_name(client):
    assert "it alone" in refused(client.post("/api/search", files={"other": ROCKET}), 400)
    assert "it alone" in refused(client.post("/api/search", data={"picture": "x"}, files={"q": (None, "a")}), 400)
    two = [("picture", ("a.png", ROCKET)), ("picture", ("b.png", ROCKET))]
    assert "Too many files" in refused(client.post("/api/search", files=two), 400)
    many = [("filter", (None, "year>0"))] * 40
    assert "Too many fields" in refused(client.post("/api/search", files=many), 400)


def test_no_other_method_and_no_other_path(client):
    for method in ("PUT", "DELETE", "PATCH"):
        refused(client.request(method, "/api/search"), 405)
    for path in ("/api", "/api/", "/api/search/", "/docs", "/static/x"):
        refused(client.get(path), 404)


def test_a_failure_is_a_plain_500(serving, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret words")

    monkeypatch.setattr("triclip.serve.library.Library.search", broken)
    with serving(raise_errors=False) as client:
        answer = client.get("/api/search?q=a")
        assert "secret" not in answer.text and "its log says why" in refused(answer, 500)
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_float_that_json_cannot_hold(serving, index):
    odd = Index(index.vectors, index.names, "emoji", {"size": [np.nan, np.inf, 1.5, 2.0, -np.inf, 0.0]})
    with serving(index=odd) as client:
        found = client.get("/api/search?q=a").json()["results"]
        assert sorted(str(one["metadata"]["size"]) for one in found) == ["0.0", "1.5", "2.0", "None", "None", "None"]


def test_an_index_that_changes_is_seen_without_a_restart(clip, folder, tmp_path):
    from starlette.testclient import TestClient

    from triclip.embed import ClipSpec
    from triclip.serve import create_app, open_library
    from triclip.upkeep import update

    for path in (tmp_path / "x.index", tmp_path / "x.npz", folder / ".triclip"):
        update(path, [folder], ClipSpec())
        served = folder if path.name == ".triclip" else path
        with TestClient(create_app(open_library(served, lambda _: clip))) as client:
            assert stems(client.get("/api/search?q=an octopus"))[0] != "octopus"
            shutil.copy(PICTURES / "octopus.png", folder)
            update(path, [folder], ClipSpec())
            found = client.get("/api/search?q=an octopus")
            assert stems(found)[0] == "octopus" and "metadata" not in found.json()["results"][0]
            assert client.get(found.json()["results"][0]["thumbnail"]).status_code == 200
            (folder / "octopus.png").unlink()
            update(path, [folder], ClipSpec())
            assert "6 pictures" in client.get("/").text
            path.rename(tmp_path / "away")  # nothing there: what was opened is served on
            assert client.get("/api/search?q=a lion").status_code == 200
            (tmp_path / "away").rename(path)


def test_names_as_a_filter(client):
    assert stems(client.get("/api/search?q=x&name=ro")) == ["rocket"]
    assert stems(client.get("/api/search?q=x&name=food/*.png")) == ["pizza"]
    assert set(stems(client.get("/api/search?q=x&name=*n.png"))) == {"lion", "snowman"}


def test_a_turned_picture_is_found_as_it_is_seen(client, clip, tmp_path):
    """Phones store what the sensor saw, and in the EXIF how it was held."""
    picture = Image.open(PICTURES / "rocket.png").convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG"):
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"turned.{kind}", kind, exif=exif)
        vector = clip.encode_image(tmp_path / f"turned.{kind}")[0]
        assert vector @ clip.encode_image([picture])[0] > 0.99
        opened = Image.open(tmp_path / f"turned.{kind}")
        assert clip.encode_image([opened])[0] @ vector > 0.999
        sent = client.post("/api/search", content=(tmp_path / f"turned.{kind}").read_bytes(), headers=IMAGE)
        assert sent.json()["results"][0]["similarity"] > 0.98 and stems(sent)[0] == "rocket"


IMAGE = {"content-type": "image/jpeg"}


def test_the_api_describes_itself(client):
    about = client.get("/api/openapi.json").json()
    assert about["openapi"].startswith("3.1")
    for path, methods in about["paths"].items():
        for method, call in methods.items():
            url = path.replace("{id}", client.get("/api/search?q=x").json()["results"][0]["id"])
            answer = client.request(
                method, url, params={} if "{" in path else {"q": "x"}, headers=IMAGE, content=ROCKET
            )
            assert str(answer.status_code) in call["responses"], (path, method)
    named = {one["name"] for one in about["paths"]["/api/search"]["get"]["parameters"]}
    assert named == set(NAMES_OF_PARAMETERS)
    for name in named:
        kinds = {one["name"]: one["schema"] for one in about["paths"]["/api/search"]["get"]["parameters"]}
        assert kinds[name]["type"] in ("string", "integer", "array")


def test_the_python_client(serving):
    import threading

    from triclip.command.serve import address_of, listening
    from triclip.serve import Client, Limits, ServeError
    from triclip.serve.web import make_server

    with serving(searches_per_minute=400) as testing, listening("127.0.0.1", 0) as listener:
        server = make_server(testing.app, Limits())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            client = Client(address_of(listener))
            assert client.health()["pictures"] == len(NAMES)
            found = client.search("a rocket", top=2)
            assert found[0]["name"] == "rocket.png" and len(found) == 2 and found[0]["metadata"] == {"year": 2019}
            assert client.search(picture=PICTURES / "pizza.png")[0]["name"] == "food/pizza.png"
            assert (
                client.search(like=[found[0]["id"]], filters=["year>2019"], name="o", unlike=[])[0]["name"]
                != "rocket.png"
            )
            assert (
                client.picture(found[0]["id"]) == ROCKET
                and client.picture(found[0]["id"], small=True)[:2] == b"\xff\xd8"
            )
            with pytest.raises(ServeError, match="404: no such picture"):
                client.picture("0" * 16)
        finally:
            server.should_exit = True
            thread.join()
