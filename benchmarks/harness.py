"""One row of the benchmark: triclip and its peers, run in turn, on the same data, after their results were compared.

A row is a module `benchmarks/NAME.py` with a `ROW`, and a function for each side:

    ROW = Row(
        title="Captions to padded ids",
        about="20,000 captions, padded to the longest, NumPy arrays.",
        data=("captions",),                                   # made by benchmarks/data.py beforehand, if not there yet
        sides={
            "triclip": Side("triclip", "ours"),               # environment (benchmarks/peers.py), function below
            "HF fast": Side("hf4", "peer"),
        },
        pairs=(Pair("triclip", "HF fast", at_least=3.0),),    # what is compared, and the goal
        count=20_000,                                         # items in a repetition: figures are items per second
        unit="captions",
        check="same_ids",                                     # compares what the sides returned
    )

    def ours(data: Path) -> Callable[[], Any]:                # imports and loads: not timed
        from clip_core import CLIPTokenizerFast
        ...
        return lambda: tokenizer(texts, padding=True, return_tensors="np")["input_ids"]    # timed

    def same_ids(results: dict[str, Any]) -> str:             # side -> what it returned, as NumPy arrays
        ...                                                   # raises AssertionError, or says what was found equal

Conventions:
- The module is imported in every environment: at its top only the standard library and this file. Functions import
  what they need. `data` is the folder with the data; `check` runs in the `triclip` environment (NumPy, no peers).
- A side's timed function returns an array, a mapping of arrays, or None. Frameworks that compute later are waited for
  in it. The first call is the warm-up, and its result is what `check` gets.
- `mode`: "kept" (default), a process stays and is told to repeat; "fresh", every repetition is the first call in a new
  process (imports and loading not timed; the check's call comes from a process of its own); "process", the whole
  process is timed from its start to its end, with its peak memory: instead of a function the row then has a string,
  the program (`python -c`); sys.argv[1] is the data folder, and what it prints last, as JSON, is its result.
- "cpu" is the processor time of all threads: what to look at while the machine is busy.
- Sides run in turn, A B B A A B ..., never at once. Ratios are taken within a round; median and quartiles are given.
- Each repetition should take 0.2 to 3 seconds. A row stops after `rounds` rounds, or after `budget` seconds (but never
  before `least` rounds).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".bench-data"
LOGS = DATA / "logs"
REST = 0.1  # seconds between two sides, for threads that still spin


@dataclass(frozen=True)
class Side:
    """One implementation: the environment it lives in, and the row's function that prepares it."""

    env: str
    function: str  # or, in mode "process", the name of the program's text
    mode: str = "kept"  # "fresh", "process"
    environ: Mapping[str, str] = field(default_factory=dict)
    count: float | None = None  # items in one of its repetitions, where they are not the row's


@dataclass(frozen=True)
class Pair:
    """A comparison and its goal: our speed over the peer's `at_least`, or our time (memory) over the peer's `at_most`.

    Without a peer, `at_most` is seconds (bytes).
    """

    ours: str
    peer: str | None
    at_least: float | None = None
    at_avx2: float | None = None  # `at_least` of a processor without AVX-512, where it is another
    at_most: float | None = None
    of: str = "seconds"  # or "peak", "cpu"
    share: bool = False  # the peer is a ceiling, of which ours reaches so many per cent


@dataclass(frozen=True)
class Row:
    title: str
    about: str
    sides: Mapping[str, Side]
    pairs: tuple[Pair, ...] = ()
    data: tuple[str, ...] = ()
    count: float = 1
    unit: str = "runs"
    check: str | None = None
    limits: str = ""  # what limits the figures, once known
    rounds: int = 7
    least: int = 3
    budget: float = 25.0


def load_row(name: str) -> tuple[Any, Row]:
    """A row's module and its ROW."""
    module = import_module(f"benchmarks.{name}")
    return module, module.ROW


# ---- one side's process


class Worker:
    """A process in a side's environment that prepares it and then repeats it when told to."""

    def __init__(self, name: str, label: str, side: Side, python: Path) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.label, self.log = label, LOGS / f"{name}-{side.env}-{side.function}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", name, side.function],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=_environ(side),
            )  # fmt: skip
        self._answer()

    def run(self, result: Path | None = None) -> dict[str, float]:
        """One repetition: {"seconds", "cpu", "peak"}; what it returned goes to `result`, if given."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"result": str(result) if result else None}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.label}: its process ended: {tail(self.log)}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tail(log: Path) -> str:
    return f"{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _environ(side: Side) -> dict[str, str]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    return {**os.environ, **quiet, **side.environ, "PYTHONPATH": str(ROOT)}


def run_process(name: str, label: str, side: Side, python: Path, result: Path | None = None) -> dict[str, float]:
    """A side of mode "process", from start to end."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}-{side.env}-{side.function}.log"
    program = [python, "-c", getattr(load_row(name)[0], side.function), str(DATA)]
    with open(log, "w") as errors, tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(program, stdout=output, stderr=errors, cwd=ROOT, env=_environ(side))
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{label}: exit code {process.returncode}: {tail(log)}")
        output.seek(0)
        printed = output.read().decode()
    if result:
        result.with_suffix(".json").write_text(printed.splitlines()[-1] if printed else "null")
    # This process stays small, so that what Linux inherits into a child's maximum is not from here.
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu": cpu, "peak": usage.ru_maxrss * 1024}


