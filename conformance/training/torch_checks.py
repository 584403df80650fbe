"""The long acceptance checks of training for PyTorch, through the whole loop; writes torch_results.json beside itself.

    python -m conformance.training.torch_checks [check ...]

1 topology, 2 kill -9, 3 SIGTERM, 4 elastic, 5 losses, 6 memory, 7 numerics, 8 accumulation, 9 the optimiser's contract
(its figures; tests/triclip/torch/test_train_engine.py has the tests). Six to ten minutes on two cores.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .record import run_checks
from .torch_losses import compare_losses, definition, unit_rows, worst
from .torch_worker import ROOT, advance, batch_of, launch, processes, tiny_job

RESULTS = Path(__file__).with_name("torch_results.json")
STEPS = 27
CONFIG = f"""
output: run
backend: torch
steps: {STEPS}
ema: 0.99
model:
  patch_dropout: 0.25
  config:
    projection_dim: 16
    text_config: {{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
                   max_position_embeddings: 16, bos_token_id: 49406, eos_token_id: 49407}}
    vision_config: {{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
                     image_size: 32, patch_size: 8}}
data: {{train: data/train.csv, batch_size: 8}}
loss: {{anchors: {{}}}}
optimizer: {{warmup: 3, clip_norm: 1.0}}
checkpoint: {{every: 3}}
log: {{every: 1, tensorboard: false}}
"""


def make_data(folder: Path, samples: int = 28) -> Path:
    """Pictures of coloured squares with captions, and the configuration of a run over them."""
    from PIL import Image

    random = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    with open(folder / "data" / "train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for i in range(samples):
            squares = np.kron(random.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            Image.fromarray(squares).save(folder / "data" / f"{i}.png")
            table.writerow([f"{i}.png", f"picture number {i}" + " of colours" * (i % 3)])
    path = folder / "train.yaml"
    path.write_text(CONFIG, "utf-8")
    return path


def loop(config: Path, output: Path, count: int, ok: bool = True, settings: tuple[str, ...] = (), **death: Any) -> Any:
    """The run's exit codes; logs lie beside its output."""
    extra = {name: str(value) for name, value in death.items()}
    output.mkdir(parents=True, exist_ok=True)
    script = [str(ROOT / "conformance" / "training" / "torch_loop.py"), str(config), f"output={output}", *settings]
    return processes(count, output, script, 300, ok, extra)


def outcome(output: Path) -> dict[str, Any]:
    """Everything that the last checkpoint and the exported model hold, and the losses of the steps."""
    from safetensors.numpy import load_file

    newest = max(path for path in (output / "checkpoints").iterdir() if not path.name.startswith("."))
    arrays: dict[str, Any] = {}
    for path in sorted(newest.glob("*.safetensors")):
        arrays |= {f"{path.name}: {name}": value for name, value in load_file(path).items()}
    model = load_file(output / "model" / "model.safetensors") if (output / "model").is_dir() else {}
    state = json.loads((newest / "state.json").read_text("utf-8"))
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    return {"step": state["step"], "data": state["data"], "arrays": arrays, "model": model, "losses": losses}


def same_to_the_bit(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        one[kind].keys() == other[kind].keys()
        and all(one[kind][name].tobytes() == other[kind][name].tobytes() for name in one[kind])
        for kind in ("arrays", "model")
    ) and all(one[key] == other[key] for key in ("step", "data", "losses"))


