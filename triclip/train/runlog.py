"""A run's logs: the progress line, metrics.jsonl, evaluation.jsonl, TensorBoard, loss.png.

Only the first process has a RunLog.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from clip_core.files import write_text

from ..nested import flatten

METRICS, EVALUATION, CURVE = "metrics.jsonl", "evaluation.jsonl", "loss.png"


class Meter:
    """Training time, and the rate since the last reading, without time inside `pause`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds  # including earlier parts of this run
        self._mark = time.monotonic()
        self._images, self._since = 0, seconds

    def tick(self, images: int) -> None:
        """Count `images` more."""
        now = time.monotonic()
        self.seconds += now - self._mark
        self._mark = now
        self._images += images

    @contextmanager
    def pause(self) -> Iterator[None]:
        self.tick(0)
        try:
            yield
        finally:
            self._mark = time.monotonic()

    def rate(self) -> float:
        """Images per second since the last call."""
        rate = self._images / max(self.seconds - self._since, 1e-9)
        self._images, self._since = 0, self.seconds
        return rate


class _OwnLines(logging.Handler):
    """Puts this package's warnings on separate lines if the progress line is updated in place."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say, self._logger = say, logging.getLogger("triclip")
        self._propagate, self._logger.propagate = self._logger.propagate, False
        self._level = self._logger.level
        if self._level == logging.NOTSET:  # frameworks raise the root logger's level
            self._logger.setLevel(logging.WARNING)
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagate
        self._logger.setLevel(self._level)
        super().close()


class RunLog:
    """Writes the lines of a run.

    Args:
        folder: the run's output, which exists.
        steps, batch_size: of the whole run, of a step.
        step: the step to resume from; records of later steps, from before a crash, are removed.
        tensorboard: also write folder/tensorboard.
        stream: of the progress line; default standard error. On a terminal it is updated in place.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        batch_size: int,
        step: int = 0,
        tensorboard: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.folder, self.steps, self.batch_size = folder, steps, batch_size
        self.stream = sys.stderr if stream is None else stream
        self._in_place = self.stream.isatty()
        self._open_line = False
        self._warnings = _OwnLines(self.say) if self._in_place else None
        kept = {name: keep_until(folder / name, step) for name in (METRICS, EVALUATION)}
        self.seconds = float(kept[METRICS][-1].get("seconds", 0.0)) if kept[METRICS] else 0.0
        self.evaluated = {line["step"] for line in kept[EVALUATION]}
        self.last_evaluation = kept[EVALUATION][-1] if kept[EVALUATION] else None
        self._events = self._open_events(step) if tensorboard else None

    def _open_events(self, step: int) -> Any:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            self.say("no TensorBoard: tensorboardX is not installed (pip install 'triclip[train]')")
            return None
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def line(self, record: Mapping[str, Any]) -> None:
        """Write one line of metrics to metrics.jsonl and TensorBoard, and show it."""
        _append(self.folder / METRICS, record)
        self._scalars("train", record, record["step"])
        self._show(progress_text(record, self.steps, self.batch_size))

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Write the metrics of an evaluation, {"step", "retrieval": {…}, "zero_shot": {…}}."""
        _append(self.folder / EVALUATION, record)
        self.evaluated.add(record["step"])
        self.last_evaluation = dict(record)
        for part in ("retrieval", "zero_shot"):
            self._scalars(part, flatten(record.get(part, {})), record["step"])
        self.say(f"step {record['step']}: {evaluation_text(record)}")

    def _scalars(self, prefix: str, record: Mapping[str, Any], step: int) -> None:
        if self._events is None:
            return
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._events.add_scalar(f"{prefix}/{name}", value, step)
        self._events.flush()

    def _show(self, text: str) -> None:
        if not self._in_place:
            self.say(text)
            return
        self.stream.write(f"\r\x1b[K{text}")
        self.stream.flush()
        self._open_line = True

    def say(self, text: str) -> None:
        """Print a separate line."""
        if self._open_line:
            self.stream.write("\n")
            self._open_line = False
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def draw(self) -> Path | None:
        """Write loss.png; returns None, with one message, if that is impossible."""
        from ..viz import loss_curves, save

        try:
            return save(loss_curves(self.folder / METRICS, title=self.folder.name), self.folder / CURVE)
        except ImportError:
            self.say(f"no {CURVE}: matplotlib is not installed (pip install 'triclip[train]')")
            return None

    def close(self) -> None:
        if self._open_line:
            self.stream.write("\n")
            self._open_line = False
        if self._warnings is not None:
            self._warnings.close()
        if self._events is not None:
            self._events.close()
            self._events = None


def keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Truncate a JSONL file to the records up to a step, without a last line cut off by a crash."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [record for record in map(_record, lines) if record is not None and record["step"] <= step]
    if len(kept) != len(lines):
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _append(path: Path, record: Mapping[str, Any]) -> None:
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:  # the error of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def progress_text(record: Mapping[str, Any], steps: int, batch_size: int) -> str:
    """The progress line: "step 40/1000 | loss 2.310 | scale 14.2 | …"."""
    parts = [f"step {record['step']}/{steps}", f"loss {record['loss']:.4f}", f"scale {record['logit_scale']:.2f}"]
    if "logit_bias" in record:
        parts.append(f"bias {record['logit_bias']:.2f}")
    parts += [
        f"grad {record['grad_norm']:.3g}",
        f"lr {record['lr']:.2e}",
        f"{record['images_per_second']:.0f} images/s",
    ]
    if record.get("mfu") is not None:
        parts.append(f"MFU {record['mfu']:.1%}")
    if record["skipped"]:
        parts.append(f"{record['skipped']} skipped")
    left = (steps - record["step"]) * batch_size / max(record["images_per_second"], 1e-9)
    return " | ".join([*parts, f"{duration(left)} left"] if left else parts)


def evaluation_text(record: Mapping[str, Any]) -> str:
    """The metrics of an evaluation in one line."""
    parts = []
    if "retrieval" in record:
        for name, side in (("image to text", "image_to_text"), ("text to image", "text_to_image")):
            figures = record["retrieval"][side]
            parts.append(f"{name} " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    if "zero_shot" in record:
        figures = record["zero_shot"]
        parts.append(f"zero-shot top-1 {figures['top1']:.3f}, top-5 {figures['top5']:.3f}")
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """ "42 s", "7 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
