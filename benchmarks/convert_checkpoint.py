"""Time and peak memory of converting a ViT-B/32-size checkpoint (605 MB), beside a plain copy of the file.

    python benchmarks/convert_checkpoint.py [FOLDER]

Each conversion runs in a process of its own, alternating with copies of the same file, which are flushed to the disk
as a save is. Peak memory is the process's resident set, interpreter and NumPy included. Prints a Markdown table.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = ("hf", "hf-bin", "flax", "tf", "openai", "open_clip", "kerashub", "hf float16", "hf sharded")
ROUNDS = 5


def make(folder: Path) -> Path:
    import numpy as np

    from clip_core.checkpoint import Tensor, save
    from clip_core.config import CLIPConfig
    from clip_core.weights import weight_table

    config = CLIPConfig()
    rng = np.random.default_rng(0)

    def lazily(shape: tuple[int, ...]) -> Tensor:
        return Tensor("float32", shape, lambda: rng.standard_normal(shape, np.float32))

    from clip_core.image.processor import CLIPImageProcessor
    from clip_core.text.tokenizer import CLIPTokenizerFast

    save(folder, {n: lazily(w.shape) for n, w in weight_table(config).items()}, config.to_dict())
    for part in (CLIPTokenizerFast(), CLIPImageProcessor()):
        part.save_pretrained(folder)
    return folder / "model.safetensors"


def act(what: str, source: Path, target: Path) -> None:
    """In a process of its own: convert or copy, and print seconds and peak kilobytes."""
    if what == "copy":
        started = time.perf_counter()
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
    elif what == "one tower":
        from clip_core.checkpoint import load

        started = time.perf_counter()
        for tensor in load(source, scope="vision").tensors.values():
            tensor.numpy()
    else:
        from clip_core.checkpoint import convert

        to, *rest = what.split()
        options = {"dtype": "float16"} if "float16" in rest else {"shard_size": "100MB"} if "sharded" in rest else {}
        started = time.perf_counter()
        convert(source.parent, target, to=to, **options)
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Not ru_maxrss: that includes what the parent process had before this one was started.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(seconds, usage.ru_utime + usage.ru_stime, status["VmHWM"].split()[0])


def measure(what: str, source: Path, folder: Path) -> tuple[float, float, float]:
    target = folder / "out"
    command = [sys.executable, __file__, "--act", what, str(source), str(target)]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)
    seconds, processor, kilobytes = output.stdout.split()[-3:]
    return float(seconds), float(processor), float(kilobytes) * 1024


def main(folder: Path) -> None:
    source = make(folder / "source")
    size = source.stat().st_size
    print(f"{size / 1e6:.0f} MB; best of {ROUNDS} rounds", end="\n\n")
    print("| what | seconds | x copy | CPU seconds | peak MB | x file |", "|---|---|---|---|---|---|", sep="\n")
    rows: dict[str, list[tuple[float, float, float]]] = {what: [] for what in ("copy", *TARGETS, "one tower")}
    for _ in range(ROUNDS):
        for what in random.sample(list(rows), len(rows)):  # so that no one always follows the same one
            rows[what].append(measure(what, source, folder))
    copy = min(row[0] for row in rows["copy"])
    for what, results in rows.items():
        seconds, processor = min(row[0] for row in results), min(row[1] for row in results)
        peak = max(row[2] for row in results)
        times = f"{seconds:.2f} | {seconds / copy:.2f} | {processor:.2f}"
        print(f"| {what} | {times} | {peak / 1e6:.0f} | {peak / size:.2f} |")


if __name__ == "__main__":
    if "--act" in sys.argv:
        act(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.path.insert(0, str(ROOT))
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
            main(Path(scratch))