def rows_seen(output: Path) -> dict[int, list[str]]:
    """Step -> digests of the rows of all processes, sorted; a step done twice is to have seen the same."""
    seen: dict[int, dict[str, list[str]]] = {}
    for path in sorted(output.glob("rows-*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            try:
                step, digests = json.loads(line)
            except ValueError:  # the line that a killed process was writing
                continue
            known = seen.setdefault(step, {}).setdefault(path.name, digests)
            assert known == digests, (step, path.name)
    return {step: sorted(sum(parts.values(), [])) for step, parts in seen.items()}


# -- the checks -------------------------------------------------------------------------------------------------------


def check_1(folder: Path) -> dict[str, Any]:
    """Ten steps on one process, on four in every arrangement: the worst relative difference of any figure."""
    base = {"ema": 0.99, "loss.anchors": {}, "optimizer.clip_norm": 1.0}
    engine_folder = folder / "one"
    from triclip.train.engines.torch_.training import Engine

    engine = Engine(tiny_job(engine_folder, **base))
    wanted = advance(engine, 10)
    kinds = {
        "ddp 4": {}, "ddp 4, ring": {"loss.mode": "ring", "loss.chunk": 3},
        "fsdp 4": {"mesh.data": 1, "mesh.fsdp": 4}, "hsdp 2 x 2": {"mesh.data": 2, "mesh.fsdp": 2},
        "hsdp 2 x 2, ring, 4 parts": {"mesh.fsdp": 2, "loss.mode": "ring", "loss.chunk": 3, "accumulate": 4},
        "fsdp 4, recomputed, chunked": {"mesh.fsdp": 4, "model.gradient_checkpointing": "full",
                                        "loss.mode": "chunked", "loss.chunk": 3},
    }  # fmt: skip
    actions = [{"do": "curve", "name": name, "values": {**base, **v}, "until": 10} for name, v in kinds.items()]
    launch(4, folder, actions)
    errors = {}
    for name in kinds:
        figures = json.loads((folder / f"{name}.json").read_text("utf-8"))["figures"]
        pairs = [(f[key], w[key]) for f, w in zip(figures, wanted, strict=True) for key in w]
        errors[name] = max(abs(f - w) / abs(w) for f, w in pairs)
    return {"ok": max(errors.values()) <= 1e-5, "limit": 1e-5, "worst relative difference over 10 steps": errors}


def check_2(folder: Path) -> dict[str, Any]:
    """Two processes killed again and again, at steps and while a checkpoint is written; then compared to the bit."""
    config = make_data(folder)
    loop(config, folder / "whole", 2)
    random = np.random.default_rng(int(time.time()))
    left, died = [], 0
    for kind in ("DIE_AT_STEP", "DIE_AT_FLUSH") * 3:
        reached = [int(p.name.split("-")[1]) for p in (folder / "killed" / "checkpoints").glob("step-*")]
        rank = int(random.integers(0, 2))
        if kind == "DIE_AT_STEP":
            when = max(reached, default=0) + int(random.integers(1, 4))
        else:  # per checkpoint the first process flushes file, state, stage and folder, the second its file
            when = int(random.integers(1, 6 if rank == 0 else 3))
        codes = loop(config, folder / "killed", 2, ok=False, **{kind: when, "DIE_RANK": rank})
        died += codes[rank] == -9
        left.append({kind: when, "process": rank, "exit codes": codes})
    loop(config, folder / "killed", 2)
    whole, killed = outcome(folder / "whole"), outcome(folder / "killed")
    same = same_to_the_bit(whole, killed) and rows_seen(folder / "whole") == rows_seen(folder / "killed")
    leftovers = [p.name for p in (folder / "killed" / "checkpoints").iterdir() if p.name.startswith(".")]
    return {"ok": same and died >= 4 and not leftovers, "kills": left, "equal to the bit": same}


def check_3(folder: Path) -> dict[str, Any]:
    """SIGTERM to one of two processes: both save one step and exit 0; the resumed run equals the uninterrupted."""
    config = make_data(folder)
    loop(config, folder / "whole", 2)
    codes = loop(config, folder / "stopped", 2, TERM_AT_STEP=7, DIE_RANK=1)
    saved = outcome(folder / "stopped")["step"]
    said = [json.loads((folder / "stopped" / f"log-{i}").read_text().splitlines()[-1]) for i in range(2)]
    loop(config, folder / "stopped", 2)
    same = same_to_the_bit(outcome(folder / "whole"), outcome(folder / "stopped"))
    ok = codes == [0, 0] and saved == 7 and said == [{"step": 7, "stopped": True}] * 2 and same
    return {"ok": ok, "exit codes": codes, "step saved": saved, "resumed run equal to the bit": same}


def check_4(folder: Path) -> dict[str, Any]:
    """Six steps on four processes (2 x 2), six on one, the rest on two: the rows of each step, and the losses."""
    config = make_data(folder)
    loop(config, folder / "whole", 1)
    for until, count, mesh in ((6, 4, "mesh.fsdp=2"), (12, 1, "mesh.fsdp=1"), (STEPS, 2, "mesh.fsdp=1")):
        settings = (mesh,) if until == STEPS else (mesh, "checkpoint.every=6")
        death = {} if until == STEPS else {"TERM_AT_STEP": until}
        loop(config, folder / "elastic", count, True, settings, **death)
    wanted, found = outcome(folder / "whole"), outcome(folder / "elastic")
    rows = rows_seen(folder / "whole") == rows_seen(folder / "elastic")
    error = max(abs(found["losses"][step] / value - 1) for step, value in wanted["losses"].items())
    return {"ok": rows and error <= 1e-4 and found["step"] == STEPS, "processes": [4, 1, 2],
            "same rows in every step": rows, "worst relative difference of the loss": error}  # fmt: skip


def check_5(folder: Path) -> dict[str, Any]:
    """Losses in float64 against their definition, in one process and in four, and what must not pass."""
    one = max(max(compare_losses(each=count, chunk=chunk).values()) for count, chunk in ((33, 5), (64, 16), (7, 1024)))
    launch(4, folder, [{"do": "losses", "name": "losses"}])
    ranks = [json.loads((folder / f"losses-{rank}.json").read_text("utf-8")) for rank in range(4)]
    four = max(max(rank["right"].values()) for rank in ranks)
    wrong = {name: min(rank["wrong"][name] for rank in ranks) for name in ranks[0]["wrong"]}
    ok = max(one, four) <= 1e-12 and min(wrong.values()) > 0.01
    return {"ok": ok, "limit": 1e-12, "one process": one, "four processes": four, "found wrong by": wrong}


def check_6(folder: Path) -> dict[str, Any]:
    """Temporary memory of forward and backward, gradients included, in each of two processes, width 512, chunk 1024."""
    launch(2, folder, [{"do": "memory", "name": "memory", "rows": [2048, 4096]}], seconds=500)
    peaks = json.loads((folder / "memory-0.json").read_text("utf-8"))
    ratio = peaks["ring"]["4096"] / peaks["ring"]["2048"]
    ok = ratio <= 2.1 and peaks["ring"]["4096"] <= 64
    return {"ok": ok, "MiB by rows per process (4096 is 32k on 8)": peaks, "ring, twice the rows": ratio}


def check_7(folder: Path) -> dict[str, Any]:
    """s = 100, duplicate pairs, a chunk that doesn't divide, float32 and bfloat16 rows: errors by form."""
    from clip_torch.loss import contrastive_loss

    errors: dict[str, float] = {}
    random = np.random.default_rng(3)
    x = np.repeat(unit_rows(random, 51, 64), 2, axis=0)
    y = np.concatenate([x[:60], unit_rows(random, 42, 64)])
    for dtype, limit in ((torch.float32, 2e-4), (torch.bfloat16, 0.02)):
        for kind in ("softmax", "sigmoid"):
            for mode in ("dense", "chunked", "ring"):
                rows = [torch.tensor(value).to(dtype).requires_grad_() for value in (x, y)]
                scalars = [torch.tensor(value, requires_grad=True) for value in (np.log(np.float32(100)), -3.0)]
                bias = scalars[1] if kind == "sigmoid" else None
                loss = contrastive_loss(*rows, scalars[0], bias, kind=kind, mode=mode, chunk=16)
                found = torch.autograd.grad(loss, [*rows, *scalars], allow_unused=True)
                given = [0.0 if g is None else g.double().numpy() for g in found]
                wanted = definition(kind, *(r.detach().double().numpy() for r in rows), float(scalars[0].detach()))
                error = worst(wanted, loss.item(), *given, slice(None))
                errors[f"{kind} {mode} {dtype}".replace("torch.", "")] = error
                assert np.isfinite(error) and error <= limit, (kind, mode, dtype, error)
    return {"ok": True, "limits": {"float32": 2e-4, "bfloat16": 0.02}, "errors": errors}


def check_8(folder: Path) -> dict[str, Any]:
    """Gradients of a batch in k parts against those of the whole, relative to the largest of each parameter."""
    from triclip.train.engines.torch_.training import Engine

    found: dict[int, dict[str, np.ndarray]] = {}
    for parts in (1, 2, 8):
        engine = Engine(tiny_job(folder / str(parts), accumulate=parts, **{"loss.anchors": {}}))
        engine._gradients(engine._inputs(batch_of(0)))
        found[parts] = {name: p.grad.numpy() for name, p in engine.trained.items()}
    errors = {
        parts: max(float(np.abs(found[parts][n] - g).max() / max(1, np.abs(g).max())) for n, g in found[1].items())
        for parts in (2, 8)
    }
    ratios = {parts: float(found[parts]["logit_scale"] / found[1]["logit_scale"]) for parts in (2, 8)}
    ok = max(errors.values()) <= 1e-6 and all(abs(ratio - 1) < 5e-4 for ratio in ratios.values())
    return {"ok": ok, "limit": 1e-6, "worst by parts": errors, "logit_scale gradient ratio": ratios}


def check_9(folder: Path) -> dict[str, Any]:
    """A locked tower and the clamp over ten steps."""
    from triclip.train.engines.torch_.training import Engine

    values = {"model.lock": ["vision"], "optimizer.max_logit_scale": 2.66, "ema": 0.9}
    engine = Engine(tiny_job(folder, **values))
    before = engine.weights(False)
    for group in engine.optimizer.param_groups:  # pushed upwards, so that the clamp has something to do
        group["weight_decay"] = -1.0 if any(p.dim() == 0 for p in group["params"]) else group["weight_decay"]
    scales = [figures["logit_scale"] for figures in advance(engine, 10)]
    after, average = engine.weights(False), engine.weights(True)
    locked = [name for name in before if name.startswith(("vision_model.", "visual_projection."))]
    same = all(before[n].tobytes() == after[n].tobytes() == average[n].tobytes() for n in locked)
    moved = all(before[n].tobytes() != after[n].tobytes() for n in before if n not in locked)
    highest = float(max(scales))
    return {"ok": same and moved and highest <= float(np.exp(2.66)) * (1 + 1e-6), "locked parameters": len(locked),
            "unchanged to the bit": same, "all others moved": moved, "highest scale": highest}  # fmt: skip


CHECKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    str(number): check for number, check in enumerate(
        (check_1, check_2, check_3, check_4, check_5, check_6, check_7, check_8, check_9), 1)
}  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run_checks(CHECKS, RESULTS, ("torch",), sys.argv[1:]))
