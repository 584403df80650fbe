"""A folder of pictures beside a file that must never be served, the embedded model, and the application."""

import shutil
from contextlib import contextmanager

import pytest

from clip_core.hub import MODELS
from triclip import Clip
from triclip.search import Index
from triclip.serve import Library, Limits, create_app

PICTURES = MODELS / "emoji" / "pictures"
NAMES = ("rocket", "pizza", "lion", "guitar", "snowman", "sunflower")


@pytest.fixture(scope="session")
def clip():
    return Clip.from_pretrained("emoji")


@pytest.fixture(scope="session")
def vectors(clip):
    return clip.encode_image([PICTURES / f"{name}.png" for name in NAMES])


@pytest.fixture
def folder(tmp_path):
    """photos/ with six pictures, one of them in a folder; secret.png beside it."""
    photos = tmp_path / "photos"
    (photos / "food").mkdir(parents=True)
    for name in NAMES:
        shutil.copy(PICTURES / f"{name}.png", photos / ("food" if name == "pizza" else ".") / f"{name}.png")
    shutil.copy(PICTURES / "octopus.png", tmp_path / "secret.png")
    return photos


@pytest.fixture
def index(folder, vectors):
    names = [str(folder / ("food" if name == "pizza" else ".") / f"{name}.png") for name in NAMES]
    return Index(vectors, names, "emoji", {"year": [2019, 2020, 2021, 2022, 2023, 2024]})


@pytest.fixture
def library(clip, index, folder):
    return Library(clip, index, folder)


@pytest.fixture
def serving(clip, index, folder):
    """serving(limit=value, …): a client of an application of its own."""

    from starlette.testclient import TestClient

    @contextmanager
    def start(raise_errors=True, hosts=("*",), index=index, **limits):
        bounds = Limits(**limits)
        app = create_app(Library(clip, index, folder, bounds), bounds, hosts=hosts)
        with TestClient(app, raise_server_exceptions=raise_errors) as client:
            yield client

    return start


@pytest.fixture
def client(serving):
    with serving() as client:
        yield client
