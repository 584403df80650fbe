"""The page and the pictures: safe, complete and usable HTML; right media types and headers."""

import io
import os
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.triclip.serve.helpers import NAMES, PICTURES
from triclip.search import Index
from triclip.serve.library import THUMBNAIL


class Outline(HTMLParser):
    """Every tag with its attributes; and whether tags that are opened are closed."""

    VOID = {"meta", "link", "img", "input", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def outline(answer, status=200):
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Outline(answer.text)


def test_the_page_before_a_search(client):
    page = outline(client.get("/"))
    assert len(page.of("img")) == len(NAMES)
    assert [form["method"] for form in page.of("form")] == ["get", "post"]
    assert page.of("html")[0]["lang"] == "en" and page.of("meta")[1]["name"] == "viewport"


def test_the_page_after_a_search(client):
    answer = client.get("/?q=a+rocket&without=&filter=")
    page = outline(answer)
    assert page.of("input")[0]["value"] == "a rocket"
    assert page.of("img")[0]["alt"] == "rocket"
    similar = [link["href"] for link in page.of("a") if link["href"].startswith("/?like=")]
    again = outline(client.get(similar[0]))
    assert again.of("img")[0]["class"] == "asked" and again.of("img")[1]["alt"] == "rocket"
    kept = [one for one in again.of("input") if one.get("type") == "hidden"]
    assert [one["name"] for one in kept] == ["like"]  # words that are added keep the picture


def test_a_picture_and_words_by_the_form(client):
    files = {"picture": ("me.png", (PICTURES / "lion.png").read_bytes())}
    page = outline(client.post("/", files=files, data={"q": "a cat"}))
    assert page.of("img")[0]["src"].startswith("data:image/jpeg;base64,")
    assert page.of("img")[1]["alt"] == "lion"
    part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n\r\n'
    nothing = (
        part % (b"picture", b'; filename=""\r\nContent-Type: application/octet-stream') + part % (b"q", b"") + b"--x--"
    )
    chosen = client.post("/", content=nothing, headers={"content-type": "multipart/form-data; boundary=x"})
    assert outline(chosen).of("ul")  # as a browser sends a form in which no file was chosen


def test_every_field_has_a_label_and_every_picture_a_text(client):
    for path in ("/", "/?q=a", "/?q=a&filter=year>2020"):
        text = client.get(path).text
        page = Outline(text)
        for field in page.of("input"):
            if field.get("type") != "hidden":
                wrapped = any(
                    f'name="{field["name"]}"' in part.partition("</label>")[0] for part in text.split("<label")[1:]
                )
                assert wrapped or any(label.get("for") == field.get("id") for label in page.of("label")), field
        assert all(image["alt"] for image in page.of("img"))
        assert len(page.of("h1")) == len(page.of("main")) == len(page.of("title")) == 1


def test_errors_on_the_page(client):
    for path, status in (("/?q=" + "a" * 401, 400), ("/?top=x&q=a", 400), ("/?like=0000000000000000", 404)):
        page = outline(client.get(path), status)
        assert any(attributes.get("role") == "alert" for _, attributes in page.tags) and page.of("form")
    assert outline(client.put("/"), 405).of("form")
    assert outline(client.post("/", content=b"x", headers={"content-type": "text/plain"}), 415)


HOSTILE = '<img src=x onerror="alert(1)">&amp;\'"</title><script>1</script>'


def test_nothing_that_is_given_becomes_markup(serving, folder, vectors):
    name = HOSTILE.replace("/", "∕") + ".png"
    (folder / "rocket.png").rename(folder / name)
    names = [str(folder / name), *(str(folder / f"{n}.png") for n in NAMES[1:])]
    titles = {HOSTILE: [HOSTILE] * len(names)}
    with serving(index=Index(vectors, names, "emoji", titles)) as client:
        plain = {tag for tag, _ in outline(client.get("/?q=a+rocket")).tags}
        paths = ["/", "/?q=" + HOSTILE, "/?without=" + HOSTILE, "/?top=" + HOSTILE, "/?like=" + HOSTILE]
        for path in [*paths, "/?q=a&filter=" + HOSTILE, "/?" + HOSTILE + "=1"]:
            answer = client.get(path)
            page = Outline(answer.text)
            assert {tag for tag, _ in page.tags} <= plain | {"p", "ul", "ol"} and "<script" not in answer.text
            assert not any(key.startswith("on") or key == "style" for _, attributes in page.tags for key in attributes)


def test_names_that_are_no_text(serving, folder, vectors):
    odd = os.fsdecode(b"\xff\xfe.png")
    (folder / "rocket.png").rename(folder / odd)
    names = [str(folder / odd), *(str(folder / f"{n}.png") for n in NAMES[1:])]
    with serving(index=Index(vectors, names, "emoji")) as client:
        found = client.get("/api/search?q=a+rocket&top=1").json()["results"][0]
        assert found["name"] == "??.png"
        assert client.get(found["picture"]).status_code == 200
        assert client.get("/?q=a+rocket").status_code == 200


# -- headers ----------------------------------------------------------------------------------------------------------


def test_headers_of_every_answer(client):
    found = client.get("/api/search?q=a").json()["results"][0]
    paths = ["/", "/?q=a", "/?top=x", "/api/health", "/api/search?q=a", "/api/search", "/style.css", "/none"]
    for path in [*paths, found["picture"], found["thumbnail"], "/picture/x"]:
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and "script-src" not in policy  # nothing runs
        assert policy["img-src"] == "'self' data:" and policy["style-src"] == policy["form-action"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_page_asks_nobody_else_for_anything(client):
    for path in ("/", "/?q=a"):
        page = Outline(client.get(path).text)
        for tag, attributes in page.tags:
            for key in ("src", "href", "action", "srcset", "poster"):
                value = attributes.get(key, "/")
                assert value.startswith(("/", "data:")) and not value.startswith("//"), (tag, value)
        assert not page.of("script") and not page.of("iframe")
    style = client.get("/style.css").text
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style


def test_media_types_are_what_the_files_are(serving, folder, vectors):
    types = {kind: f"image/{kind.lower()}" for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
    names = []
    for kind in types:
        names.append(str(folder / f"{kind}.png"))  # whatever they are called
        Image.open(PICTURES / "rocket.png").convert("RGB").save(names[-1], kind)
    with serving(index=Index(vectors, names, "emoji")) as client:
        found = {one["name"]: one for one in client.get("/api/search?q=a").json()["results"]}
        for kind, media_type in types.items():
            answer = client.get(found[f"{kind}.png"]["picture"])
            assert answer.headers["content-type"] == media_type
            assert answer.content == (folder / f"{kind}.png").read_bytes()
            assert int(answer.headers["content-length"]) == len(answer.content)
            head = client.head(found[f"{kind}.png"]["picture"])
            assert head.headers["content-type"] == media_type and not head.content


def test_thumbnails_are_small_upright_and_kept(serving, folder, vectors, monkeypatch):
    tall = Image.new("RGB", (1600, 800), "red")
    tall.paste("blue", (0, 0, 800, 800))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the left side is shown at the top
    tall.save(folder / "rocket.jpg", exif=exif)
    names = [str(folder / "rocket.jpg"), *(str(folder / f"{n}.png") for n in NAMES[1:])]
    with serving(index=Index(vectors, names, "emoji")) as client:
        found = client.get("/api/search?q=a+rocket&top=1").json()["results"][0]
        answer = client.get(found["thumbnail"])
        assert answer.headers["content-type"] == "image/jpeg" and "max-age" in answer.headers["cache-control"]
        small = Image.open(io.BytesIO(answer.content))
        assert small.size == (THUMBNAIL // 2, THUMBNAIL)
        top, bottom = small.getpixel((80, 20)), small.getpixel((80, 300))
        assert top[2] > 200 > 60 > top[0] and bottom[0] > 200 > 60 > bottom[2]
        monkeypatch.setattr("triclip.serve.library.small_jpeg", None)
        assert client.get(found["thumbnail"]).content == answer.content


def test_the_cache_of_thumbnails_is_bounded(serving):
    with serving(cache_bytes=20_000) as client:
        for one in client.get("/api/search?q=a").json()["results"] * 2:
            assert client.get(one["thumbnail"]).status_code == 200
        cache = client.app.site.library._thumbnails
        assert 0 < sum(map(len, cache._kept.values())) == cache._size <= 20_000


def test_other_sites_names_do_not_reach_a_server_on_loopback(serving):
    from triclip.command.serve import LOOPBACK

    with serving(hosts=LOOPBACK) as client:
        for host in ("127.0.0.1:8765", "localhost", "[::1]:80"):
            assert client.get("/api/health", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", ""):
            answer = client.get("/api/health", headers={"host": host})
            assert answer.status_code == 400, host
            assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/api/search?q=a", "/"])
def test_pages_and_searches_are_not_kept(client, path):
    assert client.get(path).headers["cache-control"] == "no-store"


def test_more_of_the_results(serving):
    with serving(results=5, default_results=2) as client:
        page = outline(client.get("/?q=food&name=o"))
        more = next(link["href"] for link in page.of("a") if link.get("class") == "more")
        assert more == "/?q=food&name=o&top=5"
        assert len(outline(client.get("/?q=food&top=5")).of("li")) == 5
        assert "more" not in [link.get("class") for link in outline(client.get("/?q=food&top=5")).of("a")]
        found = outline(client.post("/", files={"picture": PICTURES.joinpath("lion.png").read_bytes()}))
        assert "more" not in [link.get("class") for link in found.of("a")]


def test_a_pictures_own_page(client, folder):
    exif = Image.Exif()
    exif[0x0132], exif[0x0110], exif.get_ifd(0x8825)[1] = "2024:05:01 10:00:00", "A <b>camera</b>", "N"
    Image.open(folder / "lion.png").convert("RGB").save(folder / "lion.png", "JPEG", exif=exif)
    found = client.get("/api/search?q=a lion&name=lion").json()["results"][0]
    link = next(
        one["href"] for one in outline(client.get("/?q=a lion&name=lion")).of("a") if one.get("class") == "shown"
    )
    assert link == f"/show/{found['id']}"
    answer = client.get(link)
    page = outline(answer)
    assert [one["src"] for one in page.of("img")][0] == found["picture"] and len(page.of("li")) == len(NAMES) - 1
    for text in ("lion.png", "2024:05:01 10:00:00", "A &lt;b&gt;camera&lt;/b&gt;", "2021", "JPEG"):
        assert text in answer.text
    assert str(folder) not in answer.text
    outline(client.get("/show/0123456789abcdef"), 404)
    (folder / "lion.png").unlink()
    outline(client.get(link), 404)


def test_words_have_the_focus_and_pictures_can_be_dropped(client):
    page = outline(client.get("/"))
    assert "autofocus" in page.of("input")[0]
    assert next(one for one in page.of("input") if one.get("type") == "file")["class"] == "drop"
    assert "autofocus" not in outline(client.get("/?q=a+lion")).of("input")[0]
