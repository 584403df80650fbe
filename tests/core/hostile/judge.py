"""Opens every file of the corpus in one process, under watch, and prints a JSON line for each.

    python judge.py FOLDER [NAME ...]

Watched: the error's type and text, seconds, memory, files opened outside the file's folder, processes, executed code.
"""

import json
import os
import resource
import sys
import time
import tracemalloc
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]

import corpus  # noqa: E402

from clip_core.checkpoint import CheckpointError, convert, inspect, load  # noqa: E402
from clip_core.config import CLIPConfig  # noqa: E402, F401 - imported before the watch begins
from clip_core.errors import MissingDependencyError  # noqa: E402

DOCUMENTED = (CheckpointError, FileNotFoundError, MissingDependencyError)
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "webbrowser.open")
OWN = (sys.prefix, sys.base_prefix, str(corpus.GOLDEN.parents[2]), "/proc", "/sys", "/dev/null")
watching = None
events = []


def hook(event, arguments):
    if watching is None:
        return
    if event in FORBIDDEN:
        events.append(f"{event} {str(arguments)[:100]}")
    elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[1], str):
        path = os.path.realpath(arguments[0])
        if not path.startswith((str(watching), *OWN)):
            events.append(f"open {path}")


def try_all(path, folder):
    """Everything that a user does with a file; the first error ends it."""
    read = load(path)
    for tensor in read.tensors.values():
        tensor.numpy()
    inspect(path)
    convert(path, folder / "converted")


def judge(name, folder):
    global watching
    maker, says = corpus.CASES[name]
    folder.mkdir(parents=True)
    path = maker(folder)
    before = set(folder.rglob("*"))
    tracemalloc.start()
    watching, started = folder.resolve(), time.perf_counter()
    try:
        try_all(path, folder)
        outcome, text = "accepted", ""
    except DOCUMENTED as error:
        outcome, text = type(error).__name__, str(error)
    seconds, watching = time.perf_counter() - started, None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    new = sorted(str(p.relative_to(folder)) for p in set(folder.rglob("*")) - before)
    size = sum(p.stat().st_blocks * 512 for p in before if p.is_file())
    return {
        "name": name,
        "outcome": outcome,
        "text": text[:500],
        "says": says,
        "seconds": round(seconds, 3),
        "peak": peak,
        "size": size,
        "events": events.copy(),
        "new": new,
    }


def warm_up(folder):
    """Lazy imports happen before anything is watched."""
    for name in ("hf", "tf", "flax", "hf-bin", "orbax", "kerashub"):
        read = load(corpus.GOLDEN / name)
        next(iter(read.tensors.values())).numpy()
    convert(corpus.GOLDEN / "hf", folder / "warm")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warm_up(root)
    sys.addaudithook(hook)
    for case_name in sys.argv[2:] or corpus.CASES:
        print(json.dumps({"start": case_name}), flush=True)
        print(json.dumps(judge(case_name, root / case_name)), flush=True)
        events.clear()
