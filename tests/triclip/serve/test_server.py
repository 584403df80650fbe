"""The command: a real server in another process, on loopback, started and stopped a few times."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.triclip.serve.helpers import PICTURES
from triclip.command import main
from triclip.command.serve import address_of, is_loopback, listening

ROOT = Path(__file__).parents[3]


@contextmanager
def server(*arguments, wrapper=""):
    """(process, address) of `triclip serve`, which ends after two minutes whatever happens."""
    code = "import signal, sys; signal.alarm(120)\nfrom triclip.command import main\n"  # the alarm ends it
    code += f"{wrapper}\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"(\d+) pictures at (http://\S+) \(Ctrl\+C stops\)\n", line)
        assert found, (line, process.stderr.read())
        yield process, found[2]
    finally:
        process.kill()
        process.communicate()


def get(address, path):
    with urllib.request.urlopen(address + path, timeout=60) as answer:
        return answer.read()


def raw(address, data, seconds=60):
    """What comes back for some bytes, until the server closes the connection."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), seconds) as connection:
        connection.sendall(data)
        out = b""
        while chunk := connection.recv(65536):
            out += chunk
    return out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_stops_when_it_is_asked_to(number):
    with server(PICTURES) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        found = json.loads(get(address, "/api/search?q=a+rocket&top=1"))["results"]
        assert found[0]["name"] == "rocket.png"
        assert get(address, found[0]["picture"]) == (PICTURES / "rocket.png").read_bytes()
        head = b"GET /../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert raw(address, head).startswith(b"HTTP/1.1 404")  # a path as no browser sends it
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "stopped\n", "")


IMPATIENT = """
from triclip.serve import limits, web
web._KEEP_ALIVE = 1
real = limits.Limits
limits.Limits = lambda **given: real(connections=4, **given)
"""


def test_the_servers_own_limits():
    """A head that is too large, a connection that idles after a request, too many connections."""
    with server(PICTURES, wrapper=IMPATIENT) as (_, address):
        long = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000
        assert raw(address, long).startswith(b"HTTP/1.1 400")
        whole = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert raw(address, whole).startswith(b"HTTP/1.1 200")  # and then it is closed
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(connected(address))
            assert raw(address, whole).startswith(b"HTTP/1.1 503")
        assert b"ok" in get(address, "/api/health")


def connected(address, reset=False):
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), 60)
    if reset:  # closing it then tells the server so harshly
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return connection


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_clients_that_go_away_leave_no_traceback(reset, tmp_path):
    """In the middle of a head, of a body, of a form, before an answer, in the middle of a large one."""
    Image.effect_noise((1500, 1500), 90).save(tmp_path / "large.png")
    form = b"Content-Type: multipart/form-data; boundary=x\r\n"
    body = b"Host: localhost\r\nContent-Length: 5000\r\n"
    with server(tmp_path) as (process, address):
        large = json.loads(get(address, "/api/search?q=a"))["results"][0]["picture"].encode()
        for data in (
            b"GET / HT",
            b"POST /api/search HTTP/1.1\r\nContent-Type: image/png\r\n" + body + b"\r\nhalf",
            b"POST /api/search HTTP/1.1\r\n" + form + body + b"\r\n--x\r\n",
            b"POST / HTTP/1.1\r\n" + form + body + b"\r\n--x\r\n",
            b"GET /?q=a+thing HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET " + large + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            with connected(address, reset) as connection:
                connection.sendall(data)
                if data.startswith(b"GET /picture"):
                    assert connection.recv(1000)
            assert b"ok" in get(address, "/api/health")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_what_is_wrong_is_said_before_anything_is_loaded(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("triclip.pipeline.Clip.from_pretrained", None)
    for arguments, words in (
        (["--port", "65536"], "--port: wanted a number from 0 to 65535, found 65536"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 8765: can't listen there"),
        (["--upload-limit", "0"], "upload_bytes: wanted a number above 0"),
        (["--results", "-1"], "results: wanted a number above 0, found -1"),
    ):
        assert main(["serve", str(PICTURES), *arguments]) == 1
        assert words in capsys.readouterr().err
    with listening("127.0.0.1", 0) as taken:
        port = address_of(taken).rpartition(":")[2]
        assert main(["serve", str(PICTURES), "--port", port]) == 1
        assert "can't listen there: Address already in use" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none.npz"), "--port", "0"]) == 1
    assert "no such index file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(PICTURES)]) == 1
    assert "pip install 'triclip[serve]'" in capsys.readouterr().err


def test_what_is_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org", "")))


def test_another_host_is_warned_of(capsys, monkeypatch, clip):
    """What would be run is not: nothing listens beyond loopback in a test."""
    monkeypatch.setattr("triclip.command.serve._serve", lambda *_: None)
    monkeypatch.setattr("triclip.pipeline.Clip.from_pretrained", lambda *_, **__: clip)
    real = listening
    monkeypatch.setattr("triclip.command.serve.listening", lambda host, port: real("127.0.0.1", port))
    assert main(["serve", str(PICTURES), "--host", "0.0.0.0", "--port", "0"]) == 0
    err = capsys.readouterr().err
    assert "warning: --host 0.0.0.0" in err and "no password and no encryption" in err and "16 pictures" in err
    assert main(["serve", str(PICTURES), "--port", "0"]) == 0
    assert capsys.readouterr().err == ""


def test_the_framework_is_imported_by_nothing_else():
    lines = "import sys, clip_core, triclip.command, triclip.serve, triclip.serve.web, triclip.command.serve\n"
    lines += "triclip.command.build_parser()\nprint({'starlette', 'uvicorn', 'torch', 'PIL'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() in ("set()", "{'PIL'}"), out
