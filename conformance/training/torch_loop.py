"""One process of a run through `triclip.train`, which records the rows of each step and may be killed.

`torch_loop.py CONFIG [key=value ...]`; the environment says when to die: DIE_AT_STEP, DIE_AT_FLUSH (SIGKILL at that
fsync, which only checkpoints make: while one is being written or put in place), TERM_AT_STEP (SIGTERM to itself); all
hold for the process whose number is in DIE_RANK. Every step's rows are appended to rows-<process>.jsonl in the output.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from triclip.train.engines.torch_.training import Engine
from triclip.train.load import load_config
from triclip.train.loop import train


def main() -> None:
    torch.set_num_threads(1)
    config = load_config(sys.argv[1], sys.argv[2:])
    rank = int(os.environ["RANK"])
    chosen = rank == int(os.environ.get("DIE_RANK", "0"))
    step_to_die, step_to_stop, flush_to_die = (
        int(os.environ.get(name, "0")) if chosen else 0 for name in ("DIE_AT_STEP", "TERM_AT_STEP", "DIE_AT_FLUSH")
    )
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    plain_step, plain_flush, flushes = Engine.train_step, os.fsync, [0]

    def train_step(self: Engine, batch: Any, lr: float) -> Any:
        digests = [
            hashlib.sha1(b"".join(v[i].tobytes() for v in batch.values())).hexdigest()
            for i in range(len(batch["sample"]))
        ]
        with open(output / f"rows-{rank}.jsonl", "a") as file:
            file.write(json.dumps([self.step, digests]) + "\n")
        if self.step + 1 == step_to_die:
            os.kill(os.getpid(), signal.SIGKILL)
        figures = plain_step(self, batch, lr)
        if self.step == step_to_stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures

    def flush(descriptor: Any) -> None:
        flushes[0] += 1
        if flushes[0] == flush_to_die:
            os.kill(os.getpid(), signal.SIGKILL)
        plain_flush(descriptor)

    Engine.train_step, os.fsync = train_step, flush  # type: ignore[method-assign,assignment]
    summary = train(config, stream=sys.stderr)
    print(json.dumps({key: summary[key] for key in ("step", "stopped")}))


if __name__ == "__main__":
    main()
