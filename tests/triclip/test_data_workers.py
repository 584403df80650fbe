"""Worker processes: the same bytes, and no process left after any end of the program."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from clip_core.errors import DataError
from tests.triclip.image_text import shard, table
from tests.triclip.test_data_pipeline import Listed, all_of_it, configured, digest, opened, processor, steps  # noqa: F401
from triclip.data import Sample

pytest.importorskip("grain", reason="the pipeline is grain's")

ROOT = Path(__file__).parents[2]
SCRIPT = """
    import signal
    import sys
    import time
    from clip_core import CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast
    from triclip.data import open_pipeline
    from triclip.train.config import TrainConfig
    from triclip.train.engine import Process

    def main():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
        config = TrainConfig()
        config.data.train, config.data.batch_size, config.data.workers = [sys.argv[1]], 8, 2
        processor = CLIPProcessor(CLIPImageProcessor(size=24, crop_size=24), CLIPTokenizerFast())
        pipeline = open_pipeline(config, processor, Process(0, 1))
        for step in range(10 ** 9):
            next(pipeline)
            print("step", step, flush=True)
            time.sleep(0.05)  # the workers wait, as they mostly do beside a model
            {then}

    if __name__ == "__main__":
        main()
"""


def test_the_same_bytes_from_workers(tmp_path, processor):  # noqa: F811
    config = all_of_it(configured([shard(tmp_path / "a.tar", 30, s5_png=b"broken")], batch_size=24))
    want = steps(config, processor, 4)
    config.data.workers = 2  # a batch has two chunks
    with opened(config, processor) as pipeline:
        assert [digest(next(pipeline)) for _ in range(4)] == want
        assert pipeline.skipped == 1
        state = pipeline.get_state()
    config.data.workers = 1
    with opened(config, processor) as pipeline:
        pipeline.set_state({**state, "step": 2})
        assert [digest(next(pipeline)) for _ in range(2)] == want[2:]


class Looking(Listed):
    """Captions that say which modules are loaded where they are read."""

    def __getitem__(self, number):
        loaded = sorted({"torch", "tensorflow", "keras", "flax"} & set(sys.modules))
        return Sample("x", self.pictures[:1], [f"{os.getpid() != self.captions} {' '.join(loaded)}"])


def test_workers_load_no_framework(processor):  # noqa: F811
    from tests.triclip.image_text import picture

    config = configured(batch_size=4)
    config.data.workers = 1
    with opened(config, processor, source=Looking([picture(0)] * 4, os.getpid())) as pipeline:
        ids = next(pipeline)["input_ids"]
    assert {processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids} == {"true"}


def test_errors_come_back_from_workers(processor):  # noqa: F811
    config = configured()
    config.data.workers = 1
    pipeline = opened(config, processor, source=Listed([None] * 8))
    with pipeline, pytest.raises(DataError, match=r"usable samples \(0\).*sample .: broken\)$"):
        next(pipeline)


def start(tmp_path, then):
    """The script, running in a group of its own once it has made a step."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT).replace("{then}", then))
    command = [sys.executable, str(tmp_path / "script.py"), str(table(tmp_path, 20))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    assert script.stdout.readline().startswith("step")
    return script


def living(group):
    """Processes of the group that run still, tracked through /proc; workers stay in their parent's group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def gone(group, seconds=30):
    end = time.monotonic() + seconds
    while living(group) and time.monotonic() < end:
        time.sleep(0.1)
    return not living(group)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted in /proc")
@pytest.mark.parametrize("end", ["raise", "interrupt", "terminate group", "kill"])
def test_no_worker_outlives_its_program(tmp_path, end):
    script = start(tmp_path, "raise ValueError('stop')" if end == "raise" else "pass")
    try:
        if end == "interrupt":
            script.send_signal(signal.SIGINT)
        elif end == "kill":
            script.kill()
        elif end == "terminate group":  # as job schedulers do
            os.killpg(script.pid, signal.SIGTERM)
        output, _ = script.communicate(timeout=120)  # until the last process that could write has ended
        assert gone(script.pid), "workers are left"
        assert script.returncode != 0
        if end in ("raise", "interrupt"):  # the workers themselves are told nothing
            assert output.count("Traceback") == 1, output
    finally:
        for process in living(script.pid):
            os.kill(process, signal.SIGKILL)


def test_a_killed_worker_is_one_line_that_says_what_to_change(tmp_path, processor):  # noqa: F811
    """As the system kills one when memory runs out."""
    config = configured([shard(tmp_path / "a.tar", 24)], workers=1)
    with opened(config, processor) as pipeline:
        next(pipeline)
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(DataError, match=r"^data.workers: a worker process ended \(killed.*fewer than 1") as caught:
            for _ in range(1000):
                next(pipeline)
    assert "\n" not in str(caught.value)
