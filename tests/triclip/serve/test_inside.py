"""No file outside the folder is served: by path, by link, by a name in an index, or after a change."""

import os
import shutil

import numpy as np
import pytest

from clip_core.errors import InputError
from tests.triclip.serve.helpers import NAMES, refused, stems
from triclip.embed import embed
from triclip.search import Index
from triclip.serve import Library, open_library
from triclip.serve.inside import Folder
from triclip.serve.opening import common_folder

OUTSIDE = [
    "../secret.png",
    "food/../../secret.png",
    "/etc/passwd",
    "//etc/passwd",
    "/",
    "",
    ".",
    "..",
    "food/..",
    "a.png\0.png",
    "\0",
    "food/../../photos-too/a.png",
    "../photos/../secret.png",
]
STRANGE = [
    "C:\\Windows\\win.ini",
    "\\\\server\\share\\a.png",
    "..\\secret.png",
    "%2e%2e/secret.png",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_do_not_lie_in_the_folder(folder, name):
    assert Folder(folder).relative(name) is None


@pytest.mark.parametrize("name", STRANGE)
def test_names_of_other_systems_are_files_that_are_not_there(folder, name):
    """Here they are names without meaning; on Windows they are absolute, or lead out, and don't lie in the folder."""
    inside = Folder(folder)
    relative = inside.relative(name)
    assert relative is None or not inside.holds(relative)
    with pytest.raises(FileNotFoundError, match="no such file in the folder"):
        inside.open(relative or name)


@pytest.mark.parametrize("name", [*OUTSIDE, *STRANGE])
def test_even_opening_such_a_name_fails(folder, name):
    with pytest.raises(FileNotFoundError):
        Folder(folder).open(name)


def test_names_that_do(folder, monkeypatch):
    inside = Folder(folder)
    assert inside.relative(str(folder / "rocket.png")) == "rocket.png"
    assert inside.relative("food/../rocket.png") == "rocket.png"
    assert inside.relative("food/pizza.png") == "food/pizza.png"
    assert inside.open("food/pizza.png").read() == (folder / "food/pizza.png").read_bytes()
    monkeypatch.chdir(folder.parent)
    assert Folder("photos").relative("photos/rocket.png") == "rocket.png"
    (folder.parent / "link").symlink_to(folder)
    for name in (folder / "lion.png", folder.parent / "link/lion.png", "lion.png"):
        assert Folder("link").relative(str(name)) == "lion.png"


def test_links(folder):
    secret = folder.parent / "secret.png"
    (folder / "out.png").symlink_to(secret)
    (folder / "up").symlink_to("..")
    (folder / "twice.png").symlink_to("out.png")
    (folder / "within.png").symlink_to("food/pizza.png")
    (folder / "round.png").symlink_to("round.png")
    inside = Folder(folder)
    for name in ("out.png", "up/secret.png", "twice.png", "round.png", "up", "food"):
        assert not inside.holds(name)
        with pytest.raises(FileNotFoundError):
            inside.open(name)
    assert inside.open("within.png").read() == (folder / "food/pizza.png").read_bytes()


def test_pipes_are_not_waited_for(folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(FileNotFoundError):
        Folder(folder).open("pipe.png")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_put_in_the_way_at_the_last_moment(folder, monkeypatch, what):
    """After the check and before the opening."""
    inside = Folder(folder)
    real = Folder._inner
    (folder.parent / "elsewhere").mkdir()
    shutil.copy(folder.parent / "secret.png", folder.parent / "elsewhere/pizza.png")

    def swapped(self, relative):
        found = real(self, relative)
        if what == "file":
            (folder / "food/pizza.png").unlink()
            (folder / "food/pizza.png").symlink_to(folder.parent / "secret.png")
        else:
            shutil.rmtree(folder / "food")
            (folder / "food").symlink_to(folder.parent / "elsewhere")
        return found

    monkeypatch.setattr(Folder, "_inner", swapped)
    with pytest.raises(FileNotFoundError):
        inside.open("food/pizza.png")


# -- through the server -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "%2e%2e/secret.png",
        "%2e%2e%2fsecret.png",
        "..%2fsecret.png",
        "..%5csecret.png",
        "%252e%252e%252fsecret.png",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "rocket.png",
        "rocket.png%00",
        "%00",
        "C:%5cWindows%5cwin.ini",
        "0" * 16,
        "0" * 15,
        "0" * 17,
        "g" * 16,
        "A" * 16,
        "-1",
        "0x00000000000000",
        "%D9%A0" * 16,
        "............/secret.png",
    ],
)
def test_paths_instead_of_ids(client, path):
    for start in ("/picture/", "/thumbnail/", "/", "/api/", "/style.css/"):
        answer = client.get(start + path)
        assert answer.status_code == 404, (start, answer.status_code)
        assert answer.headers["content-type"] in ("application/json", "text/html; charset=utf-8")


def test_an_index_that_names_files_elsewhere(serving, folder, vectors, clip):
    """They are not found, not counted, and have no id that opens them."""
    from triclip.serve.library import _number

    names = ["/etc/passwd", str(folder.parent / "secret.png"), "../secret.png", str(folder / "guitar.png")]
    names += ["food/../../secret.png", "\0"]
    with serving(index=Index(vectors, names, "emoji")) as client:
        assert stems(client.get("/api/search?q=a+rocket&top=6")) == ["guitar"]
        assert client.get("/api/health").json()["pictures"] == 1
        for name in names[:3]:
            refused(client.get(f"/picture/{_number(name):016x}"), 404)
    with pytest.raises(InputError, match="none of the index's 6 names"):
        Library(clip, Index(vectors, ["/etc/passwd"] * 6, "emoji"), folder)


