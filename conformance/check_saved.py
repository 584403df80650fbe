"""Checks that transformers' own classes load our models' files, without missing or unexpected keys, to equal outputs.

Two steps, because the libraries are in separate environments:

    python -m conformance.check_saved save FOLDER            # where a backend is installed
    HF_HUB_OFFLINE=1 python -m conformance.check_saved load FOLDER    # where transformers and torch are installed

The second step adds its findings, under the library's version, to conformance/golden/saved.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import cases as data

RECORD = Path(__file__).parent / "golden" / "saved.json"
FORMS = {
    "safetensors": {},
    "bin": {"safe_serialization": False},
    "shards": {"max_shard_size": "20KB"},
}


def save(folder: Path) -> None:
    from .adaptors import ADAPTORS, installed

    backend = installed()[0]
    for cls in data.CLASSES:
        case = next(case for case in data.cases() if case.name == f"class.{cls}")
        model = ADAPTORS[backend].build(case)
        for form, options in FORMS.items():
            model.save_pretrained(folder / cls / form, **options)
        wanted = data.flatten(ADAPTORS[backend].call(model, case))
        np.savez(
            folder / cls / "wanted.npz", **{name: wanted[name] for name in wanted if "embeds" in name or "last" in name}
        )


def load(folder: Path) -> dict[str, Any]:
    import torch
    import transformers

    found: dict[str, Any] = {}
    for cls in data.CLASSES:
        case = next(case for case in data.cases() if case.name == f"class.{cls}")
        inputs = {name: torch.from_numpy(array) for name, array in data.draw_inputs(case).items()}
        for form in FORMS:
            options = {"use_safetensors": False} if form == "bin" else {}
            model, info = getattr(transformers, cls).from_pretrained(
                folder / cls / form, output_loading_info=True, **options
            )
            with torch.no_grad():
                output = data.flatten(model(**inputs))
            with np.load(folder / cls / "wanted.npz") as wanted:
                worst = max(
                    float(np.abs(output[n].numpy() - wanted[n]).max() / np.abs(wanted[n]).max()) for n in wanted
                )
            keys = {
                name: sorted(map(str, info[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")
            }
            found[f"{cls} {form}"] = {**keys, "agrees": worst < 2e-5}
    return {f"transformers {transformers.__version__}": found}


def main() -> None:
    step, folder = sys.argv[1], Path(sys.argv[2])
    if step == "save":
        save(folder)
        return
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record |= load(folder)
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
