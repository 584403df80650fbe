"""Tiny runs of the PyTorch engine on synthetic batches, in this process or in several that `launch` starts.

As a script it is one of those processes: `torch_worker.py FOLDER ACTIONS.json`, where ACTIONS is a list of
{"do": name of a function below, ...arguments}; rank 0 leaves results in FOLDER.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SAMPLES, BATCH, LENGTH, SIZE = 20, 16, 12, 16
TINY = {
    "projection_dim": 16,
    "text_config": {
        "vocab_size": 99, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": LENGTH, "bos_token_id": 97, "eos_token_id": 98,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIZE, "patch_size": 4,
    },
}  # fmt: skip


def tiny_config(output: Any, **values: Any) -> Any:
    """A validated TrainConfig of the tiny model; `values` as {"dotted.key": value} override the defaults here."""
    from triclip.train.config import DataSection, LossSection, ModelSection, OptimizerSection, TrainConfig
    from triclip.train.config import AnchorSection, MeshSection  # isort: skip

    config = TrainConfig(
        output=str(output), steps=100, backend="torch", model=ModelSection(config=json.loads(json.dumps(TINY))),
        data=DataSection(train=["none"], batch_size=BATCH), optimizer=OptimizerSection(lr=1e-3),
        loss=LossSection(), mesh=MeshSection(),
    )  # fmt: skip
    for key, value in values.items():
        *path, leaf = key.split(".")
        section: Any = config
        for name in path:
            section = getattr(section, name)
        assert hasattr(section, leaf), key
        setattr(section, leaf, AnchorSection(**value) if key == "loss.anchors" else value)
    return config


def tiny_job(output: Any, **values: Any) -> Any:
    from triclip.train.start import prepare

    return prepare(tiny_config(output, **values), samples=SAMPLES)


def batch_of(step: int, rows: slice = slice(None), patches: int = 0) -> dict[str, np.ndarray]:
    """The global batch of a step, or some of its rows."""
    random = np.random.default_rng(step)
    ids = random.integers(1, 97, (BATCH, LENGTH)).astype(np.int32)
    for row in ids:
        row[random.integers(3, LENGTH) :] = 98
    batch = {
        "pixel_values": random.standard_normal((BATCH, 3, SIZE, SIZE)).astype(np.float32),
        "input_ids": ids,
        "sample": random.permutation(SAMPLES)[:BATCH].astype(np.int32),
    }
    if patches:
        order = [np.sort(random.permutation((SIZE // 4) ** 2)[:patches]) for _ in range(BATCH)]
        batch["patches"] = np.array(order, np.int32)
    return {name: value[rows] for name, value in batch.items()}


def own_rows(index: int, count: int) -> slice:
    return slice(index * BATCH // count, (index + 1) * BATCH // count)


def advance(engine: Any, until: int, index: int = 0, count: int = 1, save_at: tuple[int, ...] = ()) -> list[dict]:
    """Steps up to number `until`, at a rate that changes; the figures of each."""
    figures = []
    while engine.step < until:
        rate = 1e-3 * (1 - engine.step / 20)
        found = engine.train_step(batch_of(engine.step, own_rows(index, count)), rate)
        figures.append({name: float(value) for name, value in found.items()})
        if engine.step in save_at:
            engine.save({"position": engine.step})
    engine.wait()
    return figures


def launch(
    count: int, folder: Path, actions: list[dict[str, Any]], seconds: int = 240, ok: bool = True
) -> list[int | None]:
    """Run the actions in `count` processes; their exit codes. Raises when one fails, if `ok`."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "actions.json"
    plan.write_text(json.dumps(actions), "utf-8")
    return processes(count, folder, [__file__, str(folder), str(plan)], seconds, ok)


