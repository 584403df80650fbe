"""The machine's abilities, and the choice between the short cut and the plain path of each step.

A step with a short cut calls `choice("pixels", measure)`. The answer comes, in this order, from the environment
variable TRICLIP_SHORT_CUTS; from `measure`, which runs once in a process, when a step is first needed; else it is the
plain path. `describe` prints processor, threads and answers; `triclip inspect --machine` shows it.

TRICLIP_SHORT_CUTS is `all`, `none`, or a comma-separated list of `step=fast` and `step=plain`, such as
`pixels=plain,linear=fast`. `all` or `none` in a list applies to the steps that the list does not name. It is read at
each call, so it may be set at any time.
"""

from __future__ import annotations

import math
import os
import platform
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError

VARIABLE = "TRICLIP_SHORT_CUTS"

# step -> its short cut, whose result equals the plain path's unless the step's documentation states a tolerance
STEPS = {
    "pixels": "large pictures are resized by matrix products instead of by Pillow",
    "jpeg": "JPEG files are decoded by simplejpeg instead of by Pillow",
    "linear": "PyTorch's dense layers run as oneDNN's fused kernels instead of F.linear",
}

MARGIN = 1.1  # a short cut must be this many times as fast; less may be noise
MEASURING_S = 0.008  # for one step; with their preparation, all steps take less than 0.05


class Choice(NamedTuple):
    """One step's answer."""

    fast: bool
    reason: str


UNDECIDED = Choice(False, "decided at its first use")

_found: dict[str, Choice] = {}
_measuring = [threading.RLock()]  # reentrant: a measurement may ask for another step
if hasattr(os, "register_at_fork"):  # the measuring thread does not exist in the child
    os.register_at_fork(after_in_child=lambda: _measuring.__setitem__(0, threading.RLock()))


def choice(step: str, measure: Callable[[], bool | float] | None = None) -> bool:
    """Whether a step takes its short cut. Cheap after the first call; thread-safe.

    Args:
        step: a key of STEPS.
        measure: called once in a process, unless TRICLIP_SHORT_CUTS decides. Returns a bool, for facts (a missing
            library, a processor's flags), or the speed of the short cut over the plain path's (see `quicker`). It must
            have no side effects. Any exception means the plain path.
    Raises:
        InputError: an invalid TRICLIP_SHORT_CUTS, or an unknown step.
    """
    return why(step, measure).fast


def why(step: str, measure: Callable[[], bool | float] | None = None) -> Choice:
    """`choice` with its reason, for `describe` and tests."""
    if step not in STEPS:
        raise InputError(f"step: wanted one of {', '.join(STEPS)}, found {step!r}")
    told = settings(os.environ.get(VARIABLE, "")).get(step)
    if told is not None:
        return Choice(told, f"set by {VARIABLE}")
    if step in _found:
        return _found[step]
    if measure is None:
        return UNDECIDED
    with _measuring[0]:
        if step not in _found:
            _found[step] = _measured(measure)
        return _found[step]


def _measured(measure: Callable[[], bool | float]) -> Choice:
    started = time.perf_counter()
    try:
        found = measure()
    except Exception as error:
        return Choice(False, f"can't be measured here ({type(error).__name__}: {error})")
    if isinstance(found, bool):
        return Choice(found, "by what the machine and its libraries have")
    took = (time.perf_counter() - started) * 1000
    return Choice(found >= MARGIN, f"measured in {took:.0f} ms: {found:.2f} times as quick as the plain path")


def quicker(fast: Callable[[], object], plain: Callable[[], object], seconds: float = MEASURING_S) -> float:
    """The time of `plain` over that of `fast`: the best of alternating calls, within `seconds`.

    Each is called once to warm up, and then at least twice.
    """
    fast()
    plain()
    best = [math.inf, math.inf]
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < 2 or (rounds < 16 and time.perf_counter() < until):
        for number, call in enumerate((fast, plain)):
            started = time.perf_counter()
            call()
            best[number] = min(best[number], time.perf_counter() - started)
        rounds += 1
    return best[1] / max(best[0], 1e-9)


