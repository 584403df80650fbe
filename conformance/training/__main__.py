"""All long acceptance checks of training, one backend after the other: `python -m conformance.training [backend ...]`.

About forty minutes on two cores. The short ones are part of the test suite; learning (the twelfth check) needs the
data of a recipe, see examples/icons/README.md.
"""

from __future__ import annotations

import subprocess
import sys

BACKENDS = ("flax", "torch", "tf")


def main(wanted: list[str]) -> int:
    """Each in a process of its own. Returns 1 when any check failed."""
    failed = []
    for backend in wanted or BACKENDS:
        if backend not in BACKENDS:
            raise SystemExit(f"backend: wanted one of {', '.join(BACKENDS)}, found {backend!r}")
        print(f"{backend}:", flush=True)
        if subprocess.run([sys.executable, "-m", f"conformance.training.{backend}_checks"]).returncode:
            failed.append(backend)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
