"""Repeatedly kills bulk runs and checks that the same command completes them.

    python bulk_kills.py COUNT FOLDER    COUNT random moments; 0: before each operation on the file system in turn

After every kill no shard that has a record may be anything but what an undisturbed run writes, and in the end the run's
files must be those of an undisturbed one, none lost, none doubled. Prints how often it was killed.
"""

import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.core.hostile.kills import die_at  # noqa: E402
from tests.triclip.bulk_fakes import FakeSpec, tree  # noqa: E402
from tests.triclip.image_text import shard  # noqa: E402
from triclip.embed import embed  # noqa: E402

WHAT = "both"
os.fsync = lambda descriptor: None  # what the system has been given outlives the process; only a power cut needs it


def run(folder, output):
    inputs = [folder / "a.tar", folder / "b.tar"]
    return embed(inputs, output, FakeSpec(), what=WHAT, samples_per_shard=3, batch_size=2, threads=1, deduplicate=True)


def killed(folder, output, number, seconds):
    """Whether a run was killed: before its n-th operation, or after some time."""
    child = os.fork()
    if not child:
        if number:
            die_at(number)
        run(folder, output)
        os._exit(0)
    if not number:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] != 0


def check(output, wanted, finished):
    """What has a record is whole and as it should be, and isn't touched any more. Returns what has one by now."""
    found = tree(output) if output.is_dir() else {}
    done = {name for name in found if name.startswith("done/")}
    for name in done:
        stem = name.removeprefix("done/").removesuffix(".json")
        for file in wanted:
            if file == name or Path(file).name.startswith(f"{stem}."):
                assert found[file] == wanted[file], f"{file} has a record, and is not what it should be"
    now = {file: (output / file).stat().st_mtime_ns for name in done for file in [name]}
    assert all(now.get(file) == moment for file, moment in finished.items()), "a finished shard was written again"
    return now


def main(count, folder):
    shard(folder / "a.tar", 3)
    shard(folder / "b.tar", 3, first=2, s4_png=b"broken")
    started = time.perf_counter()
    report = run(folder, folder / "undisturbed")
    seconds = time.perf_counter() - started
    wanted = tree(folder / "undisturbed")
    assert report.complete and report.rows["image"] == 4 and report.broken == 1
    output, kills, rng = folder / "out", 0, random.Random(0)
    for number in itertools.count(1):
        finished: dict = {}
        if count:  # killed several times on its way
            for _ in range(3):
                kills += killed(folder, output, 0, rng.random() * seconds)
                finished = check(output, wanted, finished)
        elif killed(folder, output, number, 0):
            kills += 1
            finished = check(output, wanted, finished)
        else:
            break
        run(folder, output)
        check(output, wanted, finished)
        assert tree(output) == wanted, "the run that went on is not the run that was left alone"
        shutil.rmtree(output)
        if count and kills >= count:
            break
    print(kills, "kills")


if __name__ == "__main__":
    if sys.argv[1] == "0":
        WHAT = "images"  # half the operations
    main(int(sys.argv[1]), Path(sys.argv[2]))
