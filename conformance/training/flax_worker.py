"""One process of a small training run, which the checks of the Flax trainer start, kill and compare.

    python -m conformance.training.flax_worker '[{"output": …, "result": …, "steps": 8, …}, …]'

Batches are drawn from (seed, step), so that any number of processes and devices sees the same global batches. `Spec` is
the specification of a run; several go one after the other. The result is an .npz file: the curve, every leaf of the
final state, whole, and the bytes that the first device keeps of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from triclip.train import config as schema
from triclip.train.engine import Batch, Job, Process
from triclip.train.engines.flax_ import training
from triclip.train.start import prepare

SAMPLES = 40  # rows of the anchors' table
END = 63
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
MODEL = {
    "projection_dim": 16,
    "text_config": {
        **_TOWER, "num_hidden_layers": 1, "vocab_size": 64, "max_position_embeddings": 8,
        "bos_token_id": 62, "eos_token_id": END, "pad_token_id": END,
    },
    "vision_config": {**_TOWER, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8},
}  # fmt: skip


@dataclass
class Spec:
    """output: folder of the run. result: .npz file. changes: keys of the configuration, sections as mappings.

    every: steps between saves; 0 for none. pause: seconds after each step.
    die_in_save: the step whose save ends in `kill -9`, after its files are written and before they get their name.
    """

    output: str
    result: str = ""
    steps: int = 8
    every: int = 0
    pause: float = 0.0
    die_in_save: int = -1
    changes: dict[str, Any] = field(default_factory=dict)


def run_config(spec: Spec) -> schema.TrainConfig:
    base = schema.TrainConfig(
        output=spec.output,
        steps=spec.steps,
        ema=0.99,
        model=schema.ModelSection(config=MODEL),
        data=schema.DataSection(train=["none"], batch_size=32),
        optimizer=schema.OptimizerSection(lr=1e-3, clip_norm=1.0),
    )
    return changed(base, spec.changes)


def changed(section: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a dataclass, nested ones given as mappings."""
    values = {}
    for name, value in changes.items():
        if name == "anchors":
            value = schema.AnchorSection(**value)
        elif dataclasses.is_dataclass(getattr(section, name)):
            value = changed(getattr(section, name), value)
        values[name] = value
    return dataclasses.replace(section, **values)


def batch(job: Job, process: Process, step: int) -> Batch:
    """This process's rows of the step's batch."""
    vision, text = job.model_config.vision_config, job.model_config.text_config
    size, count = vision.image_size, job.config.data.batch_size
    rng = np.random.default_rng([job.config.seed, step])
    ids = rng.integers(0, END - 2, (count, text.max_position_embeddings), np.int32)
    ids[np.arange(count), rng.integers(1, ids.shape[1], count)] = END
    rows = {
        "pixel_values": rng.standard_normal((count, vision.num_channels, size, size), np.float32),
        "input_ids": ids,
    }
    if job.config.model.patch_dropout:
        patches = (size // vision.patch_size) ** 2
        kept = round(patches * (1 - job.config.model.patch_dropout))
        drawn = [np.sort(rng.permutation(patches)[:kept]) for _ in range(count)]
        rows["patches"] = np.stack(drawn).astype(np.int32)
    if job.samples:
        rows["sample"] = rng.integers(0, job.samples, count, np.int32)
    share = count // process.count
    return {name: value[process.index * share :][:share] for name, value in rows.items()}


def begin(spec: Spec) -> tuple[training.Engine, Process]:
    config = run_config(spec)
    process = training.start(config)
    return training.Engine(prepare(config, SAMPLES if config.loss.anchors is not None else 0)), process


def leaves(engine: training.Engine) -> dict[str, np.ndarray]:
    """Path -> whole array, of parameters, moments and average."""
    whole = jax.jit(lambda state: state, out_shardings=jax.tree.map(lambda _: engine._same, engine._shardings))
    flat, _ = jax.tree_util.tree_flatten_with_path(whole(engine.state))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def _die_in_save(step: int) -> None:
    """Orbax gives a finished folder its name by a rename: the last moment of a save, and the worst to die in."""
    rename = os.rename

    def deadly(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name == str(step):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)

    os.rename = deadly


def run(spec: Spec) -> None:
    if spec.die_in_save >= 0:
        _die_in_save(spec.die_in_save)
    engine, process = begin(spec)
    data = engine.restore() or {"position": 0}
    if data["position"] != engine.step:
        raise AssertionError(f"data at {data['position']}, engine at {engine.step}")
    curve: dict[str, list[Any]] = {"step": [], "loss": [], "logit_scale": [], "grad_norm": []}
    while engine.step < spec.steps:
        metrics = engine.train_step(batch(engine.job, process, engine.step), spec_rate(engine))
        curve["step"].append(engine.step)
        for name in ("loss", "logit_scale", "grad_norm"):
            curve[name].append(metrics[name])
        print("step", engine.step, flush=True)
        time.sleep(spec.pause)
        stopping = engine.stopping()
        if stopping or (spec.every and engine.step % spec.every == 0):
            engine.save({"position": engine.step})
        if stopping:
            break
    engine.wait()
    if spec.result:
        curve = {f"curve/{name}": np.array([float(value) for value in values]) for name, values in curve.items()}
        state = leaves(engine)
        kept = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(engine.state))
        if process.index == 0:
            np.savez(spec.result, compiled=engine._train._cache_size(), kept=kept, **curve, **state)
    print("stopped at" if engine.step < spec.steps else "done", engine.step, flush=True)
    engine.close()


def spec_rate(engine: training.Engine) -> float:
    """A rate that changes at every step: nothing may compile anew."""
    return engine.config.optimizer.lr / (1 + engine.step)


def main() -> None:
    for spec in json.loads(sys.argv[1]):
        run(Spec(**spec))


if __name__ == "__main__":
    main()
