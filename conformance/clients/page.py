"""docs/clients.md, made from the recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .record import RESULTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "clients.md"

# client -> its environment (environments.py)
CLIENTS = {
    "transformers": "torch",
    "transformers4": "torch4",
    "diffusers": "torch",
    "diffusers_transformers4": "torch4",
    "peft": "torch",
    "sentence_transformers": "torch",
    "sentence_transformers_5": "torch4",
    "torchmetrics": "torch",
    "clip_benchmark": "torch",
    "all_clip": "torch",
    "accelerate": "torch",
    "kerashub": "kerashub",
    "maxdiffusion": "flax",
    "maxdiffusion_transformers5": "flax5",
}
# where a client's script has another name: one script in two environments
SCRIPTS = {
    "transformers": "adapted",
    "transformers4": "adapted",
    "diffusers_transformers4": "diffusers",
    "sentence_transformers_5": "sentence_transformers",
    "kerashub": "keras_hub",
    "maxdiffusion_transformers5": "maxdiffusion",
}

HEAD = """# Other people's programs on triclip

Made by `python -m conformance.clients` from its records in `conformance/clients/results/`; `python -m
conformance.clients NAME` runs one client again. Each runs in an environment of its own, built on first use, on the
classes of this checkout; nothing of it becomes a dependency. Where transformers' class usually stands in the client,
both are run and compared: the figures are largest absolute differences, unless they say otherwise.

*works*: as with the classes that the client was written for. *differs*: it runs, and the note says what is not the
same. *refused*: it can't be done, an error says so, and the note says what to do instead.

"""

TRAINER = """
## transformers' Trainer

A Trainer writes what its model's `save_pretrained` writes if the model is a transformers model, and else the weights
alone: such a folder has no config.json, and `from_pretrained` refuses it, because heads, activation and pooling are in
no weight file. Either of these makes a checkpoint that loads everywhere:

- give it `clip_torch.as_transformers(model)`, which is one: every checkpoint of the run has its config.json;
- or end with `model.save_pretrained(folder)` in place of `trainer.save_model(folder)`, and write
  `model.config.save_pretrained(folder)` into the checkpoints of a run that are wanted, from a callback's `on_save`.

A folder that was written without loads with its config named: `CLIPModel.from_pretrained(folder, config=original)`.
"""


def kept() -> dict[str, dict[str, Any]]:
    """The recorded results, in the order of CLIENTS."""
    paths = {name: RESULTS / f"{name}.json" for name in CLIENTS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def text(results: dict[str, dict[str, Any]]) -> str:
    """The page: a summary, then a table for each client."""
    lines = ["| client | checks | works | differs | refused |", "|---|---|---|---|---|"]
    for result in results.values():
        found = [check["status"] for check in result["checks"]]
        counts = [found.count(status) for status in ("works", "differs", "refused")]
        anchor = "".join(c for c in result["title"].lower().replace(" ", "-") if c.isalnum() or c in "-_")
        lines.append(f"| [{result['title']}](#{anchor}) | {len(found)} | " + " | ".join(map(str, counts)) + " |")
    missing = [name for name in CLIENTS if name not in results]
    if missing:
        lines.append(f"\nNot recorded yet: {', '.join(missing)}.")
    return HEAD + "\n".join(lines) + "\n" + "".join(section(result) for result in results.values()) + TRAINER


def section(result: dict[str, Any]) -> str:
    """One client's table."""
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    lines = [f"\n## {result['title']}\n", f"{versions}; Python {result['python']}.\n"]
    lines += ["| what was called | result | figures | note |", "|---|---|---|---|"]
    for check in result["checks"]:
        figures = "; ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in check["figures"].items())
        cells = (check["called"], check["status"], figures, check["note"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    return (
        f"{value:.1e}"
        if isinstance(value, float) and 0 < abs(value) < 1e-3
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
