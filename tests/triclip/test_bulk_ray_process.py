"""The Ray engine has no side effects on its process. Ray is replaced by a fake."""

import logging
import os
import sys
import types

import pytest

from tests.triclip.bulk_fakes import FakeSpec, tree
from tests.triclip.image_text import shard
from triclip.embed import embed

CONTEXT = types.SimpleNamespace(enable_progress_bars=True)


class Data:
    """A data set of Ray Data, worked on in this process."""

    def __init__(self, rows):
        self.rows = rows
        assert not CONTEXT.enable_progress_bars

    def map(self, actor, fn_constructor_args, **_):
        return Data(map(actor(*fn_constructor_args), self.rows))

    def iter_rows(self):
        yield from self.rows


@pytest.fixture
def ray(monkeypatch):
    fake, data = types.ModuleType("ray"), types.ModuleType("ray.data")
    fake.started, fake.data, fake.ended = [], data, []
    fake.is_initialized = lambda: False
    fake.init = lambda **options: fake.started.append((options, os.environ.get("RAY_USAGE_STATS_ENABLED")))
    fake.cluster_resources = lambda: {"CPU": 2.0}
    fake.shutdown = lambda: fake.ended.append(True)
    data.from_items = lambda rows, override_num_blocks: Data(rows)
    data.DataContext = types.SimpleNamespace(get_current=lambda: CONTEXT)
    data.ActorPoolStrategy = lambda size: size
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return fake


def test_the_process_is_as_it_was(ray, tmp_path):
    shard(tmp_path / "a.tar", 7)
    before, level = dict(os.environ), logging.getLogger("ray.data").level
    options = {"samples_per_shard": 3, "batch_size": 2, "threads": 1}
    report = embed(tmp_path / "a.tar", tmp_path / "ray", FakeSpec(), engine="ray", **options)
    assert dict(os.environ) == before and logging.getLogger("ray.data").level == level
    assert CONTEXT.enable_progress_bars
    [(asked, reports)] = ray.started
    assert reports == "0" and asked["_node_ip_address"] == "127.0.0.1" and ray.ended
    embed(tmp_path / "a.tar", tmp_path / "local", FakeSpec(), **options)
    assert report.rows == {"image": 7} and tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_a_cluster_that_is_there_is_told_nothing(ray, monkeypatch):
    from triclip.embed.ray_engine import Ray

    Ray(address="head:6379")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    Ray()
    assert [(asked.get("address"), reports) for asked, reports in ray.started] == [("head:6379", None), (None, "1")]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