@lru_cache(maxsize=8)
def settings(text: str) -> dict[str, bool]:
    """The steps decided by a value of TRICLIP_SHORT_CUTS. Raises InputError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found: dict[str, bool] = {}
    for part in sorted(parts, key=lambda part: "=" in part):  # entries for one step come last and win
        step, _, way = part.partition("=")
        if part in ("all", "none"):
            found |= dict.fromkeys(STEPS, part == "all")
        elif step in STEPS and way in ("fast", "plain"):
            found[step] = way == "fast"
        else:
            raise InputError(
                f"{VARIABLE}: wanted 'all', 'none', or step=fast and step=plain with the steps {', '.join(STEPS)}, "
                f"separated by commas, found {part!r}"
            )
    return found


# ---- facts


def usable_cpus() -> int:
    """The number of processors this process may use, by its affinity and its container's limit; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroup_cpus()
    return max(1, allowed if limit is None else min(allowed, math.ceil(limit)))


@lru_cache(maxsize=1)
def cgroup_cpus(root: Path = Path("/")) -> float | None:
    """A container's limit in processors, from Linux control groups (both versions); None without one.

    Groups are nested: the result is the lowest limit of this process's group and its parents.
    """
    limits = []
    for folder, name in _groups(root):
        for place in (folder, *folder.parents):
            if place == root:
                break
            quota, period = _limit(place, name)
            if quota > 0 and period > 0:
                limits.append(quota / period)
    return min(limits, default=None)


def _groups(root: Path) -> list[tuple[Path, str]]:
    """The folders of this process's control groups, each with the name of its file of limits."""
    mounted, found = root / "sys/fs/cgroup", [(root / "sys/fs/cgroup", "cpu.max")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found.append((mounted / group.lstrip("/"), "cpu.max"))
        elif "cpu" in controllers.split(","):
            found.append((mounted / "cpu" / group.lstrip("/"), "cpu.cfs_quota_us"))
            found.append((mounted / "cpu", "cpu.cfs_quota_us"))
    return found


def _limit(folder: Path, name: str) -> tuple[float, float]:
    """(quota, period) in microseconds; zeros without a limit."""
    words = _text(folder / name).split()
    if name != "cpu.max":
        words += _text(folder / "cpu.cfs_period_us").split()
    try:
        return float(words[0]), float(words[1])
    except (IndexError, ValueError):  # no such file; "max 100000"
        return 0.0, 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor's name, from the system."""
    return _of_cpuinfo("model name") or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def flags() -> frozenset[str]:
    """The processor's instruction sets, in Linux' lower-case names ("avx2", "avx512f", "amx_bf16", arm's "bf16").

    On other systems those that NumPy detects, also lower-case ("avx2", "avx512f", "neon").
    """
    found = _of_cpuinfo("flags") or _of_cpuinfo("Features")
    if found:
        return frozenset(found.lower().split())
    import numpy as np

    shown: Any = np.show_config(mode="dicts")
    extensions = shown.get("SIMD Extensions", {})
    return frozenset(name.lower() for key in ("baseline", "found") for name in extensions.get(key, ()))


def _of_cpuinfo(key: str) -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16", "neon", "asimd", "sve", "bf16")


def report() -> dict[str, Any]:
    """Processor, relevant instruction sets, usable processors, and each step's way and reason."""
    steps = {}
    for step, what in STEPS.items():
        answer = why(step)
        way = None if answer is UNDECIDED else "fast" if answer.fast else "plain"
        steps[step] = {"way": way, "reason": answer.reason, "short_cut": what}
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags()],
        "usable_processors": usable_cpus(),
        "processors": os.cpu_count(),
        VARIABLE: os.environ.get(VARIABLE),
        "steps": steps,
    }


def describe() -> str:
    """`report` as text."""
    found = report()
    lines = [
        f"processor    {found['processor']} ({found['architecture']})",
        f"instructions {' '.join(found['instructions']) or 'none of those that matter here'}",
        f"threads      {found['usable_processors']} of {found['processors']} processors",
        f"{VARIABLE} {found[VARIABLE] or 'not set'}",
    ]
    for step, answer in found["steps"].items():
        way = f"{answer['way']}: " if answer["way"] else ""
        lines.append(f"{step:12} {way}{answer['reason']} ({answer['short_cut']})")
    return "\n".join(lines)
