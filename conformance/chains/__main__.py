"""The recorded run: chains through triclip and the real libraries, each in its own environment.

    python -m conformance.chains RECORD.json --chains 2000 --libraries LIBRARIES.json
    python -m conformance.chains RECORD.json        prints it as a table

LIBRARIES.json: [[name, python, kind, [formats]], ...], e.g. ["transformers 4.37.2, PyTorch", "/envs/a/bin/python",
"torch", ["hf", "hf-bin"]]; the kinds are `worker`'s. A step is a conversion by triclip, or a visit: converted to the
library's format, loaded and computed there, saved by it. Chain N draws a model that library N modulo their number can
hold, and visits it; what else it visits is drawn. The record is written as the run goes on, and a run that was broken
off goes on where the record ends: chain N is the same whenever and wherever it runs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from . import models, walk

WORKER = Path(__file__).parent / "worker.py"
# The largest difference that is no loss, over the largest output: PyTorch computes in float64, the others in float32.
TOLERANCES = {"torch": 1e-6, "open_clip": 1e-6, "tf": 1e-5, "flax": 1e-5, "kerashub": 1e-5}
KERASHUB_EPS = 1e-6  # of its text tower's last norm, whatever the model's is
_VISITS_OF_A_PROCESS = 300  # then it is started anew: Keras and JAX keep something of every model
_PIECE = 20  # chains between two writings of the record


class Library:
    """A worker process. visit: a checkpoint in, its outputs and the checkpoint that the library saved out."""

    def __init__(self, name: str, python: str, kind: str, formats: list[str], log: Any) -> None:
        self.name, self.python, self.kind, self.formats, self.log = name, python, kind, formats, log
        self.process: subprocess.Popen[str] | None = None
        self.visits = 0

    def visit(self, source: Path, target: Path, drawn: models.Drawn, rng: random.Random) -> dict[str, np.ndarray]:
        inputs = target.with_suffix(".npz")
        np.savez(inputs, **drawn.inputs)
        options: dict[str, Any] = {"safe_serialization": rng.random() < 0.5}
        if self.kind not in ("torch", "tf", "open_clip") or self.name.startswith("transformers 5"):
            options = {}
        job = {"source": str(source), "target": str(target), "scope": drawn.scope}
        job |= {"inputs": str(inputs), "options": options}
        answer = self._ask(json.dumps(job))
        if "error" in answer:
            raise AssertionError(f"{self.name}: {answer['error']}")
        with np.load(answer["outputs"]) as outputs:
            return dict(outputs)

    def _ask(self, job: str) -> dict[str, str]:
        if self.process is None or self.visits % _VISITS_OF_A_PROCESS == 0:
            self.close()
            command, pipe = [self.python, str(WORKER), self.kind], subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=environment()
            )
        self.visits += 1
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(job, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            return {"error": "the worker ended"}
        return json.loads(line)

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except BrokenPipeError:  # it ended by itself
                pass
            self.process.wait()
        self.process = None


def _to_be_visited(kind: str, to: str) -> dict[str, Any]:
    """How a checkpoint is written for a library, as `walk.step` takes it."""
    how: dict[str, Any] = {"files": 0.0}
    if kind == "kerashub":
        how["dtype"] = "float32"  # it computes in the file's
    if (kind, to) == ("tf", "hf"):
        how["sizes"] = (None,)  # "Support for sharded checkpoints using safetensors is coming soon!"
    return how


def environment() -> dict[str, str]:
    """One thread each: the models are too small for more."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | threads


