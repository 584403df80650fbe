"""The choice between short cut and plain path, and the facts about the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from clip_core import InputError, machine


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing measured, nothing set."""
    monkeypatch.setattr(machine, "_found", {})
    monkeypatch.delenv(machine.VARIABLE, raising=False)


def test_in_doubt_the_plain_path():
    assert not machine.choice("pixels")
    assert not machine.choice("pixels", lambda: False)
    machine._found.clear()
    assert not machine.choice("jpeg", lambda: 1 / 0), "a measurement that fails"
    assert "ZeroDivisionError" in machine.why("jpeg").reason
    assert not machine.choice("linear", lambda: machine.MARGIN - 0.01), "so little may be chance"


@pytest.mark.parametrize("found", [True, 1.5])
def test_a_measurement_is_made_once(found):
    calls = []
    for _ in range(3):
        assert machine.choice("pixels", lambda: calls.append(0) or found)
    assert len(calls) == 1 and machine.choice("pixels")


def test_threads_measure_once():
    calls, answers = [], []

    def measure():
        calls.append(0)
        time.sleep(0.05)
        return 2.0

    threads = [threading.Thread(target=lambda: answers.append(machine.choice("pixels", measure))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [0] and answers == [True] * 8


def test_a_measurement_may_ask_for_another_step():
    assert machine.choice("pixels", lambda: machine.choice("jpeg", lambda: 3.0))
    assert machine.choice("jpeg")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_process_forked_during_a_measurement_measures_itself():
    code = """
import os, sys, threading, time
from clip_core import machine
held = threading.Thread(target=machine.choice, args=("pixels", lambda: time.sleep(20) or True), daemon=True)
held.start()
time.sleep(0.3)
child = os.fork()
if child == 0:
    os._exit(0 if machine.choice("pixels", lambda: True) else 3)
for _ in range(100):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        os._exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
os._exit(4)
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("text", "pixels", "jpeg"),
    [
        ("all", True, True),
        ("none", False, False),
        ("pixels=plain", False, True),
        (" jpeg=plain , pixels=fast ", True, False),
        ("none,pixels=fast", True, False),
        ("pixels=fast,none", True, False),
        ("", False, True),
    ],
)
def test_the_environment_decides_first(text, pixels, jpeg, monkeypatch):
    monkeypatch.setenv(machine.VARIABLE, text)
    assert machine.choice("pixels", lambda: False) is pixels
    assert machine.choice("jpeg", lambda: True) is jpeg
    if "pixels" in text:
        assert machine.why("pixels").reason == f"set by {machine.VARIABLE}"


@pytest.mark.parametrize("text", ["pixel=plain", "pixels", "pixels=slow", "pixels=", "ALL", "=fast"])
def test_a_setting_that_is_none(text, monkeypatch):
    monkeypatch.setenv(machine.VARIABLE, text)
    with pytest.raises(InputError, match=machine.VARIABLE):
        machine.choice("jpeg")


def test_a_step_that_is_none():
    with pytest.raises(InputError, match="step: wanted one of"):
        machine.choice("everything")


def test_quicker_compares_the_best_times(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])

    def call(seconds):
        def run():
            now[0] += seconds.pop() if seconds else 1.0

        return run

    # Taken from the back: the first call of each isn't counted.
    assert machine.quicker(call([9.0, 0.5, 99.0]), call([3.0, 2.0, 0.001]), seconds=0) == 4.0


def test_usable_cpus_follows_affinity(monkeypatch):
    monkeypatch.setattr(machine, "cgroup_cpus", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    assert machine.usable_cpus() == 5
    monkeypatch.setattr(machine, "cgroup_cpus", lambda: 1.5)
    assert machine.usable_cpus() == 2
    monkeypatch.setattr(machine, "cgroup_cpus", lambda: 0.01)
    assert machine.usable_cpus() == 1
    monkeypatch.setattr(machine, "cgroup_cpus", lambda: 64.0)
    assert machine.usable_cpus() == 5


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
    ],
)
def test_a_containers_limit(files, want, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.cgroup_cpus.__wrapped__(tmp_path) == want


def test_flags_are_lower_case_and_some_are_known():
    assert machine.flags() and all(flag == flag.lower() for flag in machine.flags())


def test_flags_without_linux(monkeypatch):
    monkeypatch.setattr(machine, "_of_cpuinfo", lambda key: "")
    assert machine.flags.__wrapped__() & {"sse2", "neon", "asimd", "vsx", "x86_v2"}


def test_describe_names_every_step(monkeypatch):
    monkeypatch.setenv(machine.VARIABLE, "linear=plain")
    machine.choice("pixels", lambda: 2.0)
    text = machine.describe()
    for part in ("processor", "threads", "pixels       fast: measured", "2.00 times", "linear       plain: set by"):
        assert part in text
    assert "jpeg         decided at its first use" in text
