"""Bulk runs killed at any moment or stopped by a full disk lose and repeat nothing when they are resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.triclip.bulk_fakes import FakeSpec, tree
from tests.triclip.image_text import shard
from triclip.embed import embed

KILLS = Path(__file__).parent / "hostile" / "bulk_kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are delivered to forked processes")
@pytest.mark.parametrize("count", [0, 12], ids=["before every operation", "at random moments"])
def test_a_killed_run_goes_on(count, tmp_path):
    result = subprocess.run([sys.executable, KILLS, str(count), tmp_path], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-2000:]
    kills = int(result.stdout.split()[0])
    assert kills >= (count or 60), result.stdout


FULL = """
import resource, signal, sys
from triclip.embed import embed
from tests.triclip.bulk_fakes import FakeSpec
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk, writing is then an error
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    embed(sys.argv[1], sys.argv[2], FakeSpec(), samples_per_shard=40, threads=1, deduplicate=True)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="there is no limit on the size of files")
def test_a_full_disk_is_said_and_gone_on_from(tmp_path):
    shard(tmp_path / "a.tar", 120)
    wanted = tmp_path / "wanted"
    embed(tmp_path / "a.tar", wanted, FakeSpec(), samples_per_shard=40, deduplicate=True)
    largest = max(len(content) for content in tree(wanted).values())
    said = ""
    for limit in (400, 1000, largest - 1):  # the plan, the hashes, a shard
        arguments = [sys.executable, "-c", FULL, tmp_path / "a.tar", tmp_path / "out", str(limit)]
        result = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
        assert result.returncode == 0, result.stderr[-2000:]
        assert "File too large" in result.stdout and str(tmp_path / "out") in result.stdout, result.stdout
        said += result.stdout
        whole = tree(tmp_path / "out")
        assert all(content == tree(wanted).get(name, content) for name, content in whole.items())
    assert "hashes" in said and "out/image/" in said
    embed(tmp_path / "a.tar", tmp_path / "out", FakeSpec(), samples_per_shard=40, deduplicate=True)
    assert tree(tmp_path / "out") == tree(wanted)
