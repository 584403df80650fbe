"""Shards' tables that are kept: scanned once, read lazily, never of another file."""

import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clip_core.errors import DataError
from tests.triclip.image_text import shard, write_tar
from triclip.data import open_source, shard_index, webdataset
from triclip.train.load import load_config


@pytest.fixture
def scans(monkeypatch):
    """The shards whose headers are read."""
    names = []
    real = webdataset.members
    monkeypatch.setattr(webdataset, "members", lambda path: names.append(path.name) or real(path))
    return names


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", 4 + number, first=10 * number)
    return str(tmp_path / "*.tar")


def contents(source):
    return [(sample.name, list(sample.images), list(sample.captions)) for sample in source]


def test_headers_are_read_once(shards, scans, tmp_path):
    plain = contents(open_source(shards, index=None))
    assert sorted(scans) == ["0.tar", "1.tar", "2.tar"]
    scans.clear()
    assert contents(open_source(shards, index=tmp_path / "kept")) == plain
    assert sorted(scans) == ["0.tar", "1.tar", "2.tar"]
    scans.clear()
    kept = open_source(shards, index=tmp_path / "kept")
    assert scans == [] and contents(kept) == plain == contents(pickle.loads(pickle.dumps(kept)))
    assert len(pickle.dumps(kept)) < 2000  # a worker is sent places, not tables
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: kept[i].captions, range(len(kept)))) == [row[2] for row in plain]


def test_a_shard_that_changed_or_is_new_is_read_again(shards, scans, tmp_path):
    open_source(shards, index=tmp_path / "kept")
    scans.clear()
    shard(tmp_path / "1.tar", 2, first=50)
    shard(tmp_path / "3.tar", 1, first=60)
    source = open_source(shards, index=tmp_path / "kept")
    assert scans == ["1.tar", "3.tar"]
    assert contents(source) == contents(open_source(shards, index=None))


@pytest.mark.parametrize(
    "other", [{"caption_key": "json"}, {"label_key": ""}, {"needs": {"images"}}, {"salvage": True}]
)
def test_another_way_to_read_has_tables_of_its_own(scans, tmp_path, other):
    write_tar(
        tmp_path / "a.tar",
        [("0.jpg", b"x"), ("0.txt", b"a"), ("0.json", b'{"caption": "b"}'), ("0.cls", b"1"), ("1.jpg", b"y")],
    )
    given = {"index": tmp_path / "kept", "probe": False}
    for _ in range(2):
        for keys in ({}, other):
            found = open_source(tmp_path / "a.tar", **given, **keys)
            assert contents(found) == contents(open_source(tmp_path / "a.tar", index=None, probe=False, **keys))
    assert len([name for name in scans if name == "a.tar"]) == 2 + 4


@pytest.mark.parametrize(
    "fault", ["cut table", "no table", "no manifest", "damaged manifest", "manifest of another kind"]
)
def test_a_damaged_index_is_made_again(shards, scans, tmp_path, fault):
    plain = contents(open_source(shards, index=tmp_path / "kept"))
    table = next((tmp_path / "kept").rglob("1.tar.table"))
    manifest = next((tmp_path / "kept").rglob("manifest.json"))
    scans.clear()
    if fault == "cut table":
        table.write_bytes(table.read_bytes()[:-1])
    elif fault == "no table":
        table.unlink()
    elif fault == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("[]" if "kind" in fault else manifest.read_text()[:-9])
    assert contents(open_source(shards, index=tmp_path / "kept")) == plain
    assert sorted(scans) == (["1.tar"] if "table" in fault else ["0.tar", "1.tar", "2.tar"])