def processes(
    count: int, folder: Path, script: list[str], seconds: int, ok: bool = True, extra: dict[str, str] | None = None
) -> list[int | None]:
    """Run a script in `count` processes on the loopback device. When one fails, those left are killed: code None."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), **(extra or {}),
    }  # fmt: skip
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    running, logs = [], [folder / f"log-{rank}" for rank in range(count)]
    for rank, path in enumerate(logs):
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with open(path, "w") as log:
            command = [sys.executable, *script]
            running.append(subprocess.Popen(command, env=own, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT))
    end = time.monotonic() + seconds
    try:
        while (codes := [process.poll() for process in running]) and None in codes:
            if any(codes) or time.monotonic() > end:
                time.sleep(0.5)  # those that fail together are let end by themselves
                codes = [process.poll() for process in running]
                break
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
            process.wait()
    if ok and any(codes):
        raise AssertionError(f"exit codes {codes}\n" + "\n".join(log.read_text()[-3000:] for log in logs))
    return codes


# -- actions ----------------------------------------------------------------------------------------------------------


class Rank:
    """One process of a launch."""

    def __init__(self, folder: Path) -> None:
        import torch

        from triclip.train.engines.torch_.training import Engine, start

        torch.set_num_threads(1)
        self.folder, self.make_engine = folder, Engine
        process = start(tiny_config(folder))
        self.index, self.count = process.index, process.count

    def write(self, name: str, curve: Any, arrays: dict[str, np.ndarray]) -> None:
        if self.index == 0:
            (self.folder / f"{name}.json").write_text(json.dumps(curve), "utf-8")
            np.savez(self.folder / f"{name}.npz", **arrays)

    def curve(self, name: str, values: dict[str, Any], until: int, **options: Any) -> None:
        """Train to a step, perhaps from a checkpoint: figures, parameters and averages."""
        job = tiny_job(options.get("output", self.folder / name), **values)
        engine = self.make_engine(job)
        if options.get("resume"):
            assert engine.restore() == {"position": engine.step}, engine.step
        first = engine.step
        if options.get("die_committing"):
            self.die_committing(options["die_committing"])
        figures = advance(engine, until, self.index, self.count, tuple(options.get("save_at", ())))
        parameters = {f"parameters/{key}": value for key, value in engine.weights(False).items()}
        average = {f"average/{key}": value for key, value in engine.weights(True).items()}
        # Every process has another number of rows.
        rows = batch_of(0)["pixel_values"][sum(range(self.index + 1)) :][: self.index + 1]
        features = engine.gather(engine.image_features(rows))
        self.write(name, {"first": first, "figures": figures}, {**parameters, **average, "features": features})
        if options.get("export"):
            engine.export(self.folder / options["export"], average=True)

    def die_committing(self, step: int) -> None:
        """SIGKILL when every file of that step's checkpoint is written, and its folder not yet renamed."""
        rename = os.rename

        def killing(source: Any, target: Any) -> None:
            if str(target).endswith(f"{step:08d}"):
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.rename = killing

    def terminated(self, name: str, values: dict[str, Any], at: int) -> None:
        """The last process alone gets SIGTERM at a step; all are to stop there, and save it."""
        job = tiny_job(self.folder / name, **values)
        engine = self.make_engine(job)
        while not engine.stopping():
            if engine.step == at and self.index == self.count - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            advance(engine, engine.step + 1, self.index, self.count)
            assert engine.step < at + 3
        engine.save({"position": engine.step})
        engine.wait()
        (self.folder / f"{name}-{self.index}.json").write_text(json.dumps(engine.step), "utf-8")

    def full_disk(self, name: str, values: dict[str, Any]) -> None:
        """The last process's disk is full in mid-save: an OSError everywhere, and the checkpoint before stays."""
        import resource

        engine = self.make_engine(tiny_job(self.folder / name, **values))
        advance(engine, 2, self.index, self.count, (2,))
        if self.index == self.count - 1:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        said = ""
        try:
            advance(engine, 3, self.index, self.count, (3,))
        except OSError as error:
            said = str(error)
        if self.index == self.count - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert engine.restore() == {"position": 2}
        (self.folder / f"{name}-{self.index}.json").write_text(json.dumps(said), "utf-8")

    def losses(self, name: str) -> None:
        """Worst error of every loss against the definition in float64, and those of what other trainers do wrong."""
        from conformance.training.torch_losses import compare_losses, wrong_losses

        found = {"right": compare_losses(self.index, self.count), "wrong": wrong_losses(self.index, self.count)}
        (self.folder / f"{name}-{self.index}.json").write_text(json.dumps(found), "utf-8")

    def memory(self, name: str, rows: list[int]) -> None:
        """Peaks of memory by mode and rows."""
        from conformance.training.torch_losses import peak_memory

        found = {mode: {str(count): peak_memory(mode, count) for count in rows} for mode in ("dense", "ring")}
        (self.folder / f"{name}-{self.index}.json").write_text(json.dumps(found), "utf-8")


def main() -> None:
    folder, plan = Path(sys.argv[1]), Path(sys.argv[2])
    rank = Rank(folder)
    for action in json.loads(plan.read_text("utf-8")):
        getattr(rank, action.pop("do"))(**action)
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
