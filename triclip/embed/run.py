"""A bulk run: the plan, the first pass for duplicates, the work, the report."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_core.errors import InputError

from ..locks import locked
from ..progress import Progress
from ..search.runs import Unit, read_record, units_of
from ..search.single_file import pyarrow_or_error
from .duplicates import are_compared, compare, hash_path
from .encoder import ClipSpec, EncoderSpec
from .engines import ENGINES, Engine, Local
from .plan import make_plan
from .settings import HASHES, SAMPLES, Job, Settings, absolute, parse_shard
from .shards import broken_file


@dataclass(frozen=True)
class Report:
    """The result of a run.

    output: the folder. rows: vectors by kind, "image" and "text". samples: their number in the inputs. broken,
    duplicates: items without a vector. damaged: inputs that were lost, completely or in part. embedded: samples of this
    call; the others were finished before. seconds: of this call. complete: False while other shares have work to do.
    """

    output: Path
    rows: dict[str, int]
    samples: int
    broken: int
    duplicates: int
    damaged: int
    embedded: int
    seconds: float
    complete: bool


def embed(
    inputs: Sequence[str | os.PathLike] | str | os.PathLike,
    output: str | os.PathLike,
    model: str | os.PathLike | EncoderSpec = "emoji",
    *,
    backend: str | None = None,
    dtype: str | None = None,
    device: Any = None,
    what: str = "images",
    format: str = "auto",
    image_key: str | None = None,
    caption_key: str | None = None,
    to: str = "npy",
    store: str = "float32",
    samples_per_shard: int = SAMPLES,
    deduplicate: bool = False,
    batch_size: int = 32,
    threads: int | None = None,
    engine: str | Engine = "local",
    shard: str | None = None,
    prepare: bool = False,
    progress: bool | None = None,
) -> Report:
    """Embed everything in the inputs into a folder of shards. A second call resumes an interrupted run.

    Args:
        inputs: as for `triclip.data.open_source`: tar shards, tables, folders, patterns such as "{000..127}.tar".
        output: a folder; a new one, or one of the same run.
        model: a name or path as for `Clip.from_pretrained`, or an `EncoderSpec`, for which the next three are ignored.
        backend, dtype, device: as for `Clip.from_pretrained`.
        what: "images" (default), "texts" (captions) or "both". A sample's pictures and captions have a row each.
        format, image_key, caption_key: as for `open_source`.
        to: "npy" (default) or "parquet" (extra `parquet`).
        store: "float32" (default) or "float16", of the vectors in the files.
        samples_per_shard: size of an output shard; memory grows with it.
        deduplicate: of pictures with the same bytes, and of equal captions, only the first gets a row. The input is
            read twice.
        batch_size: pictures, or texts, at a time. threads: for reading and decoding; default one for each processor.
        engine: "local" (default), "ray", or a `ray_engine.Ray` with settings of its own.
        shard: "INDEX/COUNT": do only this part of the work; other processes do the rest, at the same time, into the
            same folder. With `deduplicate`, run once with `prepare` first.
        prepare: only make the plan and, with `deduplicate`, the hashes.
        progress: as for `Progress`.

    Broken samples are skipped, counted, and named in broken.jsonl. A kill loses at most the shards being written.
    Memory does not grow with the input, except for about 30 bytes per sample of the input file being read.

    Raises FileNotFoundError, DataError as `open_source`; InputError if `output` has another run, naming the
    differences, or is in use; OSError for a full disk, naming the file.
    """
    index, count = parse_shard(shard)
    spec: EncoderSpec = ClipSpec(model, backend, dtype, device) if isinstance(model, (str, os.PathLike)) else model
    settings = Settings(
        absolute(inputs), Path(os.path.abspath(output)), what, format, image_key, caption_key, to, store,
        samples_per_shard, deduplicate, batch_size, threads,
    )  # fmt: skip
    _check_output(settings)
    started = time.monotonic()
    settings.output.mkdir(parents=True, exist_ok=True)
    with _alone(settings.output, f".lock-{index}-of-{count}"), _engine(engine) as workers:
        job = make_plan(Job(settings, spec, []), workers, progress)
        units = units_of(job.inputs, settings.samples_per_shard)
        todo = [(place, unit) for place, unit in enumerate(units) if read_record(settings.output, unit) is None]
        mine = [unit for place, unit in todo if place % count == index]
        if deduplicate and todo:
            _prepare(job, units, workers, shard is not None and not prepare, progress)
        embedded = 0
        if not prepare:
            embedded = _work(job, mine, workers, progress)
        return _report(job, units, embedded, started)


def _check_output(settings: Settings) -> None:
    """Check the output before the work."""
    if settings.to == "parquet":
        pyarrow_or_error()
    for path in map(Path, settings.inputs):
        if path.is_dir() and (path == settings.output or path in settings.output.parents):
            raise InputError(f"{settings.output}: wanted an output outside the input {path}")


def _work(job: Job, units: list[Unit], engine: Engine, progress: bool | None) -> int:
    embedded = 0
    with Progress("samples", sum(unit.stop - unit.start for unit in units), progress) as bar:
        for step in engine.embed(job, units):
            bar.advance(step.samples)
            embedded += step.samples
    return embedded


def _prepare(job: Job, units: list[Unit], engine: Engine, must_be_there: bool, progress: bool | None) -> None:
    """Do the rest of the first pass."""
    output, kinds = job.settings.output, job.settings.kinds
    if all(are_compared(output, kind) for kind in kinds):
        return
    if must_be_there:
        raise InputError(
            f"{output}: wanted the hashes of all inputs, which a share alone can't know: run once with prepare "
            "(--prepare), then all shares"
        )
    todo = [unit for unit in units if not all(hash_path(output, kind, unit).is_file() for kind in kinds)]
    with Progress("samples compared", sum(unit.stop - unit.start for unit in todo), progress) as bar:
        for step in engine.hash(job, todo):
            bar.advance(step.samples)
    for kind in kinds:
        compare(output, kind, units)


def _report(job: Job, units: list[Unit], embedded: int, started: float) -> Report:
    output = job.settings.output
    rows = dict.fromkeys(job.settings.kinds, 0)
    broken, duplicates, complete = 0, 0, True
    with broken_file(output) as add_broken:
        for one in job.inputs:
            for reason in one.damage:
                add_broken(one.path, reason)
        for record in (read_record(output, unit) for unit in units):
            if record is None:
                complete = False
                continue
            broken, duplicates = broken + len(record["broken"]), duplicates + record["duplicates"]
            rows = {kind: count + record["rows"][kind] for kind, count in rows.items()}
            for name, reason in record["broken"]:
                add_broken(name, reason)
    if complete:
        shutil.rmtree(output / HASHES, ignore_errors=True)
    samples = sum(one.samples for one in job.inputs)
    seconds = time.monotonic() - started
    damaged = sum(bool(one.damage) for one in job.inputs)
    return Report(output, rows, samples, broken, duplicates, damaged, embedded, seconds, complete)


@contextlib.contextmanager
def _engine(engine: str | Engine) -> Iterator[Engine]:
    if isinstance(engine, str) and engine not in ENGINES:
        raise InputError(f"engine: wanted one of {', '.join(ENGINES)}, found {engine!r}")
    if engine == "ray":
        from .ray_engine import Ray

        engine = Ray()
    made: Engine = Local() if isinstance(engine, str) else engine
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def _alone(output: Path, name: str) -> Iterator[None]:
    """Hold the lock of this share, so that each share has one process."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(output / name, wait=False))
        except BlockingIOError as error:
            raise InputError(f"{output}: wanted a folder that no other run is writing to, found one at work") from error
        yield