def test_damage_and_warnings_are_said_again(tmp_path, caplog):
    shard(tmp_path / "a.tar", 3)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole.rstrip(b"\0")) - 700])
    given = {"index": tmp_path / "kept", "salvage": True}
    first, second = (open_source(tmp_path / "a.tar", **given) for _ in range(2))
    assert list(first.damage) == list(second.damage) and "kept the" in first.damage[0]
    write_tar(tmp_path / "b.tar", [("0.jpg", b"x"), ("0.txt", b"a"), ("1.jpg", b"y")])
    for _ in range(2):
        caplog.clear()
        open_source(tmp_path / "b.tar", index=tmp_path / "kept", probe=False)
        assert "b.tar: left out 1 samples without" in caplog.text


def test_missing_and_damaged_shards_are_counted_each_time(shards, tmp_path):
    (tmp_path / "1.tar").write_bytes(b"no tar" * 200)
    for _ in range(2):
        source = open_source(shards, index=tmp_path / "kept", skip_shards=1)
        assert source.skipped_shards == [str(tmp_path / "1.tar")] and len(source) == 10
        with pytest.raises(DataError, match=r"1\.tar"):
            open_source(shards, index=tmp_path / "kept")


def test_by_processes_as_by_one(shards, tmp_path):
    plain = contents(open_source(shards, index=None))
    assert contents(open_source(shards, index=None, workers=2)) == plain
    assert contents(open_source(shards, index=tmp_path / "kept", workers=2)) == plain


def test_one_scans_and_others_wait(shards, scans, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(contents(open_source(shards, index=tmp_path / "kept"))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(one == found[0] for one in found)
    assert sorted(scans) == ["0.tar", "1.tar", "2.tar"]


def test_what_cannot_be_kept_is_read_each_time(shards, scans, tmp_path, caplog):
    (tmp_path / "kept").write_text("a file")
    plain = contents(open_source(shards, index=None))
    scans.clear()
    assert contents(open_source(shards, index=tmp_path / "kept")) == plain
    assert sorted(scans) == ["0.tar", "1.tar", "2.tar"] and "can't keep" in caplog.text


def test_a_killed_scan_keeps_what_it_had(shards, scans, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "SAVED_EVERY", 1)
    real = webdataset._scan_whole

    def dies(path, *rest):
        if path.name == "2.tar":
            raise KeyboardInterrupt
        return real(path, *rest)

    monkeypatch.setattr(webdataset, "_scan_whole", dies)
    with pytest.raises(KeyboardInterrupt):
        open_source(shards, index=tmp_path / "kept")
    monkeypatch.setattr(webdataset, "_scan_whole", real)
    scans.clear()
    open_source(shards, index=tmp_path / "kept")
    assert scans == ["2.tar"]


def test_auto_keeps_large_sets_in_the_users_cache(shards, scans, tmp_path, monkeypatch):
    monkeypatch.setenv("TRICLIP_CACHE", str(tmp_path / "cache"))
    open_source(shards)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(shard_index, "KEPT_FROM", 1)
    open_source(shards)
    scans.clear()
    open_source(shards)
    assert scans == [] and (tmp_path / "cache" / "shards").is_dir()


def test_sizes_and_places_beyond_32_bits():
    table = shard_index.Table.of([[(512, 5, 0)], [(2**40, 2**35, 1), (2**40 + 1024, 7, 0)]])
    tables = shard_index.Tables([shard_index.Scan(table, [], "")])
    assert tables.place(1) == (0, [(2**40, 2**32 - 1, 1), (2**40 + 1024, 7, 0)])
    assert table.first.tolist() == [0, 1, 3] and table.use.dtype == np.uint8
    with pytest.raises(IndexError):
        tables.place(2)


def test_the_index_is_a_path_of_the_configuration(tmp_path):
    run = {"output": "out", "steps": 1, "model": {"init": "emoji"}, "data": {"train": ["a.tar"]}}
    for given, wanted in (("auto", "auto"), ("kept", str(tmp_path / "kept")), ("", "")):
        run["data"]["index"] = given
        (tmp_path / "run.json").write_text(json.dumps(run))
        assert load_config(tmp_path / "run.json").data.index == wanted
    assert os.path.isabs(str(tmp_path))
