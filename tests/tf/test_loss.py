"""Acceptance checks 5 and 7: the losses against their definition, on one replica and four, with negative controls."""

from __future__ import annotations

import json
from pathlib import Path

from conformance.training.tf_worker import finish, launch

EXACT = 1e-12  # float64: sums of 24 terms in another order


def test_losses(tmp_path: Path) -> None:
    finish(launch(tmp_path, [{"do": "losses", "name": "losses"}], devices=4))
    results = json.loads((tmp_path / "losses.json").read_text("utf-8"))

    assert len(results["modes"]) == 14  # 2 strategies x (2 kinds x 3 modes + label smoothing)
    wrong = {case: errors for case, errors in results["modes"].items() if not max(errors.values()) <= EXACT}
    assert not wrong
    assert max(results["anchors"].values()) <= EXACT

    shows_in = {
        "gather without a gradient": {"x", "y"},
        "block without the others' gradient": {"y"},
        "over the number of replicas": {"value", "x", "y", "t"},
        "times the number of replicas": {"value", "x", "y", "t"},
    }
    assert results["controls"].keys() == shows_in.keys()
    for broken, errors in results["controls"].items():
        assert {name for name, error in errors.items() if error > EXACT} == shows_in[broken]
        assert all(errors[name] > 0.1 for name in shows_in[broken])

    assert len(results["hard"]) == 8
    for case, errors in results["hard"].items():
        # Gradients come back in the rows' own precision: for bfloat16 2^-8. NaN fails every comparison.
        rows = 2**-8 if "bfloat16" in case else 1e-5
        for name, error in errors.items():
            assert error <= {"x": rows, "y": rows}.get(name, 1e-5), (case, name)
