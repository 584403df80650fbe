"""The worst relative error of every field and of the gradients, per backend, over all cases.

python -m conformance.report [torch] [tf] [flax]
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict

from . import cases as data
from .adaptors import ADAPTORS, installed
from .compare import golden, gradient_errors, part, relative_error


def kind_of(name: str) -> str:
    """A field without its layer's number and its tower."""
    return ".".join(step for step in name.split(".") if not step.isdigit() and not step.endswith("_model_output"))


def measure(backend: str) -> tuple[dict[str, tuple[float, str]], int]:
    """Field -> (worst error, the case and place it occurs in); how many arrays were compared."""
    adaptor = ADAPTORS[backend]
    worst: dict[str, tuple[float, str]] = defaultdict(lambda: (0.0, ""))
    count = 0
    for case in data.cases():
        if not case.values:
            continue
        model = adaptor.build(case)
        got = data.flatten(adaptor.call(model, case))
        want = adaptor.expected(case, part(golden(case.name), "out/"))
        for name, value in want.items():
            count += 1
            worst[kind_of(name)] = max(worst[kind_of(name)], (relative_error(got[name], value), f"{case.name}: {name}"))
        if case.gradients:
            wanted = part(golden(case.name), "grad/")
            error, where = gradient_errors(adaptor.gradients(model, case), wanted)
            count += len(wanted)
            worst["gradients"] = max(worst["gradients"], (error, f"{case.name}: {where}"))
    return dict(worst), count


def main() -> None:
    for backend in sys.argv[1:] or installed():
        start = time.perf_counter()
        worst, count = measure(backend)
        print(f"{backend}: {count} arrays against transformers 4.37.2, {time.perf_counter() - start:.0f} s")
        for field, (error, where) in worst.items():
            print(f"  {field:20} {error:.1e}  {where}")


if __name__ == "__main__":
    main()
