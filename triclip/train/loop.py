"""`train`: the loop around a backend's Engine, with everything that is independent of the framework.

A run's `output` folder has checkpoints/, run.json (a description of the run), metrics.jsonl, evaluation.jsonl,
tensorboard/, loss.png, and at the end model/, which `from_pretrained` loads.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from clip_core.errors import ConfigError, MissingDependencyError
from clip_core.files import write_text

from .config import TrainConfig
from .engine import Batch, Engine, Job, Process, TrainingModule
from .evaluate import Evaluator, Stopped
from .flops import training_flops
from .load import validate
from .memory import explained, ways_in_training
from .runlog import METRICS, Meter, RunLog
from .same_run import CHECKPOINTS, RUN, check_same_run, describe, read_run
from .schedule import learning_rate
from .start import REPORT, load_processor, prepare

MODEL = "model"


class DivergedError(ValueError):
    """The loss or its gradient is no longer finite. The message names the step and the last checkpoint."""


def train(config: TrainConfig, stream: TextIO | None = None) -> dict[str, Any]:
    """Train as configured: start, or resume from the newest checkpoint in `output`.

    Args:
        config: from `load_config`, or constructed in Python.
        stream: where the progress line goes; default standard error.

    Returns a summary: "first" (whether this is the first process, the only one that writes and prints), "step",
    "steps", "stopped" (by SIGTERM or Ctrl-C; the same call resumes), "output", "model" (the exported folder, None if
    stopped), "loss", "skipped" (samples, in all processes; metrics.jsonl counts the first's), "seconds", "evaluation"
    (the last metrics).

    Raises ConfigError, CheckpointError, DataError, FileNotFoundError, MissingDependencyError for unusable inputs,
    DivergedError for a loss that is not finite, OutOfMemoryError, OSError for a full disk; the last complete checkpoint
    is kept.
    """
    config = validate(config)
    backend = backend_module(config.backend)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    with explained(ways_in_training(config)), contextlib.ExitStack() as stack:
        process = backend.start(config)
        run = _Run(config, backend, process, stack, stream)
        return run.go()


def export(config: TrainConfig, folder: str | Path) -> dict[str, Any]:
    """Write the newest checkpoint of a run as a model folder that `from_pretrained` loads; returns {"step", "model"}.

    Raises FileNotFoundError if the run has no checkpoint.
    """
    config = validate(config)
    backend = backend_module(config.backend)
    with contextlib.ExitStack() as stack:
        process = backend.start(config)
        run = _Run(config, backend, process, stack, None, data=False)
        if run.engine.restore() is None:
            raise FileNotFoundError(f"{Path(config.output) / CHECKPOINTS}: wanted a checkpoint to export, found none")
        run.export(Path(folder), None, {})
        return {"step": run.engine.step, "model": str(folder)}


def backend_module(backend: str) -> TrainingModule:
    """`triclip.train.engines.<backend>_.training`. Raises MissingDependencyError naming the extra to install."""
    try:
        return import_module(f"triclip.train.engines.{backend}_.training")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("triclip", "clip_core", f"clip_{backend}"):
            raise
        raise MissingDependencyError(
            f"training with backend {backend!r} needs {error.name}, which is not installed: "
            f"pip install 'triclip[{backend},train]'"
        ) from error


class _Run:
    """One process's run: the common part of `train` and `export`."""

    def __init__(
        self,
        config: TrainConfig,
        backend: TrainingModule,
        process: Process,
        stack: contextlib.ExitStack,
        stream: TextIO | None,
        data: bool = True,
    ) -> None:
        self.config, self.process, self.output = config, process, Path(config.output)
        self.first = process.index == 0
        self._stack, self._stream = stack, stream
        job = prepare(config)
        self.processor = load_processor(config, job.model_config)
        known = read_run(self.output)
        if data:
            self._open_data(job)
            self.described = describe(config, job, self.pipeline.source)
            self.changes = check_same_run(self.output, config, self.described)
        elif job.config.loss.anchors is not None:
            job.samples = known.get("samples", 0)
        self.job = job
        self.engine: Engine = backend.Engine(job)
        stack.callback(self.engine.close)

    def _open_data(self, job: Job) -> None:
        from ..data import open_pipeline

        self.pipeline = open_pipeline(self.config, self.processor, self.process, model_config=job.model_config)
        self._stack.callback(self.pipeline.close)
        job.samples = self.pipeline.samples
        self.evaluator = Evaluator(self.config, job.model_config, self.processor, self.process)

    # -- training -----------------------------------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
        config, engine = self.config, self.engine
        data_state = engine.restore() if config.checkpoint.resume else None
        if data_state is not None:
            self.pipeline.set_state(data_state)
        self.saved = engine.step if data_state is not None else None
        if engine.step > config.steps:
            raise ConfigError(f"steps: wanted at least {engine.step}, the newest checkpoint's in {self.output}, "
                              f"found {config.steps}")  # fmt: skip
        self.log = self._open_log()
        self.meter = Meter(self.log.seconds if self.log else 0.0)
        self.record: dict[str, Any] = {}
        self.evaluation: dict[str, Any] | None = self.log.last_evaluation if self.log else None
        stopped = self._train()
        engine.wait()
        self.skipped = int(engine.gather(np.array([[self.pipeline.skipped]], np.int32)).sum())
        if not stopped:
            self.export(self.output / MODEL, self.record.get("loss"), self.evaluation or {})
        return self._summary(stopped)

    def _open_log(self) -> RunLog | None:
        if not self.first:
            return None
        write_text(self.output / RUN, json.dumps(self.described, indent=2) + "\n")
        steps, batch_size = self.config.steps, self.config.data.batch_size
        log = RunLog(self.output, steps, batch_size, self.engine.step, self.config.log.tensorboard, self._stream)
        self._stack.callback(log.close)
        if skipped := self.pipeline.source.skipped_shards:
            log.say(f"data.train: missing or damaged shards: {len(skipped)} ({', '.join(skipped)})")
        if self.engine.step:
            log.say(f"going on from step {self.engine.step} of {self.config.steps}")
            for change in self.changes:
                log.say(f"changed since the run began: {change}")
        return log

    def _train(self) -> bool:
        """Do all remaining steps. Returns whether the run was stopped before the last one."""
        config, engine = self.config, self.engine
        if engine.step and self._evaluation_due() and self._evaluate({}):  # perhaps interrupted at the end of the run
            return True
        while engine.step < config.steps:
            batch = next(self.pipeline)
            lr = learning_rate(config.optimizer, config.steps, engine.step)
            figures = engine.train_step(batch, lr)
            self.meter.tick(config.data.batch_size)
            step, last = engine.step, engine.step == config.steps
            stopping = engine.stopping()
            if last or step % config.log.every == 0:
                self._write_line(batch, figures, lr)
            if stopping or last or step % config.checkpoint.every == 0:
                self._save(figures)
            if stopping and not last:
                return self._say_stopped()
            if self._evaluation_due() and self._evaluate(figures):
                return True
        return False

    def _write_line(self, batch: Batch, figures: Mapping[str, Any], lr: float) -> None:
        values = self._finite(figures)
        self.meter.tick(0)  # the wait for the device belongs to these steps
        rate = self.meter.rate()
        record = {"step": self.engine.step, **values, "lr": lr, "images_per_second": round(rate, 3)}
        if self.config.log.peak_flops is not None:
            record["mfu"] = self._utilisation(batch, rate)
        self.record = {**record, "skipped": self.pipeline.skipped, "seconds": round(self.meter.seconds, 3)}
        if self.log:
            self.log.line(self.record)

    def _utilisation(self, batch: Batch, rate: float) -> float:
        patches = batch["patches"].shape[1] if "patches" in batch else None
        flops = training_flops(self.job.model_config, patches, self.config.model.unlocked_groups())
        peak = (self.config.log.peak_flops or math.inf) * self.engine.devices
        return round(flops * rate / peak, 5)

    def _finite(self, figures: Mapping[str, Any]) -> dict[str, float]:
        """The metrics of a step as floats: the only place where the host waits for the device."""
        values = {name: float(value) for name, value in figures.items()}
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            return values
        self.engine.wait()
        kept = "none was written"
        if self.saved is not None:
            kept = f"step {self.saved}'s, in {self.output / CHECKPOINTS}"
        raise DivergedError(
            f"step {self.engine.step}: wanted a finite loss, found loss {values['loss']}, gradient norm "
            f"{values['grad_norm']}: the run has diverged. The last checkpoint: {kept}"
        )

    def _save(self, figures: Mapping[str, Any]) -> None:
        if self.saved == self.engine.step:
            return
        self._finite(figures)  # so that no checkpoint of a diverged run is saved
        self.engine.save(self.pipeline.get_state())
        self.saved = self.engine.step

    def _say_stopped(self) -> bool:
        if self.log:
            self.log.say(
                f"stopped at step {self.engine.step} of {self.config.steps}, as asked: its checkpoint is saved"
            )
        return True

    def _evaluation_due(self) -> bool:
        """Whether to evaluate at a step; equal in every process, because only the configuration and the step count."""
        every, step = self.config.evaluate.every, self.engine.step
        return bool(self.evaluator) and (step == self.config.steps or bool(every) and step % every == 0)

    def _evaluate(self, figures: Mapping[str, Any]) -> bool:
        """Evaluate; returns whether the run was asked to stop meanwhile, after saving it."""
        if figures:
            self._finite(figures)
        with self.meter.pause():
            try:
                found = self.evaluator.run(self.engine, self.engine.stopping)
            except Stopped:
                self._save(figures)
                return self._say_stopped()
        self.evaluation = {"step": self.engine.step, **found}
        if self.log and self.engine.step not in self.log.evaluated:
            self.log.evaluation(self.evaluation)
        return False

    # -- results ------------------------------------------------------------------------------------------------------

    def export(self, folder: Path, loss: float | None, evaluation: Mapping[str, Any]) -> None:
        """Write a complete model folder, with the weights last: if they exist, everything does."""
        average = self.config.ema is not None
        bias = None
        if self.config.loss.kind == "sigmoid":  # not part of a CLIP model, but needed for probabilities
            bias = float(self.engine.weights(average)["logit_bias"])
        if self.first:
            folder.mkdir(parents=True, exist_ok=True)
            self.processor.save_pretrained(folder)
            report = {
                "step": self.engine.step,
                "averaged": average,
                "loss_kind": self.config.loss.kind,
                "loss": loss,
                "evaluation": dict(evaluation),
                **({} if bias is None else {"logit_bias": bias}),
            }
            write_text(folder / REPORT, json.dumps(report, indent=2) + "\n")
        self.engine.export(folder, average)

    def _summary(self, stopped: bool) -> dict[str, Any]:
        if self.log and (self.output / METRICS).exists():
            self.log.draw()
        return {
            "first": self.first,
            "step": self.engine.step,
            "steps": self.config.steps,
            "stopped": stopped,
            "output": str(self.output),
            "model": None if stopped else str(self.output / MODEL),
            "loss": self.record.get("loss"),
            "skipped": self.skipped,
            "seconds": round(self.meter.seconds, 3),
            "evaluation": self.evaluation,
        }
