"""Kills a process that writes an index, before each of its operations on the file system in turn.

    python index_kills.py HOW FOLDER

HOW: replace.npz, replace.npy, replace.parquet, replace.index, new.npz, …, new.index, append, candidates. After every
kill the index must be wholly the old one or the new one, and a next writer finds nothing in its way and leaves nothing
of the killed one behind. Prints how often each was found.
"""

import collections
import itertools
import os
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.core.hostile.kills import die_at  # noqa: E402
from triclip.search import FolderIndex, Index, build_folder, open_index  # noqa: E402

os.fsync = lambda descriptor: None  # what the system has been given outlives the process; only a power cut needs it
ROWS = 40


def index_of(name):
    """Two indexes of the same size, so that files of both together would look like one."""
    vectors = np.random.default_rng(ord(name)).normal(size=(ROWS, 3)).astype(np.float32)
    return Index(vectors, [f"{name}{row}" for row in range(ROWS)], "fake", {"n": list(range(ROWS))})


MADE = {"A": index_of("A"), "B": index_of("B")}


def write(how, path, name):
    if how == "append":
        FolderIndex(path).extend(MADE[name])
    elif how == "candidates":
        FolderIndex(path).rebuild_candidates("hnsw")
    elif path.suffix == ".index":
        build_folder(path, [MADE[name], MADE[name]])
    else:
        MADE[name].save(path)


def start(how, path):
    """The state before the write that is killed."""
    for one in path.parent.iterdir():
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    if how in ("append", "candidates"):
        build_folder(path, [MADE["A"]])
    elif how.startswith("replace"):
        write(how, path, "A")


def state(path):
    """Names of the indexes whose rows are there, such as "AA"; AssertionError for anything that is none of them."""
    try:
        found = open_index(path)
    except FileNotFoundError:
        return ""
    parts = [slice(start, start + ROWS) for start in range(0, len(found), ROWS)]
    names, vectors, numbers = found.names, found.vectors, found.columns["n"].array()
    for part in parts:
        wanted = MADE[names[part][0][0]]
        assert names[part] == wanted.names and np.array_equal(vectors[part], wanted.vectors)
        assert np.array_equal(numbers[part], np.arange(ROWS))
    return "".join(names[part][0][0] for part in parts)


def killed(how, path, number):
    child = os.fork()
    if not child:
        die_at(number)
        write(how, path, "B")
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def check_candidates(path):
    index = FolderIndex(path)
    assert index.candidates("hnsw")[1] == len(index)


def main(how, folder):
    folder.mkdir()
    path = folder / ("x.index" if "." not in how else f"x.{how.partition('.')[2]}")
    start(how, path)
    old = state(path)
    write(how, path, "B")
    new, files = state(path), sorted(one.name for one in folder.rglob("*"))
    found: collections.Counter = collections.Counter()
    for number in itertools.count(1):
        start(how, path)
        if not killed(how, path, number):
            break
        now = state(path)
        assert now in (old, new), now
        found[now] += 1
        if how == "candidates":
            check_candidates(path)
        for one in folder.rglob(".*.triclip-*"):  # an empty one is left alone for some seconds
            if one.is_dir():
                os.utime(one, (0, 0))
        if how != "append" or now == old:
            write(how, path, "B")
        else:
            FolderIndex(path).extend(MADE["A"])
        left = [one.name for one in folder.rglob("*") if ".triclip-" in one.name]
        assert not left, left
        if how != "append":
            assert state(path) == new
        if path.suffix == ".index" and how != "append":
            kept = {part["number"] for part in FolderIndex(path).manifest["parts"]}
            stray = [one.name for one in path.glob("part-*") if int(one.name[5:10]) not in kept]
            assert not stray and len(list(path.iterdir())) == len(files) - 1, stray
    assert found[old] and (found[new] or old == new), found
    print(sum(found.values()), "kills:", dict(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) / "work")