# ---- a row


def measure(name: str, pythons: Mapping[str, Path]) -> dict[str, Any]:
    """Check and time one row; `pythons`: environment -> its interpreter. Returns what goes into the results file."""
    module, row = load_row(name)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        runners = {
            label: stack.enter_context(_runner(name, label, side, pythons[side.env]))
            for label, side in row.sides.items()
        }
        results = {}
        for number, (label, run) in enumerate(runners.items()):
            path = Path(scratch) / f"{number}.npz"
            run(path)
            results[label] = read_result(path) if row.check else None
        checked = getattr(module, row.check)(results) if row.check else ""
        del results
        times = alternate(row, runners)
    return {"load": [round(value, 2) for value in load], "checked": checked, "measured": times}


@contextmanager
def _runner(name: str, label: str, side: Side, python: Path) -> Iterator[Any]:
    if side.mode == "process":
        yield lambda result=None: run_process(name, label, side, python, result)
    elif side.mode == "fresh":

        def fresh(result: Path | None = None) -> dict[str, float]:
            with Worker(name, label, side, python) as worker:
                return worker.run(result)

        yield fresh
    else:
        with Worker(name, label, side, python) as worker:
            yield worker.run


def alternate(row: Row, runners: Mapping[str, Any], clock: Any = time.perf_counter) -> dict[str, dict[str, list]]:
    """Rounds of every side, forwards and backwards in turn: side -> {"seconds": [...], "cpu": [...], "peak": [...]}."""
    times: dict[str, dict[str, list]] = {label: {"seconds": [], "cpu": [], "peak": []} for label in runners}
    started = clock()
    for number in range(row.rounds):
        if number >= row.least and clock() - started > row.budget:
            break
        for label in list(runners) if number % 2 == 0 else reversed(runners):
            time.sleep(REST)
            for key, value in runners[label]().items():
                times[label][key].append(value)
    return times


def read_result(path: Path) -> Any:
    """What a side returned: {name: array}, one array, or what JSON it printed; None for nothing."""
    import numpy as np

    if path.with_suffix(".json").exists():
        return json.loads(path.with_suffix(".json").read_text())
    if not path.exists():
        return None
    with np.load(path) as arrays:
        found = dict(arrays)
    return found[""] if set(found) == {""} else found


# ---- figures


@dataclass(frozen=True)
class Ratio:
    """A pair's outcome: median, lower and upper quartile, and whether the goal was reached (None: there is none)."""

    median: float
    low: float
    high: float
    reached: bool | None


def goal(pair: Pair, level: str = "") -> float | None:
    """What a pair's speed is to reach at least, at a level (see levels.py)."""
    return pair.at_avx2 if level == "avx2" and pair.at_avx2 is not None else pair.at_least


def ratio(row: Row, pair: Pair, measured: Mapping[str, Mapping[str, list]], level: str = "") -> Ratio:
    """The pair's ratio over the rounds; for a pair without a peer the figure itself."""
    ours = _per_item(row, pair.ours, measured, pair.of)
    if pair.peer is None:
        values = ours
    else:
        peer = _per_item(row, pair.peer, measured, pair.of)
        rounds = list(zip(ours, peer, strict=True))
        values = [a / b for a, b in rounds] if pair.at_most is not None else [b / a for a, b in rounds]
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    reached = None
    if pair.at_least is not None:
        reached = middle >= (goal(pair, level) or 0)
    elif pair.at_most is not None:
        reached = middle <= pair.at_most
    return Ratio(middle, low, high, reached)


def _per_item(row: Row, label: str, measured: Mapping[str, Mapping[str, list]], of: str) -> list[float]:
    count = 1 if of == "peak" else row.sides[label].count or row.count
    return [value / count for value in measured[label][of]]


def speed(row: Row, label: str, measured: Mapping[str, Mapping[str, list]]) -> float:
    """A side's items per second, by its median."""
    return (row.sides[label].count or row.count) / median(measured[label]["seconds"])


if __name__ == "__main__":
    sys.exit("run this as: make bench, or make bench ROW=name")
