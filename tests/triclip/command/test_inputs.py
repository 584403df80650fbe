"""Inputs of commands: typed queries, standard input, any file name, any console and kind of output."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_core.checkpoint.convert import SINGLE_FILE
from clip_core.checkpoint.targets import TARGETS
from clip_core.errors import InputError, MissingDependencyError
from clip_core.hub import MODELS
from tests.triclip.command.command import failing, run
from triclip import Clip
from triclip import backends as backends_module
from triclip.backends import default_backend, installed, open_backend
from triclip.command import COMMANDS, build_parser
from triclip.command.convert import FORMATS
from triclip.search import open_index
from triclip.search.terms import PICTURE, URL, WORDS, Term, parse_terms

PICTURES = MODELS / "emoji" / "pictures"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with photos/ of three pictures."""
    (tmp_path / "photos").mkdir()
    for name in ("lion", "pizza", "rocket"):
        shutil.copy(PICTURES / f"{name}.png", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stems(out):
    return [Path(line.split()[-1]).stem for line in out.splitlines()]


def test_queries_as_people_type_them(here):
    photo = "photos/lion.png"
    both = [Term("golden retriever", WORDS, 1.0), Term(photo, PICTURE, 1.0), Term("fruit", WORDS, -1.0)]
    assert parse_terms(["golden retriever", "+", photo, "-", "fruit"]) == both
    assert parse_terms(["golden", "retriever", "+", photo, "-", "fruit"]) == both
    assert parse_terms([f'"golden retriever" + {photo} - fruit']) == both
    assert parse_terms([f"golden retriever + {photo}", "-", "fruit"]) == both
    assert parse_terms(["2 * dog - .5:fruit"]) == [Term("dog", WORDS, 2.0), Term("fruit", WORDS, -0.5)]
    assert parse_terms(["-", "fruit", "+", "3", "*", "dog"]) == [Term("fruit", WORDS, -1.0), Term("dog", WORDS, 3.0)]
    assert parse_terms(['"black - white"']) == [Term("black - white", WORDS, 1.0)]
    assert parse_terms(["black-and-white t-shirt, 4:3"]) == [Term("black-and-white t-shirt, 4:3", WORDS, 1.0)]
    assert parse_terms(["a dog at 12:30"]) == [Term("a dog at 12:30", WORDS, 1.0)]
    assert parse_terms(["http://x.org/a.png"]) == [Term("http://x.org/a.png", URL, 1.0)]
    for path in ("phtos/lion.png", "lion.jpg", "./lion", "~/lion.heic", "2 * lion.PNG"):
        with pytest.raises(FileNotFoundError, match="no such picture"):
            parse_terms([path])
    for query in (["dog", "+"], ["dog", "+", "-", "cat"], ["0 * dog"]):
        with pytest.raises(InputError, match="query: wanted"):
            parse_terms(query)
    Path("a + b.png").write_bytes(Path(photo).read_bytes())
    assert parse_terms(["a + b.png"]) == [Term("a + b.png", PICTURE, 1.0)]


def test_searching_with_signs_and_from_standard_input(here, capsys, monkeypatch):
    assert run("embed", "photos", "-o", "x.index") == 0
    capsys.readouterr()
    assert run("search", "x.index", "a", "pizza", "+", "photos/lion.png", "-", "2", "*", "a rocket") == 0
    signs = capsys.readouterr().out
    assert run("search", "x.index", "--text", "a pizza", "--image", "photos/lion.png", "--term", "-2", "a rocket") == 0
    assert capsys.readouterr().out == signs
    assert run("search", "x.index", "--top", 1, "a pizza") == 0  # words after an option
    assert stems(capsys.readouterr().out) == ["pizza"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a pizza\n")))
    assert run("search", "x.index", "-", "-k", 1) == 0
    assert stems(capsys.readouterr().out) == ["pizza"]
    assert "no such picture" in failing(capsys, "search", "x.index", "photos/lionn.png")
    assert run("embed", "photos") == 0
    monkeypatch.chdir("photos")
    capsys.readouterr()
    assert run("search", "a pizza", "--top", 1) == 0  # in a folder that has an index
    assert capsys.readouterr().out.split()[-1] == "pizza.png"
    assert "wanted a QUERY" in failing(capsys, "search", "x.npz")
    assert "triclip search . a 'nice pizza'" in failing(capsys, "search", "a", "nice pizza")


def test_paths_alone_and_opening(here, capsysbinary, monkeypatch):
    name = os.fsdecode(b"caf\xe9 pizza.png")
    shutil.move("photos/pizza.png", f"photos/{name}")
    assert run("embed", "photos", "-o", "x.index") == 0
    capsysbinary.readouterr()
    assert run("search", "x.index", "a pizza", "-f", "-k", 1) == 0
    assert capsysbinary.readouterr().out == b"photos/caf\xe9 pizza.png\n"
    assert run("search", "x.index", "a pizza", "-fz", "-k", 2) == 0
    assert capsysbinary.readouterr().out.split(b"\0")[0] == b"photos/caf\xe9 pizza.png"
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert run("search", "x.index", "a rocket", "--open") == 0
    assert opened == [(here / "photos" / "rocket.png").as_uri()]


def test_a_picture_of_a_url(here, capsys):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    assert run("embed", "photos", "-o", "x.index") == 0
    capsys.readouterr()
    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/photos"
        assert run("search", "x.index", f"{address}/lion.png", "-k", 1) == 0
        assert stems(capsys.readouterr().out) == ["lion"]
        assert "can't be fetched" in failing(capsys, "search", "x.index", f"{address}/absent.png")
        server.shutdown()


def test_every_kind_of_input_for_every_kind_of_output(here, capsys, monkeypatch):
    """Each output with one or two inputs, each input with one or two outputs."""
    inputs = [["photos/lion.png"], ["photos/*.png"], ["photos", "beside.png"], ["-"]]
    outputs = ["x.npz", "x.npy", "x.parquet", "x.index", "vecs", "vecs2/"]
    for number, output in enumerate(outputs):
        check_embedded(here, capsys, monkeypatch, output, inputs[number % 4])
    for number, given in enumerate(inputs):
        check_embedded(here, capsys, monkeypatch, f"y{number}/", given)


def check_embedded(here, capsys, monkeypatch, output, given):
    shutil.copy(PICTURES / "octopus.png", "beside.png")
    listed = b"photos/lion.png\0beside.png\0" if "x" in output else b"photos/lion.png\nbeside.png\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
    assert run("embed", *given, "-o", output) == 0
    wanted = {"photos/lion.png": 1, "photos/*.png": 3, "photos": 4, "-": 2}[given[0]]
    index = open_index(output)
    assert len(index) == wanted and all(Path(index.origin.path_of(name)).is_file() for name in index.names)
    capsys.readouterr()
    assert run("search", output, "a lion", "-k", wanted) == 0
    assert "lion" in stems(capsys.readouterr().out)


def test_the_wrong_kind_of_output_names_the_right_one(here, capsys):
    assert "wanted a name ending in" in failing(capsys, "embed", "photos/lion.png", "-o", "x.json")
    said = failing(capsys, "embed", "photos/lion.png", "-o", "vecs", "--deduplicate")
    assert "wanted folders, tar shards or tables" in said
    assert "wanted --output PATH" in failing(capsys, "embed", "photos/lion.png")
    assert "is no index folder" in failing(capsys, "embed", "photos/lion.png", "-o", "photos")


@pytest.mark.parametrize("suffix", ["npz", "npy", "parquet", "index"])
def test_a_name_that_is_no_text_ends_no_run(here, suffix, capsys):
    shutil.copy(PICTURES / "octopus.png", os.fsencode("photos/") + b"caf\xe9.png")
    assert run("embed", "photos", "-o", f"x.{suffix}") == 0
    assert len(open_index(f"x.{suffix}")) == 4
    for options in ((), ("--json",)):
        capsys.readouterr()
        assert run("search", f"x.{suffix}", "an octopus", *options) == 0
        assert "caf" in capsys.readouterr().out
    assert run("classify", "photos", "--labels", "a", "b") == 0


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_output_survives_any_console(here, encoding):
    for name in ("Füße.png", "猫🚀.png"):
        shutil.copy(PICTURES / "octopus.png", here / "photos" / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}

    def said(*arguments):
        made = subprocess.run([sys.executable, "-m", "triclip", *arguments], env=environment, capture_output=True)
        assert made.returncode == 0, made.stderr
        return made.stdout.decode(encoding)

    out = said("classify", "photos", "--labels", "猫", "Füße")
    assert ("猫🚀" in out) == (encoding == "utf-8")
    found = json.loads(said("classify", "photos", "--labels", "猫", "Füße", "--json"))
    assert {Path(one["image"]).name for one in found} > {"Füße.png", "猫🚀.png"}


def test_labels_that_can_t_be(here, capsys):
    assert "'cat' twice" in failing(capsys, "classify", "photos", "--labels", "cat", "dog", "cat")
    assert "empty label" in failing(capsys, "classify", "photos", "--labels", "cat", " ")
    Path("labels.txt").write_text("cat\ncat\n")
    assert "'cat' twice" in failing(capsys, "classify", "absent.png", "--labels-file", "labels.txt")


def test_help_has_examples_and_no_command_prints_it(capsys):
    assert run() == 0
    assert "examples:" in capsys.readouterr().out
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        with pytest.raises(SystemExit) as exited:
            run(name, "--help")
        assert exited.value.code == 0 and f"  triclip {name} " in capsys.readouterr().out
    assert set(FORMATS) == {*TARGETS, *SINGLE_FILE}
    with pytest.raises(SystemExit):
        run("convert", "a", "b", "--to", "hff")
    assert "invalid choice" in capsys.readouterr().err


def test_completion_of_shells(capsys):
    pytest.importorskip("shtab", reason="extra `cli`")
    for shell in ("bash", "zsh"):
        with pytest.raises(SystemExit) as exited:
            run("--print-completion", shell)
        out = capsys.readouterr().out
        assert exited.value.code == 0 and "--index-type" in out and "kerashub" in out


def test_help_is_coloured_at_a_terminal_unless_told_otherwise(monkeypatch):
    pytest.importorskip("rich_argparse", reason="extra `cli`")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in build_parser().format_help()
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in build_parser().format_help()


def test_the_default_backend_is_the_first_one_installed(monkeypatch):
    assert default_backend() == installed()[0]
    monkeypatch.setattr(backends_module, "_is_there", lambda package: package in ("jax", "flax"))
    assert default_backend() == "flax"
    monkeypatch.setitem(sys.modules, "triclip.backends.torch_", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(backends_module, "import_module", _missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'triclip\[torch\]' \(installed: flax\)"):
        open_backend("torch")
    monkeypatch.setattr(backends_module, "_is_there", lambda package: False)
    with pytest.raises(MissingDependencyError, match="no backend is installed"):
        Clip.from_pretrained()


def _missing(name):
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


@pytest.mark.parametrize("backend", ["torch", "tf", "flax"])
def test_devices_have_the_same_names_everywhere(backend):
    pytest.importorskip({"torch": "torch", "tf": "tensorflow", "flax": "jax"}[backend])
    found = open_backend(backend)
    assert found.find_device("cpu")[1] == "cpu" and found.find_device("auto")[1]
    for name in ("cuda:99", "gpux", "cuda:x"):
        with pytest.raises(InputError, match="wanted auto or one of .*cpu"):
            found.find_device(name)
    clip = Clip.from_pretrained(backend=backend, device="cpu")
    np.testing.assert_allclose(np.linalg.norm(clip.encode_text("a cat")), 1, atol=1e-5)


def test_a_device_that_isn_t_there(here, capsys):
    for command in (
        ("classify", "photos", "--labels", "a"),
        ("embed", "photos", "-o", "x.index"),
        ("embed", "photos", "-o", "v"),
    ):
        assert "device 'cuda:99'" in failing(capsys, *command, "--device", "cuda:99")


def test_pictures_of_phones(here, capsys):
    if "heif" not in str(Image.OPEN) and not _has_heif():
        shutil.copy("photos/lion.png", "photos/phone.HEIC")
        assert run("embed", "photos", "-o", "x.index") == 0
        assert "1 HEIC, which" in capsys.readouterr().out
        return
    from pillow_heif import from_pillow

    picture = Image.open("photos/pizza.png").convert("RGB")
    from_pillow(picture).save("photos/phone.heic", quality=90)
    shutil.copy("photos/phone.heic", "photos/named.jpg")
    clip = Clip.from_pretrained()
    for name in ("phone.heic", "named.jpg"):
        vector = clip.encode_image(f"photos/{name}")[0]
        assert vector @ clip.encode_image(picture)[0] > 0.97
    assert run("embed", "photos", "-o", "x.index") == 0 and len(open_index("x.index")) == 5


def _has_heif():
    from clip_core.image.input import reads_heif

    return reads_heif()
