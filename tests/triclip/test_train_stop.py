"""Stopping by signals, and falling back to a readable checkpoint, without any framework."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from clip_core.errors import CheckpointError
from triclip.train.newest import DamagedCheckpointError, load_newest, set_aside
from triclip.train.stop import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_and_given_back(number):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
    before = signal.getsignal(number)
    stop = StopSignals()
    assert not stop.asked
    os.kill(os.getpid(), number)
    assert stop.asked
    stop.close()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = StopSignals()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # the handler runs between two instructions
                pass
    finally:
        stop.close()


def test_ctrl_c_is_handed_on_as_sigterm_where_a_framework_listens_to_that():
    seen = []
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    stop = StopSignals(forward=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [signal.SIGTERM] and not stop.asked
    finally:
        stop.close()
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_stays_ignored_in_the_background():
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from triclip.train.stop import StopSignals; stop = StopSignals();"
        "os.kill(os.getpid(), signal.SIGINT); print(stop.asked)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def loader(damaged, tried):
    def load(step):
        tried.append(step)
        if step in damaged:
            raise DamagedCheckpointError(f"step {step}: a damaged checkpoint")
        return f"state {step}"

    return load


def alone(rows):
    return rows


def test_the_newest_that_can_be_read(caplog):
    tried = []
    assert load_newest([10, 30, 20], loader({30, 20}, tried), alone, True) == "state 10"
    assert tried == [30, 20, 10]
    assert "step 30: a damaged" in caplog.text and "step 20: a damaged" in caplog.text
    assert load_newest([], loader(set(), tried), alone, True) is None


def test_when_all_are_damaged_nothing_begins_anew():
    with pytest.raises(CheckpointError, match="found 2 that are damaged, the oldest: step 1"):
        load_newest([1, 2], loader({1, 2}, []), alone, True)


def test_another_run_s_checkpoint_is_not_passed_over():
    def load(step):
        raise CheckpointError("another architecture")

    with pytest.raises(CheckpointError, match="another architecture"):
        load_newest([1, 2], load, alone, True)


def test_all_go_back_when_one_process_can_not_read():
    """The second of two processes: the first one's steps, and a vote at each."""
    answers = [np.array([[-1], [3], [2]], np.int32), np.array([[1], [0]], np.int32), np.array([[0], [0]], np.int32)]
    tried = []
    assert load_newest([7], loader(set(), tried), lambda rows: answers.pop(0), False) == "state 2"
    assert tried == [3, 2] and not answers


def test_setting_aside_twice(tmp_path):
    for content in ("a", "b"):
        (tmp_path / "20").mkdir()
        (tmp_path / "20" / "file").write_text(content)
        set_aside(tmp_path / "20")
    assert [path.name for path in tmp_path.iterdir()] == ["20.damaged"]
    assert (tmp_path / "20.damaged" / "file").read_text() == "b"
