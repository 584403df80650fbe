"""Common to the tests of `serve`; importing it skips a module if the extra is not installed."""

import pytest

pytest.importorskip("starlette", reason="extra `serve`")
pytest.importorskip("httpx2", reason="Starlette's test client")
pytest.importorskip("torch", reason="the embedded model runs on it here")

from clip_core.hub import MODELS  # noqa: E402

PICTURES = MODELS / "emoji" / "pictures"
NAMES = ("rocket", "pizza", "lion", "guitar", "snowman", "sunflower")


def stems(answer):
    assert answer.status_code == 200, answer.text
    return [one["name"].rpartition("/")[2].removesuffix(".png") for one in answer.json()["results"]]


def refused(answer, status):
    """The message of a JSON error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["status"] == status
    return error["message"]
