"""A whole run through the loop, the data and this engine: begun, gone on with, exported, loaded."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from clip_torch import CLIPModel
from conformance.training.torch_checks import make_data
from triclip.train.load import load_config
from triclip.train.loop import train

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def test_a_run_is_gone_on_with_and_its_model_loads(tmp_path: Path) -> None:
    path = make_data(tmp_path)
    said = io.StringIO()
    overrides = [
        f"output={tmp_path / 'run'}",
        "checkpoint.every=2",
        f"evaluate.retrieval={tmp_path / 'data' / 'train.csv'}",
    ]
    first = train(load_config(path, ["steps=3", *overrides]), stream=said)
    assert first["step"] == 3 and not first["stopped"]
    second = train(load_config(path, ["steps=5", *overrides]), stream=said)
    assert second["step"] == 5 and "going on from step 3 of 5" in said.getvalue()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert second["evaluation"]["step"] == 5
    model = CLIPModel.from_pretrained(tmp_path / "run" / "model")
    assert model.config.vision_config.image_size == 32
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
