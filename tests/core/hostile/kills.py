"""Repeatedly kills a saving process and checks the files it leaves.

    python kills.py MODE COUNT FOLDER    COUNT random moments; 0: before each operation on the file system in turn

MODE: exchange, journal, new, file, convert. After every kill the checkpoint must be wholly one of the two that were
being written in turn: tensors, config, tokenizer, and the number of files. Prints how often each was found.
"""

import collections
import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from clip_core import files  # noqa: E402
from clip_core.checkpoint import convert, load, save  # noqa: E402
from clip_core.checkpoint.tensor import Tensor  # noqa: E402

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints"
VERSIONS = {"A": 1.0, "B": 2.0}
OPERATIONS = ("os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "open", "ctypes.", "shutil.")


def versions():
    read = load(GOLDEN / "hf-text-projection")
    made = {}
    for name, factor in VERSIONS.items():
        tensors = {n: Tensor.from_numpy(t.numpy() * np.float32(factor)) for n, t in read.tensors.items()}
        made[name] = tensors, {**read.config, "marker": name}
    return made


def write(mode, target, name, made):
    tensors, config = made[name]
    if mode == "convert":
        convert(target.parent / f"source-{name}", target)
    elif mode == "file":
        convert(target.parent / f"source-{name}", target, to="hf")
    else:  # one file in turn with shards, so that the sets of files differ
        shard = None if name == "A" else "10KB"
        save(target, tensors, config, shard_size=shard, files={"merges.txt": name.encode()})


def state(mode, target, made):
    """'A', 'B' or 'nothing'; AssertionError for anything else."""
    if not target.exists():
        assert mode == "new", "the old checkpoint is gone"
        return "nothing"
    read = load(target)
    (name,) = (n for n in VERSIONS if read.config["marker"] == n)
    for key, tensor in made[name][0].items():
        assert np.array_equal(read.tensors[key].numpy(), tensor.numpy()), f"{key} is not of {name}"
    assert set(read.tensors) == set(made[name][0])
    if mode not in ("file", "convert"):
        assert files.view(target)("merges.txt").read_text() == name
        assert (len(read.files) > 1) == (name == "B")
    return name


def die_at(number):
    """From now on, kill this process at its n-th operation on the file system, before it is carried out."""
    left = itertools.count(number, -1)

    def hook(event, arguments):
        if event.startswith(OPERATIONS) and next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def hidden_in(folder, target):
    return [p for p in [*folder.iterdir(), *(target.iterdir() if target.is_dir() else [])] if p.name[0] == "."]


def main(mode, count, folder):
    made = versions()
    target = folder / ("x.safetensors" if mode == "file" else "x")
    if mode in ("file", "convert"):
        for name, (tensors, config) in made.items():
            save(folder / f"source-{name}", tensors, config)
    started = time.perf_counter()
    for name in "BA":
        write(mode, target, name, made)
    pair = time.perf_counter() - started
    if mode == "journal":  # a folder inside: it can't be exchanged as a whole
        (target / "logs").mkdir()
        (target / "logs" / "events").write_text("kept")
    found: collections.Counter = collections.Counter()
    last = "A"
    rng = random.Random(0)
    for number in itertools.count(1):
        if not count:  # the same operations each time: from A to B, with nothing left of the last kill
            write(mode, target, "A", made)
            last = "A"
            for path in hidden_in(folder, target):
                shutil.rmtree(path)
        if mode == "new":
            shutil.rmtree(target, ignore_errors=True)
        following = "BA"[last == "B"]
        child = os.fork()
        if not child:
            if not count:
                die_at(number)
            for step in range(1000 if count else 1):
                write(mode, target, following if step % 2 == 0 else last, made)
            os._exit(0)
        if count:
            time.sleep(rng.random() * pair)
            os.kill(child, signal.SIGKILL)
        ended_by_itself = os.waitpid(child, 0)[1] == 0
        if ended_by_itself and not count:
            break
        last = state(mode, target, made)
        found[last] += 1
        last = "A" if last == "nothing" else last
        if number == count:
            break
    if mode == "journal":
        assert (target / "logs" / "events").read_text() == "kept"
    hidden = hidden_in(folder, target)
    for path in hidden:  # an empty one is left alone for some seconds: it may belong to a save that is starting
        if path.is_dir() and not any(path.iterdir()):
            os.utime(path, (0, 0))
    write(mode, target, "A", made)
    assert state(mode, target, made) == "A"
    assert not [path for path in hidden if path.exists()], "the next save left hidden folders"
    print(mode, sum(found.values()), "kills:", dict(found), f"{pair * 500:.1f} ms a save")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
