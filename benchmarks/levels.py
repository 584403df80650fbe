"""The levels of instructions that rows are measured at: the processor's own, and AVX2, emulated where it has more.

Emulated, newer instructions are hidden from every library by `hide_avx512.c`, on Linux where the processor lets a
process be kept from asking it, and a C compiler is there. Elsewhere by the variables of `.ci/avx2.sh`: ONNX Runtime and
OpenVINO, which no variable holds back, keep them, and the page says so.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA, ROOT
from clip_core import machine

EMULATED = "TRICLIP_BENCH_EMULATED"  # set in the run that emulates: "all", or "some" where libraries may still ask
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")


def level() -> str:
    """The level of this process, which names a folder of results: "avx512", "avx2", or the architecture."""
    if os.environ.get(EMULATED):
        return "avx2"
    found = machine.flags()
    return next((name for flag, name in (("avx512f", "avx512"), ("avx2", "avx2")) if flag in found), platform.machine())


def title(name: str, facts: dict[str, Any] | None = None) -> str:
    """A level as people write it."""
    emulated = {"all": ", emulated", "some": ", emulated for most libraries"}.get((facts or {}).get("emulated", ""), "")
    return {"avx512": "AVX-512", "avx2": "AVX2"}.get(name, name) + emulated


def facts() -> dict[str, Any]:
    """What the figures depend on."""
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability())"  # in its own process: this one stays small
    capability = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": machine.processor_name(),
        "cores": machine.usable_cpus(),
        "features": [flag for flag in FLAGS if flag in machine.flags()],
        "capability": capability,
        "emulated": os.environ.get(EMULATED, ""),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def rerun(arguments: list[str]) -> int:
    """`benchmarks.run` once more, as on a processor whose newest instructions are AVX2; its exit code."""
    library = _hiding_library()
    hidden = {EMULATED: "all", "LD_PRELOAD": str(library)} if library else {EMULATED: "some"}
    command = [*([] if library else ["bash", ".ci/avx2.sh"]), sys.executable, "-m", "benchmarks.run", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **hidden}).returncode


def _hiding_library() -> Path | None:
    """`hide_avx512.c` compiled, where it works: asked through it, the C library's own tool sees no AVX-512."""
    target = DATA / "hide_avx512.so"
    source = Path(__file__).with_name("hide_avx512.c")
    compiler = os.environ.get("CC", "cc")
    if platform.system() != "Linux" or not re.fullmatch("x86_64|amd64", platform.machine().lower()):
        return None
    try:
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    environ = {**os.environ, "LD_PRELOAD": str(target)}
    seen = subprocess.run([sys.executable, "-c", ask], env=environ, capture_output=True, text=True)
    return target if seen.stdout.strip() == "AVX2" else None
