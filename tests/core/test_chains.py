"""Chains of conversions keep the function: 100 random models through random formats; `conformance/chains` has more."""

import json
import random
import shutil

import pytest

from conformance.chains import __main__ as recorded
from conformance.chains import models, walk


@pytest.mark.parametrize("block", range(10))
def test_a_chain_keeps_the_function(block, tmp_path):
    for seed in range(block * 10, block * 10 + 10):
        drawn, rng = models.draw(seed, small=seed % 10 > 0), random.Random(seed)
        here = tmp_path / f"{seed}-0"
        models.write(drawn, here)
        for number in range(1, rng.choice((2, 3, 4, 5))):
            to = rng.choice(walk.FORMATS)
            here = walk.step(here, tmp_path / f"{seed}-{number}", to, drawn, rng) or here
        _, _, error = walk.at_the_end(here, drawn)
        assert error < walk.TOLERANCE, f"seed {seed}"
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["torch", "tf", "flax", "open_clip", "kerashub"])
def test_a_library_can_hold_what_is_drawn_for_it(kind):
    drawn = [models.draw(seed, small=True, home=kind) for seed in range(8)]
    assert all(models.holds(kind, one) for one in drawn)
    again = models.draw(3, small=True, home=kind)
    assert (again.config, again.scope) == (drawn[3].config, drawn[3].scope)


def test_a_recorded_run_goes_on_after_a_failure_and_where_it_ended(tmp_path, monkeypatch):
    """With libraries that save what they were given, and one that computes something else."""

    def visit(self, source, target, drawn, rng):
        shutil.copytree(source, target)
        wrong = 1 + (self.name == "bad")
        return {name: value * wrong for name, value in walk.expected(drawn).items()}

    monkeypatch.setattr(recorded.Library, "visit", visit)
    listed = [["good", "python", "torch", ["hf", "hf-bin"]], ["bad", "python", "open_clip", ["open_clip"]]]
    for chains in (3, 6):
        recorded.Run(listed, tmp_path / "record.json", None).go(chains)
    found = json.loads((tmp_path / "record.json").read_text())
    assert found["chains"] == 6 and set(found["libraries"]) == {"good", "bad"}
    assert {1, 3, 5} <= {failure["seed"] for failure in found["failures"]}  # the bad one's own
    assert all("bad: from open_clip: outputs differ by 1.0e+00" in failure["what"] for failure in found["failures"])
    assert found["libraries"]["good"]["visits"] >= 1 and found["libraries"]["good"]["worst"] == 0