class Run:
    """The chains of a list of libraries, and the record of what they gave."""

    def __init__(self, listed: list[Any], record: Path, log: Any) -> None:
        self.libraries, self.record = [Library(*entry, log) for entry in listed], record
        self.counts: collections.Counter[str] = collections.Counter()
        self.found: dict[str, Any] = {"chains": 0, "failures": [], "worst at the end": 0.0}
        self.found["tolerance at the end"] = walk.TOLERANCE
        self.visits = {library.name: {"visits": 0, "worst": 0.0} for library in self.libraries}
        if record.exists():
            self.found = json.loads(record.read_text(encoding="utf-8"))
            self.visits |= self.found.pop("libraries")
            self.counts.update(self.found.pop("steps"))

    def go(self, chains: int) -> None:
        for seed in range(self.found["chains"], chains):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    error = self.chain(seed, Path(folder))
                    self.found["worst at the end"] = max(self.found["worst at the end"], error)
                    assert error < walk.TOLERANCE, f"at the end: {error:.1e}"
                except Exception as error:  # recorded, whatever it is
                    what = {"seed": seed, "what": f"{type(error).__name__}: {error}"[-900:]}
                    self.found["failures"].append(what)
                    print(what, flush=True)
            self.found["chains"] += 1
            if self.found["chains"] % _PIECE == 0 or self.found["chains"] == chains:
                self.write()
        for library in self.libraries:
            library.close()

    def chain(self, seed: int, folder: Path) -> float:
        """Walk one chain; the largest difference at its end. AssertionError says what differed."""
        home = self.libraries[seed % len(self.libraries)]
        drawn, rng = models.draw(seed, small=seed % 100 > 0, home=home.kind), random.Random(seed)
        here = folder / "0"
        models.write(drawn, here)
        numbers = range(1, rng.choice((2, 3, 4, 5)))
        at_home = rng.choice(numbers)
        for number in numbers:
            library = home if number == at_home else rng.choice(self.libraries)
            visits = number == at_home or rng.random() < 0.4 and models.holds(library.kind, drawn)
            to = rng.choice(library.formats) if visits else rng.choice(walk.FORMATS)
            how = _to_be_visited(library.kind, to) if visits else {}
            following = walk.step(here, folder / str(number), to, drawn, rng, **how)
            if following is None:
                self.counts[f"refused, with the reason: {to}"] += 1
                continue
            self.counts[f"converted to {to}"] += 1
            here = following
            if visits:
                here = folder / f"{number}-{library.kind}"
                self.visit(library, following, here, to, drawn, rng)
        return walk.at_the_end(here, drawn)[2]

    def visit(
        self, library: Library, source: Path, target: Path, to: str, drawn: models.Drawn, rng: random.Random
    ) -> None:
        """Asserts that the library computes what the model is."""
        got = library.visit(source, target, drawn, rng)
        wanted = walk.expected(drawn, KERASHUB_EPS if library.kind == "kerashub" else None)
        error = walk.difference(got, wanted)
        entry = self.visits[library.name]
        entry["visits"] += 1
        entry[f"from {to}"] = entry.get(f"from {to}", 0) + 1
        entry["worst"] = float(f"{max(entry['worst'], error):.1e}")
        assert error < TOLERANCES[library.kind], f"{library.name}: from {to}: outputs differ by {error:.1e}"

    def write(self) -> None:
        content = {**self.found, "libraries": self.visits, "steps": dict(sorted(self.counts.items()))}
        self.record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")
        print(f"{self.found['chains']} chains, {len(self.found['failures'])} failures", flush=True)


def table(found: dict[str, Any]) -> str:
    """A record in Markdown."""
    lines = [f"{found['chains']} chains, {len(found['failures'])} failures.", ""]
    lines += ["| library | visits | from | largest difference |", "|---|---|---|---|"]
    for name, entry in found["libraries"].items():
        layouts = ", ".join(f"{key[5:]} {count}" for key, count in sorted(entry.items()) if key.startswith("from "))
        lines.append(f"| {name} | {entry['visits']} | {layouts} | {entry['worst']:.1e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--chains", type=int, default=2000)
    parser.add_argument("--libraries", type=Path, help="without it: print the record as the table of docs/formats.md")
    args = parser.parse_args()
    if args.libraries is None:
        print(table(json.loads(args.record.read_text(encoding="utf-8"))))
        return
    with tempfile.TemporaryFile("w") as log:
        Run(json.loads(args.libraries.read_text()), args.record, log).go(args.chains)


if __name__ == "__main__":
    main()
