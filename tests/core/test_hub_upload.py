"""push_to_hub against a hub served on loopback: the uploaded files, and the errors of wrong calls."""

import base64
import http.server
import json
from urllib.parse import unquote, urlparse

import pytest

from clip_core.hub import upload_arguments, upload_message
from tests.core.loopback_hub import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The requests of an upload: make a repository or a branch, ask how to upload, commit."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple] = []

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else self._chunks()
        path = unquote(urlparse(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or "someone"
            Hub.seen.append(
                ("create", f"{owner}/{asked['name']}", asked.get("private"), asked.get("visibility"), token)
            )
            return self.reply({"url": f"http://{self.headers['Host']}/{owner}/{asked['name']}"})
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        _, _, _, owner, name, action, branch = path.split("/", 6)
        if action == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.reply({"files": [{**f, "shouldIgnore": False} for f in files]})
        if action == "branch":
            Hub.seen.append(("branch", branch))
            return self.reply({})
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        Hub.seen.append(
            ("commit", f"{owner}/{name}", branch, header["summary"], header["description"], files, self.path)
        )
        url = f"http://{self.headers['Host']}/{owner}/{name}/commit/{COMMIT}"
        return self.reply({"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": f"{url}/discussions/3"})

    def do_HEAD(self):
        self.reply({}, 404, "EntryNotFound")

    def do_GET(self):
        if self.path == "/api/whoami-v2":
            return self.reply({"name": "someone", "type": "user", "orgs": []})
        return self.reply({"sha": COMMIT, "id": "x/y"}, 404, "EntryNotFound")

    def _chunks(self):
        found = b""
        while size := int(self.rfile.readline(), 16) if self.headers.get("Transfer-Encoding") else 0:
            found += self.rfile.read(size)
            self.rfile.readline()
        return found

    def reply(self, content, status=200, code=None):
        body = json.dumps(content).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    """Run code in a process whose hub is on loopback; returns what it printed. `Hub.seen` has the requests."""
    Hub.seen = []
    with serving(Hub, tmp_path) as run:
        yield run


def commits():
    return [seen for seen in Hub.seen if seen[0] == "commit"]


def test_a_folder_is_one_commit(hub, tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("a.json", "b.txt", ".hidden"):
        (tmp_path / "model" / name).write_text(name)
    lines = hub(
        """
        from clip_core.hub import push_to_hub
        info = push_to_hub("model", "owner/name", commit_message="first", private=True, token="hf_x",
                           revision="draft", commit_description="why", create_pr=True)
        print(info.oid)
        push_to_hub("model", "name", files=["a.json"], tags=["clip"])
        """
    )
    assert lines == [COMMIT]
    created = [seen for seen in Hub.seen if seen[0] == "create"]
    assert created[0][1] == "owner/name" and (created[0][2] is True or created[0][3] == "private")
    assert created[0][4] == "hf_x" and created[1][1] == "someone/name"
    assert ("branch", "draft") in Hub.seen
    first, second = commits()
    assert first[1:5] == ("owner/name", "draft", "first", "why") and "create_pr=1" in first[6]
    assert first[5] == {"a.json": b"a.json", "b.txt": b"b.txt"}
    assert second[2:4] == ("main", "Upload files") and second[5]["a.json"] == b"a.json"
    assert b"tags:\n- clip" in second[5]["README.md"]


def test_saving_uploads_what_it_wrote(hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/other.txt").write_text("stays here")
    hub(
        """
        from clip_core import CLIPTokenizer, CLIPTokenizerFast, CLIPProcessor, CLIPImageProcessor
        CLIPTokenizerFast().save_pretrained("out", push_to_hub=True, commit_message="new", use_auth_token="hf_y")
        CLIPProcessor(CLIPImageProcessor(), CLIPTokenizer()).save_pretrained("out", True, repo_id="o/p", private=False)
        CLIPTokenizer().push_to_hub("o/tokenizer")
        CLIPProcessor(CLIPImageProcessor(), CLIPTokenizer()).push_to_hub("o/processor", token="hf_z")
        """
    )
    own, both, tokenizer, processor = commits()
    slow = {"tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"}
    assert own[1:4] == ("someone/out", "main", "new") and set(own[5]) == slow | {"tokenizer.json"}
    assert both[1] == "o/p" and set(both[5]) == slow | {"preprocessor_config.json"}
    assert tokenizer[1:4] == ("o/tokenizer", "main", "Upload tokenizer") and set(tokenizer[5]) == slow
    assert processor[3] == "Upload processor" and set(processor[5]) == set(both[5])
    assert [seen[4] for seen in Hub.seen if seen[0] == "create"] == ["hf_y", "", "", "hf_z"]


def test_a_folder_of_the_repository_s_name_is_uploaded_whole(hub, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/notes.txt").write_text("mine")
    hub(
        """
        from clip_core import CLIPTokenizer
        CLIPTokenizer().push_to_hub("o/kept")
        CLIPTokenizer().push_to_hub("o/kept", use_temp_dir=True)
        """
    )
    whole, temporary = commits()
    assert whole[5]["notes.txt"] == b"mine" and (tmp_path / "kept/vocab.json").is_file()
    assert "notes.txt" not in temporary[5]


def test_upload_arguments():
    assert upload_arguments({}, "a/b") == {"repo_id": "b"}
    assert upload_arguments({"repo_id": "x/y", "token": True, "private": None}, "a") == {
        "repo_id": "x/y",
        "token": True,
    }
    with pytest.warns(FutureWarning, match="use_auth_token is deprecated: use token"):
        assert upload_arguments({"use_auth_token": "t"}, "a") == {"repo_id": "a", "token": "t"}
    with pytest.warns(FutureWarning, match="organization"):
        assert upload_arguments({"organization": "o"}, "a/b")["repo_id"] == "o/b"
    with pytest.warns(FutureWarning, match="repo_url"):
        assert upload_arguments({"repo_url": "https://huggingface.co/o/n"}, "a")["repo_id"] == "o/n"
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        upload_arguments({"speed": 3}, "a")
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="use_auth_token, token: wanted one"):
        upload_arguments({"use_auth_token": "t", "token": "u"}, "a")


def test_the_default_message_says_what_is_uploaded():
    from clip_core import CLIPConfig, CLIPImageProcessor, CLIPTokenizerFast

    found = [upload_message(thing) for thing in (CLIPConfig(), CLIPImageProcessor(), CLIPTokenizerFast(), 1)]
    assert found == ["Upload config", "Upload processor", "Upload tokenizer", "Upload int"]
