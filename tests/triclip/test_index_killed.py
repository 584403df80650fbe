"""Indexes with killed writers, concurrent readers and writers, and files that can't be removed."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from clip_core.errors import InputError
from triclip.search import FolderIndex, Index, build_folder, open_index, parts

KILLS = Path(__file__).parent / "hostile" / "index_kills.py"
SUFFIXES = ("npz", "npy", "parquet", "index")
HOW = [f"{how}.{suffix}" for how in ("replace", "new") for suffix in SUFFIXES] + ["append", "candidates"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are delivered to forked processes")
@pytest.mark.parametrize("how", HOW)
def test_a_killed_writer_leaves_the_old_index_or_the_new_one(how, tmp_path):
    if how.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if how == "candidates":
        pytest.importorskip("faiss", reason="extra `search`")
    result = subprocess.run([sys.executable, KILLS, how, tmp_path], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]


def of(letter, count=30):
    return Index(np.full((count, 2), ord(letter), np.float32), [f"{letter}{row}" for row in range(count)], "fake")


@pytest.mark.parametrize("suffix", ["npy", "index"])
def test_readers_see_one_index_while_it_is_replaced(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    of("a").save(path)
    done = threading.Event()

    def write():
        for letter in "bcdefghijklm":
            of(letter).save(path)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            found = open_index(path)
            assert (found.vectors == ord(found.names[0][0])).all() and len({name[0] for name in found.names}) == 1
    finally:
        writer.join()
    assert open_index(path).names[0] == "m0"


def test_files_that_cannot_be_removed_yet(tmp_path, monkeypatch):
    """As on Windows while a reader has them mapped: nothing is written over them, and a later writer removes them."""
    path = tmp_path / "x.index"
    of("a").save(path)
    real = Path.unlink
    with monkeypatch.context() as patch:

        def refuse(self, missing_ok=False):
            if self.name.startswith("part-"):
                raise PermissionError(13, "in use", str(self))
            real(self, missing_ok)

        patch.setattr(Path, "unlink", refuse)
        before = {one.name: one.read_bytes() for one in path.glob("part-*")}
        of("b").save(path)
        assert {one.name: one.read_bytes() for one in path.glob("part-*") if one.name in before} == before
        assert open_index(path).names[0] == "b0"
    FolderIndex(path).extend(of("c"))
    assert not before.keys() & {one.name for one in path.iterdir()}
    assert open_index(path).names[::30] == ["b0", "c0"]


def test_what_a_failed_build_leaves(tmp_path):
    def sources():
        yield of("a")
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="gone"):
        build_folder(tmp_path / "x.index", sources())
    assert not list(tmp_path.iterdir())
    of("z").save(tmp_path / "x.index")
    files = sorted(one.name for one in (tmp_path / "x.index").iterdir())
    with pytest.raises(OSError, match="gone"):
        build_folder(tmp_path / "x.index", sources())
    assert sorted(one.name for one in (tmp_path / "x.index").iterdir()) == files
    assert open_index(tmp_path / "x.index").names[0] == "z0"


def test_a_damaged_index_can_be_replaced(tmp_path):
    path = tmp_path / "x.index"
    of("a").save(path)
    (path / parts.MANIFEST).write_text("{")
    of("b").save(path)
    assert open_index(path).names[0] == "b0"


def test_an_index_is_built_from_itself_and_others(tmp_path):
    path = tmp_path / "x.index"
    of("a").save(path)
    build_folder(path, [open_index(path), of("b")], "float16")
    found = open_index(path)
    assert found.names[::30] == ["a0", "b0"] and (found.vectors[:30] == ord("a")).all()


def test_the_names_of_an_unfinished_npy_belong_to_its_vectors(tmp_path):
    path, names = tmp_path / "x.npy", tmp_path / "x.npy.json"
    of("a").save(path)
    old = path.read_bytes()
    of("b").save(path)
    new = json.loads(names.read_text())
    of("a").save(path)
    digest = hashlib.sha256(old[:-4] + bytes(4)).hexdigest()
    names.write_text(json.dumps({**json.loads(names.read_text()), "next": {**new, "vectors": digest}}))
    assert open_index(path).names[0] == "a0"
    path.write_bytes(old[:-4] + b"\0\0\0\0")
    assert open_index(path).names[0] == "b0"
    names.write_text(json.dumps({**new, "next": 3}))
    with pytest.raises(InputError, match=r"x\.npy"):
        open_index(path)
    of("c").save(path)  # over a damaged one too
    assert open_index(path).names[0] == "c0" and "next" not in json.loads(names.read_text())


def test_a_folder_that_is_gone_is_not_waited_for(tmp_path):
    path = tmp_path / "x.index"
    of("a").save(path)
    index = FolderIndex(path)
    path.rename(tmp_path / "y.index")
    with pytest.raises(FileNotFoundError):
        index.extend(of("b"))
