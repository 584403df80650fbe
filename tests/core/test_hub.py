"""Names to folders: local, bundled, and through huggingface_hub against a hub served on loopback."""

import hashlib
import http.server
import json
import sys
import textwrap
from urllib.parse import unquote, urlparse

import pytest

from clip_core.errors import MissingDependencyError
from clip_core.hub import resolve_file, resolve_folder
from tests.core.loopback_hub import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "clip"}',
    "vocab.json": b'{"a": 0}',
    "merges.txt": b"#version: 0.2\n",
    "model.safetensors": b"s" * 2000,
    "pytorch_model.bin": b"p" * 3000,
    "tf_model.h5": b"t" * 4000,
    "text_encoder/config.json": b'{"model_type": "clip_text_model"}',
    "text_encoder/model.fp16.safetensors": b"h" * 1000,
    "text_encoder/model.safetensors": b"f" * 2000,
}


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The four requests that huggingface_hub makes for a model repository."""

    protocol_version = "HTTP/1.1"
    fetched: list[str] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = unquote(urlparse(self.path).path)
        if path.startswith("/api/models/triclip-test/tiny/tree/"):
            entries = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in FILES.items()]
            self.reply(json.dumps(entries).encode(), body)
        elif path.startswith("/api/models/triclip-test/tiny"):
            about = {"id": "triclip-test/tiny", "modelId": "triclip-test/tiny", "sha": COMMIT, "private": False}
            about |= {"tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in FILES]}
            self.reply(json.dumps(about).encode(), body)
        elif path.startswith("/triclip-test/tiny/resolve/"):
            name = path.split("/", 5)[5]
            if body:
                FakeHub.fetched.append(name)
            self.reply(FILES.get(name), body)
        else:
            self.reply(None, body)

    def reply(self, content, body):
        found = content is not None
        content = content if found else b"{}"
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    """A hub on loopback, and a function that runs code against it in a process of its own."""
    FakeHub.fetched = []
    with serving(FakeHub, tmp_path) as run:
        named = "from clip_core.hub import resolve_file, resolve_folder\n"
        yield lambda code, **extra: run(named + textwrap.dedent(code), **extra)


def test_a_hub_name_fetches_one_set_of_weights(hub):
    lines = hub(
        """
        folder = resolve_folder("triclip-test/tiny", weights=True)
        print(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
        print(resolve_folder("triclip-test/tiny", weights=True, local_files_only=True) == folder)
        """
    )
    fetched = ["config.json", "merges.txt", "model.safetensors", "text_encoder/config.json", "vocab.json"]
    assert lines == [str(fetched), "True"]
    assert "pytorch_model.bin" not in FakeHub.fetched and "tf_model.h5" not in FakeHub.fetched


def test_subfolder_and_variant(hub):
    lines = hub(
        """
        folder = resolve_folder("triclip-test/tiny", subfolder="text_encoder", weights=True, variant="fp16")
        print(folder.name, sorted(p.name for p in folder.iterdir()))
        """
    )
    assert lines == ["text_encoder ['config.json', 'model.fp16.safetensors']"]


def test_small_files_need_no_weights(hub):
    assert hub('print(resolve_file("triclip-test/tiny", "vocab.json").read_text())') == ['{"a": 0}']
    assert not any(name.endswith((".safetensors", ".bin", ".h5")) for name in FakeHub.fetched)


def test_unknown_names_and_an_empty_cache_are_file_not_found(hub):
    lines = hub(
        """
        for name, options in [("triclip-test/absent", {}), ("triclip-test/tiny", {"local_files_only": True})]:
            try:
                resolve_folder(name, weights=True, **options)
            except FileNotFoundError as error:
                print(str(error).startswith(name))
        """
    )
    assert lines == ["True", "True"]


def test_a_hub_that_does_not_answer_is_file_not_found(hub):
    lines = hub(
        """
        try:
            resolve_folder("triclip-test/tiny", weights=True)
        except FileNotFoundError as error:
            print("triclip-test/tiny" in str(error))
        """,
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert lines == ["True"]


def test_local_folders_files_and_bundled_names(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_text("{}")
    assert resolve_folder(tmp_path) == tmp_path
    assert resolve_folder(str(tmp_path), subfolder="sub") == tmp_path / "sub"
    assert resolve_file(tmp_path, "config.json", subfolder="sub").name == "config.json"
    assert resolve_file(tmp_path / "sub" / "config.json", "config.json").name == "config.json"
    assert resolve_folder("emoji").name == "emoji"


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "a/b/c", "../up", "", "a//b"])
def test_a_path_that_is_no_name_is_file_not_found(name):
    with pytest.raises(FileNotFoundError, match="hub name|no such"):
        resolve_folder(name or "/no/such/../folder ")


def test_a_missing_subfolder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="'absent'"):
        resolve_folder(tmp_path, subfolder="absent")


def test_a_hub_name_without_huggingface_hub_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"triclip\[hub\]"):
        resolve_folder("owner/name")
