"""Tiny runs of the TensorFlow engine on synthetic batches, in this process or in those that `launch` starts.

    python -m conformance.training.tf_worker FOLDER DEVICES ACTIONS.json

is one of those: DEVICES simulated devices, and a list of {"do": name of a function below, ...arguments}; the first
process leaves results in FOLDER.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triclip.train import config as schema
from triclip.train.start import prepare

ROOT = Path(__file__).parents[2]
SAMPLES, BATCH, LENGTH, SIZE, END = 20, 16, 8, 16, 63
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY = {
    "projection_dim": 16,
    "text_config": {
        **_TOWER, "vocab_size": 64, "max_position_embeddings": LENGTH, "bos_token_id": 62, "eos_token_id": END,
        "pad_token_id": END,
    },
    "vision_config": {**_TOWER, "image_size": SIZE, "patch_size": 8},
}  # fmt: skip


def tiny_config(output: Any, **values: Any) -> schema.TrainConfig:
    """A TrainConfig of the tiny model; `values` are {"dotted.key": value}."""
    config = schema.TrainConfig(
        output=str(output),
        steps=100,
        backend="tf",
        model=schema.ModelSection(config=TINY),
        data=schema.DataSection(train=["none"], batch_size=BATCH),
        optimizer=schema.OptimizerSection(lr=1e-3),
    )
    for key, value in values.items():
        *path, leaf = key.split(".")
        section: Any = config
        for name in path:
            section = getattr(section, name)
        if not hasattr(section, leaf):
            raise KeyError(key)
        setattr(section, leaf, schema.AnchorSection(**value) if key == "loss.anchors" else value)
    return config


def tiny_engine(output: Any, **values: Any) -> Any:
    from triclip.train.engines.tf_.training import Engine

    config = tiny_config(output, **values)
    return Engine(prepare(config, SAMPLES if config.loss.anchors else 0))


def batch_of(step: int, index: int = 0, count: int = 1, patches: int = 0) -> dict[str, np.ndarray]:
    """Process `index` of `count`'s rows of the global batch of a step."""
    random = np.random.default_rng(step)
    ids = random.integers(1, END - 2, (BATCH, LENGTH)).astype(np.int32)
    for row in ids:
        row[random.integers(2, LENGTH) :] = END
    rows = {
        "pixel_values": random.standard_normal((BATCH, 3, SIZE, SIZE), np.float32),
        "input_ids": ids,
        "sample": random.permutation(SAMPLES)[:BATCH].astype(np.int32),
    }
    if patches:
        order = [np.sort(random.permutation((SIZE // 8) ** 2)[:patches]) for _ in range(BATCH)]
        rows["patches"] = np.array(order, np.int32)
    return {name: value[index * BATCH // count : (index + 1) * BATCH // count] for name, value in rows.items()}


def advance(
    engine: Any, until: int, index: int = 0, count: int = 1, save_at: Sequence[int] = (), say: bool = False
) -> list[dict[str, float]]:
    """Steps up to number `until`, at a rate that changes; the figures of each. `say`: print each step's number."""
    figures = []
    while engine.step < until:
        found = engine.train_step(batch_of(engine.step, index, count), 1e-3 * (1 - engine.step / 20))
        figures.append({name: float(value) for name, value in found.items()})
        if say:
            print("step", engine.step, flush=True)
        if engine.step in save_at:
            engine.save({"position": engine.step})
    engine.wait()
    return figures


def state(engine: Any) -> dict[str, np.ndarray]:
    """Parameters, moments and averages."""
    return {name: engine._array(source).copy() for name, source in engine._state().items()}


def launch(
    folder: Path, actions: list[dict[str, Any]], devices: int = 1, processes: int = 1
) -> list[subprocess.Popen[str]]:
    """Start the actions in processes of one group, each with so many simulated devices."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "actions.json"
    plan.write_text(json.dumps(actions), "utf-8")
    base = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    base = {name: value for name, value in base.items() if not name.lower().endswith("_proxy")}
    addresses = [f"127.0.0.1:{port}" for port in free_ports(processes)]
    command = [sys.executable, "-u", "-m", __spec__.name, str(folder), str(devices), str(plan)]
    started = []
    for index in range(processes):
        group = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        env = base if processes == 1 else {**base, "TF_CONFIG": json.dumps(group)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes))
    return started


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it printed, up to the first line that holds a text. Raises AssertionError when it ends before."""
    printed: list[str] = []
    while not printed or text not in printed[-1]:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise AssertionError(f"{text!r} was not printed:\n" + "".join(printed)[-5000:])
        printed.append(line)
    return "".join(printed)


def finish(started: Sequence[subprocess.Popen[str]], wanted: int = 0, timeout: float = 600) -> list[str]:
    """What they printed, once all have ended as wanted."""
    outputs, codes = [], []
    try:
        for process in started:
            outputs.append(process.communicate(timeout=timeout)[0])
            codes.append(process.returncode)
    finally:
        for process in started:
            process.kill()
    if set(codes) != {wanted}:
        raise AssertionError(f"exit codes {codes}, wanted {wanted}\n" + "\n".join(text[-5000:] for text in outputs))
    return outputs


# -- actions ----------------------------------------------------------------------------------------------------------


class Worker:
    """One process of a launch."""

    def __init__(self, folder: Path) -> None:
        from triclip.train.engines.tf_.training import start

        self.folder = folder
        process = start(tiny_config(folder))
        self.index, self.count = process.index, process.count

    def curve(
        self,
        name: str,
        until: int,
        values: dict[str, Any] | None = None,
        output: str = "",
        resume: bool = False,
        save_at: Sequence[int] = (),
        die_in_save: int = -1,
        say: bool = False,
    ) -> None:
        """Train to a step, perhaps from a checkpoint: figures, and everything that was trained."""
        if die_in_save >= 0:
            _die_in_save(die_in_save)
        engine = tiny_engine(self.folder / (output or name), **(values or {}))
        if resume and engine.restore() != {"position": engine.step}:
            raise AssertionError(f"{name}: nothing to go on from, or not the data's position")
        first = engine.step
        if say:
            print("going on from", first, flush=True)
        figures = advance(engine, until, self.index, self.count, save_at, say)
        # Every process has another number of rows.
        rows = batch_of(0)["pixel_values"][: self.index + 3]
        features = engine.gather(engine.image_features(rows))
        if self.index == 0:
            np.savez(self.folder / f"{name}.npz", features=features, **state(engine))
            traces = engine._train.experimental_get_tracing_count()
            content = {"first": first, "figures": figures, "traces": traces}
            (self.folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
        engine.close()

    def until_stopped(self, name: str, values: dict[str, Any] | None = None, pause: float = 0.1) -> None:
        """Train until somebody is asked to stop, then save."""
        engine = tiny_engine(self.folder / name, **(values or {}))
        stopping = False
        while not stopping and engine.step < 400:
            advance(engine, engine.step + 1, self.index, self.count)
            print("step", engine.step, flush=True)
            time.sleep(pause)
            stopping = engine.stopping()
        engine.save({"position": engine.step})
        engine.wait()
        print("stopped at" if stopping else "ran out at", engine.step, flush=True)
        engine.close()

    def losses(self, name: str, all_chunks: bool = False) -> None:
        """Errors of the losses on one replica and on all: see `tf_losses`."""
        from triclip.train.engines.tf_.distribution import find_group

        from . import tf_losses

        every = find_group(schema.MeshSection()).strategy
        found = {
            "modes": tf_losses.every_mode(every, all_chunks),
            "controls": tf_losses.negative_controls(every),
            "hard": tf_losses.hard_numbers(),
            "anchors": tf_losses.anchors(),
        }
        (self.folder / f"{name}.json").write_text(json.dumps(found), "utf-8")

    def full_disk(self, name: str) -> None:
        """The first process's disk is full in mid-save: an OSError everywhere, and the checkpoint before stays."""
        import resource

        engine = tiny_engine(self.folder / name)
        advance(engine, 1, self.index, self.count, (1,))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.index == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        said = ""
        try:
            advance(engine, 2, self.index, self.count, (2,))
        except OSError as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        print("said", said, engine.restore(), flush=True)
        engine.close()


def _die_in_save(step: int) -> None:
    """SIGKILL when every file of that step's checkpoint is written, and its folder has no name yet."""
    rename = os.rename

    def killing(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name == str(step):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)

    os.rename = killing  # type: ignore[assignment]


def main() -> None:
    folder, devices, plan = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(max(2, devices))
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    if devices > 1:  # graphs that run a few times are not worth it
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    worker = Worker(folder)
    for action in json.loads(plan.read_text("utf-8")):
        started = time.time()
        name = action.pop("do")
        getattr(worker, name)(**action)
        print(f"{name} {action}: {time.time() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
