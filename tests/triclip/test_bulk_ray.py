"""Bulk runs through Ray Data on a local cluster, workers killed in mid-run: the files are those of a run without Ray.

Ray is large, so it is not in the test environment; `.ci/ray.sh` runs this in one of its own.
"""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="extra `ray`: see .ci/ray.sh")

from clip_core.errors import DataError, InputError  # noqa: E402
from tests.triclip.bulk_fakes import FakeSpec, tree  # noqa: E402
from tests.triclip.image_text import picture, shard, write_tar  # noqa: E402
from triclip.embed import embed  # noqa: E402
from triclip.embed.ray_engine import Ray  # noqa: E402

OPTIONS = {"what": "both", "samples_per_shard": 5, "batch_size": 2, "deduplicate": True, "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all tests, as a program has that is connected already."""
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=1 << 28,
             log_to_driver=False)  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Inputs with duplicates and a broken picture, and what a run of one process makes of them."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        shard(folder / f"{number}.tar", 12, first=8 * number, **{f"s{8 * number + 1}_png": b"broken"})
    wanted = embed(str(folder / "*.tar"), folder / "wanted", FakeSpec(), **OPTIONS)
    assert wanted.complete and wanted.duplicates and wanted.broken
    return folder


def run(data, output, spec=None, **options):
    return embed(str(data / "*.tar"), output, spec or FakeSpec(), engine=Ray(workers=2), **{**OPTIONS, **options})


def test_the_files_are_those_of_one_process(data, tmp_path):
    report = run(data, tmp_path / "out")
    assert report.complete and tree(tmp_path / "out") == tree(data / "wanted")
    assert run(data, tmp_path / "out").embedded == 0


def test_workers_that_die_lose_and_double_nothing(data, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    for number in range(3):
        (deaths / str(number)).touch()
    report = run(data, tmp_path / "out", FakeSpec(deaths=deaths))
    assert not list(deaths.iterdir()), "no worker died"
    assert report.complete and tree(tmp_path / "out") == tree(data / "wanted")


def test_a_worker_killed_from_outside(data, tmp_path):
    killed = []

    def kill():
        while not killed:
            time.sleep(0.05)
            if not list((tmp_path / "out" / "done").glob("*.json")):
                continue
            for actor in workers():
                killed.append(actor)
                os.kill(actor, signal.SIGKILL)
                break

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    report = run(data, tmp_path / "out")
    assert killed and report.complete and tree(tmp_path / "out") == tree(data / "wanted")


def workers():
    """Process ids of actors of a Ray Data map."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::MapWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_errors_of_workers_are_said_plainly(data, tmp_path):
    for number in range(10):  # more than are counted without workers
        write_tar(tmp_path / f"{number}.tar", [("1.png", picture(number)), ("1.txt", b"x")])
    (tmp_path / "5.tar").write_bytes(b"no archive" * 100)
    report = embed(str(tmp_path / "*.tar"), tmp_path / "out", FakeSpec(), engine=Ray(workers=2), **OPTIONS)
    assert report.damaged == 1 and report.rows == {"image": 9, "text": 1}
    output = tmp_path / "other"
    run(data, output, prepare=True)
    name = next((output / "hashes" / "image").glob("*.npy"))
    name.write_bytes(b"damaged")
    with pytest.raises((DataError, InputError), match=name.name):
        run(data, output)