def test_a_file_that_became_a_link_is_gone(client, folder):
    found = client.get("/api/search?q=a+rocket&top=1").json()["results"][0]
    assert client.get(found["picture"]).content == (folder / "rocket.png").read_bytes()
    (folder / "rocket.png").unlink()
    (folder / "rocket.png").symlink_to(folder.parent / "secret.png")
    assert "no longer" in refused(client.get(found["picture"]), 404)
    assert "no longer" in refused(client.get(found["thumbnail"]), 404)


def test_a_file_that_became_no_picture_is_not_sent(client, folder):
    found = client.get("/api/search?q=a+rocket&top=1").json()["results"][0]
    for text in (b"<script>alert(1)</script>", b"", b"root:x:0:0"):
        (folder / "rocket.png").write_bytes(text)
        assert "no picture" in refused(client.get(found["picture"]), 404)
        assert "no picture" in refused(client.get(found["thumbnail"]), 404)


def test_answers_never_tell_where_the_folder_is(client, folder):
    for path in (
        "/",
        "/?q=a+lion",
        "/api/search?q=a+lion",
        "/api/health",
        "/picture/x",
        "/api/search?filter=name=x&q=a",
    ):
        assert str(folder.parent) not in client.get(path).text


# -- opening ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_embedded_without_what_leads_out_of_it(clip, folder):
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "bad.png").write_bytes(b"no picture")
    reports = []
    library = open_library(folder, lambda model: clip, skipped=reports.extend)
    wanted = {"food/pizza.png" if name == "pizza" else f"{name}.png" for name in NAMES}
    assert {one.name for one in library.sample(10)} == wanted
    assert [source.name for source, _ in reports] == ["bad.png"]


def test_an_index_and_the_folder_that_holds_its_names(clip, index, folder, tmp_path):
    index.save(tmp_path / "photos.npz")
    asked = []
    library = open_library(tmp_path / "photos.npz", lambda model: asked.append(model) or clip)
    assert library.folder.real == os.path.realpath(folder) and asked == ["emoji"] and len(library) == 6
    moved = tmp_path / "moved"
    folder.rename(moved)
    with pytest.raises((InputError, FileNotFoundError)):
        open_library(tmp_path / "photos.npz", lambda model: clip)
    relative = [os.path.relpath(name, folder) for name in index.names]
    Index(index.vectors, relative, "emoji").save(tmp_path / "moved.index")
    assert len(open_library(tmp_path / "moved.index", lambda model: clip, moved)) == 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="are no files in .*say with --folder"):
        open_library(tmp_path / "moved.index", lambda model: clip, tmp_path / "empty")


def test_a_bulk_run_is_an_index(clip, folder, tmp_path):
    """Not a folder of pictures, though it is a folder."""
    embed(folder, tmp_path / "run", batch_size=2)
    for path in (tmp_path / "run", tmp_path / "run" / "image"):
        library = open_library(path, lambda model: clip)
        assert {one.name for one in library.sample(9)} >= {"rocket.png", "food/pizza.png"}


def test_an_index_with_a_root(clip, index, folder, tmp_path, monkeypatch):
    """Names are relative to it, wherever the server is started; rows that were added beside it are there too."""
    monkeypatch.chdir(folder / "food")  # where such names mean nothing, or something else
    names = [os.path.relpath(name, folder) for name in index.names]
    Index(index.vectors, names, "emoji", root=str(folder)).save(tmp_path / "x.npz")
    library = open_library(tmp_path / "x.npz", lambda model: clip)
    assert library.folder.real == os.path.realpath(folder)
    assert {one.name for one in library.sample(9)} == {name.replace(os.sep, "/") for name in names}
    with library.open(library.sample(9)[0].id)[0] as file:
        assert file.read() == (folder / names[0]).read_bytes()
    Index(index.vectors, [f"../{name}" for name in names], "emoji", root=str(folder / "food")).save(tmp_path / "y.npz")
    assert len(open_library(tmp_path / "y.npz", lambda model: clip)) == 6
    shutil.move(folder, tmp_path / "moved")
    assert len(open_library(tmp_path / "x.npz", lambda model: clip, tmp_path / "moved")) == 6
    with pytest.raises(FileNotFoundError, match="wanted a folder"):
        open_library(tmp_path / "x.npz", lambda model: clip)
    for root in ("/", "/etc"):
        Index(index.vectors, ["etc/passwd"] * 6, "emoji", root=root).save(tmp_path / "z.npz")
        with pytest.raises(InputError, match="say with --folder"):
            open_library(tmp_path / "z.npz", lambda model: clip)


def test_folders_that_cannot_be(clip, index, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="wanted a folder"):
        Library(clip, index, tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="wanted a folder"):
        Library(clip, index, tmp_path / "secret.png")
    with pytest.raises(InputError, match="--folder"):
        open_library(folder, lambda model: clip, folder)
    with pytest.raises(InputError, match="width 192, as the model's, found 3"):
        Library(clip, Index(np.eye(6, 3, dtype=np.float32), index.names, "other"), folder)


def test_the_folder_of_all_names():
    assert str(common_folder(["/a/b/c.png", "/a/b/d/e.png"])) == "/a/b"
    for names in (["/a/b.png", "/c/d.png"], ["/a.png"], [], ["\0"]):
        with pytest.raises(InputError, match="say with --folder"):
            common_folder(names)
