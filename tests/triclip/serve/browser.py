"""The page in headless Chromium: words typed, a picture uploaded, light and dark, wide and narrow.

    python tests/triclip/serve/browser.py --output docs/images/serve.png [--browser chromium]

Not part of the test suite, which has no browser. Talks to Chromium through its own pipe; exits with an error when
something on the page is not as it should be, or when the browser reports a problem.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "clip_core/models/emoji/pictures"
_PROBLEMS = ("Log.entryAdded", "Runtime.exceptionThrown", "Network.loadingFailed")


class Browser:
    """Chromium's DevTools protocol over file descriptors 3 and 4: one JSON a message, zero bytes between them."""

    def __init__(self, program: str, profile: str) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._out, self._in = ours[1], theirs[0]
        options = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars"
        options += " --remote-debugging-pipe about:blank"
        command = [program, f"--user-data-dir={profile}", *options.split()]
        quoted = f'exec 3<&{ours[0]} 4>&{theirs[1]}; exec "$@"'
        self.process = subprocess.Popen(
            ["timeout", "300", "bash", "-c", quoted, "bash", *command],
            pass_fds=(ours[0], theirs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours[0]), os.close(theirs[1])
        self._numbers, self._rest, self.events, self._session = itertools.count(1), b"", [], None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Log", "Runtime", "Network", "Accessibility"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise RuntimeError("the browser is gone")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(line)
        if "method" in found:
            self.events.append(found)
        return found

    def wait_for(self, expression: str) -> Any:
        """The value of a script, once it is true. (The page's policy stops its own scripts, not the debugger's.)"""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                value = self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")
            except RuntimeError:  # between two pages
                value = None
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def node(self, selector: str) -> int:
        root = self("DOM.getDocument")["root"]["nodeId"]
        return self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]

    def click(self, selector: str) -> None:
        corners = self("DOM.getBoxModel", nodeId=self.node(selector))["model"]["content"]
        place = {"x": (corners[0] + corners[4]) / 2, "y": (corners[1] + corners[5]) / 2, "button": "left"}
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, clickCount=1, **place)

    def shape(self, width: int, height: int, scheme: str) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shot(self) -> Image.Image:
        data = base64.b64decode(self("Page.captureScreenshot", format="png")["data"])
        return Image.open(io.BytesIO(data)).convert("RGB")


_LOADED = "document.readyState == 'complete' && [...document.images].every(i => i.complete && i.naturalWidth > 0)"
_OVERFLOW = "document.documentElement.scrollWidth <= innerWidth"


def look(browser: Browser, address: str) -> dict[str, Image.Image]:
    """Goes through the page as a person would; returns what it looks like. Raises AssertionError."""
    shots = {}
    browser.shape(1080, 720, "light")
    browser("Page.navigate", url=address)
    browser.wait_for("document.querySelectorAll('.grid li').length == 16 && " + _LOADED)
    shots["landing"] = browser.shot()
    browser.click("#q")
    browser("Input.insertText", text="something sweet to eat")
    for kind in ("keyDown", "keyUp"):
        browser("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    browser.wait_for("location.search.includes('something') && " + _LOADED)
    assert browser.wait_for("document.querySelector('.name').textContent") == "birthday-cake"
    shots["light"] = browser.shot()
    browser.shape(1080, 720, "dark")
    shots["dark"] = browser.shot()
    browser.shape(360, 640, "dark")
    browser.wait_for(_OVERFLOW)
    shots["narrow"] = browser.shot()
    browser.shape(1080, 720, "light")
    browser.click(".picture summary")
    browser("DOM.setFileInputFiles", files=[str(PICTURES / "lion.png")], nodeId=browser.node("input[type=file]"))
    browser.click(".picture button")
    browser.wait_for("document.querySelector('img.asked') && " + _LOADED)
    assert browser.wait_for("document.querySelector('.name').textContent") == "lion"
    shots["upload"] = browser.shot()
    browser.click(".foot a")
    browser.wait_for("location.search.startsWith('?like=') && " + _LOADED)
    nodes = browser("Accessibility.getFullAXTree")["nodes"]
    for node in nodes:
        role, name = (node.get(key, {}).get("value", "") for key in ("role", "name"))
        if role in ("textbox", "searchbox", "button", "link", "image") and not node.get("ignored"):
            assert name, f"{role} without a name"
    found = [event["params"] for event in browser.events if event["method"] in _PROBLEMS]
    assert not found, found
    return shots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="where the picture of the search goes")
    parser.add_argument("--all", type=Path, help="a folder for the other pictures")
    parser.add_argument("--browser", default="chromium")
    args = parser.parse_args()
    command = [
        sys.executable,
        "-c",
        "import signal, sys; signal.alarm(400)\nfrom triclip.command import main\nsys.exit(main())",
    ]
    server = subprocess.Popen(
        [*command, "serve", str(PICTURES), "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        with tempfile.TemporaryDirectory() as profile:
            browser = Browser(args.browser, profile)
            try:
                shots = look(browser, address)
            finally:
                browser.process.terminate()
                browser.process.wait(20)
    finally:
        server.terminate()
        assert server.wait(60) == 0
    args.output.parent.mkdir(parents=True, exist_ok=True)
    shots["light"].quantize(256, Image.Quantize.FASTOCTREE).save(args.output, optimize=True)
    for name, shot in shots.items() if args.all else ():
        args.all.mkdir(parents=True, exist_ok=True)
        shot.save(args.all / f"{name}.png")
    print(f"{args.output}: {args.output.stat().st_size} bytes; nothing is wrong with the page")


if __name__ == "__main__":
    main()
