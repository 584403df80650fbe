"""The recorded run: chains through triclip and the real libraries, each in an environment of its own.

    python -m conformance.chains RECORD.json --chains 2000 --libraries LIBRARIES.json

LIBRARIES.json: [[name, python, kind, [formats]], ...], e.g. ["transformers 4.37.2, PyTorch", "/envs/a/bin/python",
"torch", ["hf", "hf-bin"]]; the kinds are `worker`'s. Two libraries run at a time, every pair in turn. A step is a
conversion by triclip, or a visit: converted to the library's format, loaded and computed there, saved by it.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
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
_NO_ACTIVATION = {"torch": ("selu",), "tf": ("selu", "gelu_pytorch_tanh"), "flax": ("selu", "gelu_pytorch_tanh")}
_NO_CLASS = {"tf": ("text_projection", "vision_projection"), "flax": ("vision_projection",)}


class Library:
    """A worker process. visit: a checkpoint in, its outputs and the checkpoint that the library saved out."""

    def __init__(self, name: str, python: str, kind: str, formats: list[str], log: Any) -> None:
        self.name, self.kind, self.formats = name, kind, formats
        self.worst, self.visits = 0.0, 0
        command = [python, str(WORKER), kind]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
        )

    def holds(self, drawn: models.Drawn) -> bool:
        """Whether the library has a class for the model, and its activation."""
        parts = [getattr(drawn.made, key, drawn.made) for key in ("text_config", "vision_config")]
        acts = {part.hidden_act for part in parts}
        if self.kind == "open_clip" and not all(part.num_hidden_layers for part in parts):  # it can't be built there
            return False
        if self.kind == "flax" and getattr(parts[1], "num_channels", 3) != 3:  # its classes are built with 3
            return False
        return drawn.scope not in _NO_CLASS.get(self.kind, ()) and not acts & set(_NO_ACTIVATION.get(self.kind, ()))

    def visit(self, source: Path, target: Path, drawn: models.Drawn, rng: random.Random) -> dict[str, np.ndarray]:
        inputs = target.with_suffix(".npz")
        np.savez(inputs, **drawn.inputs)
        options: dict[str, Any] = {}
        if self.kind in ("torch", "tf", "open_clip"):
            options["safe_serialization"] = rng.random() < 0.5
        if self.name.startswith("transformers 5"):
            options.pop("safe_serialization", None)
        job = {"source": str(source), "target": str(target), "scope": drawn.scope}
        job |= {"inputs": str(inputs), "options": options}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the worker ended"}')
        if "error" in answer:
            raise AssertionError(f"{self.name}: {answer['error']}")
        with np.load(answer["outputs"]) as outputs:
            return dict(outputs)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def environment() -> dict[str, str]:
    import os

    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "TF_USE_LEGACY_KERAS": "0"}


def chain(seed: int, libraries: list[Library], folder: Path, counts: collections.Counter[str]) -> float:
    """Walk one chain; the largest difference at its end. AssertionError says what differed."""
    drawn, rng = models.draw(seed, small=seed % 20 > 0), random.Random(seed)
    here = folder / "0"
    models.write(drawn, here)
    for number in range(1, rng.choice((2, 3, 4, 5))):
        library = rng.choice(libraries)
        visits = rng.random() < 0.65 and library.holds(drawn)
        to = rng.choice(library.formats) if visits else rng.choice(walk.FORMATS)
        how = {"dtype": "float32"} if visits and library.kind == "kerashub" else {}  # else it computes in the file's
        following = walk.step(here, folder / str(number), to, drawn, rng if not visits else random.Random(0), **how)
        if following is None:
            counts[f"refused, with the reason: {to}"] += 1
            continue
        counts[f"converted to {to}"] += 1
        here = following
        if visits:
            here = folder / f"{number}-{library.kind}"
            got = library.visit(following, here, drawn, rng)
            wanted = walk.expected(drawn, KERASHUB_EPS if library.kind == "kerashub" else None)
            error = walk.difference(got, wanted)
            library.visits, library.worst = library.visits + 1, max(library.worst, error)
            assert error < TOLERANCES[library.kind], f"{library.name}: from {to}: outputs differ by {error:.1e}"
    return walk.at_the_end(here, drawn)[2]


def run(chains: int, listed: list[Any], record: Path, log: Any) -> None:
    """Writes the record anew after every pair of libraries."""
    pairs = list(itertools.combinations(listed, 2))
    counts: collections.Counter[str] = collections.Counter()
    visits: dict[str, dict[str, Any]] = {name: {"visits": 0, "worst": 0.0} for name, *_ in listed}
    found: dict[str, Any] = {"chains": 0, "failures": [], "worst at the end": 0.0}
    found["tolerance at the end"] = walk.TOLERANCE
    for turn, pair in enumerate(pairs):
        libraries = [Library(*entry, log) for entry in pair]
        for seed in range(turn, chains, len(pairs)):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    error = chain(seed, libraries, Path(folder), counts)
                    found["worst at the end"] = max(found["worst at the end"], error)
                    assert error < walk.TOLERANCE, f"at the end: {error:.1e}"
                except Exception as error:  # recorded, whatever it is
                    what = {"seed": seed, "libraries": [x.name for x in libraries], "what": str(error)[-600:]}
                    found["failures"].append(what)
                    print(what, flush=True)
            found["chains"] += 1
        for library in libraries:
            library.close()
            entry = visits[library.name]
            entry["visits"] += library.visits
            entry["worst"] = float(f"{max(entry['worst'], library.worst):.1e}")
        print(f"{found['chains']} chains, {len(found['failures'])} failures", flush=True)
        content = {**found, "libraries": visits, "steps": dict(sorted(counts.items()))}
        record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--chains", type=int, default=2000)
    parser.add_argument("--libraries", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryFile("w") as log:
        run(args.chains, json.loads(args.libraries.read_text()), args.record, log)


if __name__ == "__main__":
    main()
