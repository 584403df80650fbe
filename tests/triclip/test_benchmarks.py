"""The benchmark's own arithmetic, processes and page; nothing is timed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, peers, products, report, run
from benchmarks.harness import Pair, Row, Side, Worker, alternate, measure, ratio, run_process, speed

ROW = Row(
    title="A title",
    about="About it.",
    sides={"ours": Side("a", "f"), "theirs": Side("b", "g", count=50)},
    pairs=(Pair("ours", "theirs", at_least=3), Pair("ours", "theirs", at_most=0.5, of="peak"), Pair("ours", None)),
    count=100,
    unit="things",
    limits="The ceiling.",
)
MEASURED = {
    "ours": {"seconds": [1.0, 2.0, 1.0], "cpu": [1.0, 1.0, 1.0], "peak": [3e8, 3e8, 3e8]},
    "theirs": {"seconds": [2.0, 3.0, 4.0], "cpu": [1.0, 1.0, 1.0], "peak": [5e8, 6e8, 7e8]},
}


def test_ratios_are_taken_round_by_round_and_per_item():
    found = ratio(ROW, ROW.pairs[0], MEASURED)  # 2 * (2 / 1, 3 / 2, 4 / 1): their runs have half the items
    assert (found.low, found.median, found.high, found.reached) == (3.5, 4.0, 6.0, True)
    assert ratio(ROW, Pair("ours", "theirs", at_least=5), MEASURED).reached is False
    memory = ratio(ROW, ROW.pairs[1], MEASURED)  # memory has no items
    assert memory.median == pytest.approx(0.5) and memory.reached is True
    alone = ratio(ROW, Pair("ours", None, at_most=0.02), MEASURED)
    assert alone.median == 0.01 and alone.reached is True
    assert speed(ROW, "theirs", MEASURED) == pytest.approx(50 / 3)


def test_one_round_has_no_spread():
    once = {label: {key: values[:1] for key, values in of.items()} for label, of in MEASURED.items()}
    found = ratio(ROW, ROW.pairs[0], once)
    assert found.low == found.median == found.high == 4.0


def test_sides_take_turns_and_stop_in_time():
    order: list[str] = []
    now = iter(range(0, 1000, 10))

    def side(name):
        def repeat():
            order.append(name)
            return {"seconds": 1.0, "cpu": 1.0, "peak": 1}

        return repeat

    row = Row(title="", about="", sides={}, rounds=9, least=2, budget=5)
    times = alternate(row, {"a": side("a"), "b": side("b")}, clock=lambda: next(now))
    assert order == ["a", "b", "b", "a"]
    assert times["a"]["seconds"] == [1.0, 1.0]


@pytest.fixture
def fake_row(tmp_path, monkeypatch):
    """A row whose sides live in this interpreter."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "fake.py").write_text(
        "import os\n"
        "from benchmarks.harness import Pair, Row, Side\n"
        "PROGRAM = \"print('hello'); print('[1, 2]')\"\n"
        "ROW = Row(title='Fake', about='', sides={'kept': Side('e', 'kept'), 'fresh': Side('e', 'fresh', 'fresh'),\n"
        "    'process': Side('e', 'PROGRAM', 'process')}, pairs=(Pair('kept', 'fresh'),), check='check', rounds=3)\n"
        "def kept(data):\n"
        "    print('noise on standard output')\n"
        "    seen = []\n"
        "    def run():\n"
        "        seen.append(1)\n"
        "        return {'pid': [os.getpid()], 'calls': [len(seen)]}\n"
        "    return run\n"
        "fresh = kept\n"
        "def broken(data):\n"
        "    raise OSError('no model here')\n"
        "def check(results):\n"
        "    assert results['kept']['calls'] == [1] and results['fresh']['calls'] == [1]\n"
        "    assert results['process'] == [1, 2]\n"
        "    return 'all is well.'\n"
    )
    monkeypatch.setattr(harness, "LOGS", tmp_path / "logs")
    import benchmarks

    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path / "benchmarks")])
    environ = harness._environ
    # A worker finds the row through its own `benchmarks` package: a start-up file extends that one's path too.
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys; sys.path.insert(0, {str(harness.ROOT)!r}); import benchmarks\n"
        f"benchmarks.__path__.append({str(tmp_path / 'benchmarks')!r})\n"
    )
    extended = str(tmp_path)
    monkeypatch.setattr(harness, "_environ", lambda side: {**environ(side), "PYTHONPATH": extended})
    yield "fake"
    sys.modules.pop("benchmarks.fake", None)


def test_processes_kept_fresh_and_whole(fake_row):
    result = measure(fake_row, {"e": Path(sys.executable)})
    assert result["checked"] == "all is well."
    for label in ("kept", "fresh", "process"):
        assert len(result["measured"][label]["seconds"]) == 3
        assert min(result["measured"][label]["peak"]) > 1e6


def test_a_kept_process_stays_and_a_fresh_one_does_not(fake_row, tmp_path):
    kept = Side("e", "kept")
    found = []
    for _ in range(2):
        with Worker(fake_row, "kept", kept, Path(sys.executable)) as worker:
            for number in range(2):
                worker.run(tmp_path / f"{number}.npz")
                found.append({name: int(a[0]) for name, a in np.load(tmp_path / f"{number}.npz").items()})
    assert [entry["calls"] for entry in found] == [1, 2, 1, 2]
    assert found[0]["pid"] == found[1]["pid"] != found[2]["pid"]


def test_a_side_that_fails_says_why(fake_row):
    with pytest.raises(RuntimeError, match="no model here"):
        Worker(fake_row, "broken", Side("e", "broken"), Path(sys.executable))


def test_a_program_that_fails_says_why(fake_row, monkeypatch):
    module, _ = harness.load_row(fake_row)
    monkeypatch.setattr(module, "PROGRAM", "raise SystemExit('what went wrong')")
    with pytest.raises(RuntimeError, match="what went wrong"):
        run_process(fake_row, "process", Side("e", "PROGRAM", "process"), Path(sys.executable))


def test_every_row_of_the_benchmark_is_whole():
    for name in run.row_names():
        module, row = harness.load_row(name)
        assert row.title and row.about and row.sides, name
        for side in row.sides.values():
            assert side.env in peers.ENVIRONMENTS and side.mode in ("kept", "fresh", "process"), name
            prepared = getattr(module, side.function)
            assert isinstance(prepared, str) if side.mode == "process" else callable(prepared), name
        for pair in row.pairs:
            assert pair.ours in row.sides and (pair.peer is None or pair.peer in row.sides), name
        assert row.check is None or callable(getattr(module, row.check)), name
        assert set(row.data) <= set(run.data.PARTS), name


def test_the_page():
    machine = {"cpu": "A CPU", "cores": 2, "features": ["avx2"], "capability": "AVX2", "emulated": ""}
    machine |= {"memory_gib": 8, "system": "Linux", "python": "3.11"}
    kept = {
        "machine": machine,
        "date": "2026-01-01",
        "load": [0.1, 0.2, 0.3],
        "checked": "equal.",
        "measured": MEASURED,
    }
    page = report.page([(ROW, {"avx512": kept}), (ROW, {})])
    assert "Machine: A CPU, 2 cores (avx2), PyTorch's capability AVX2, 8 GiB" in page
    assert "| ours : theirs | 4x (3.5 to 6) | 2x | at least 3x | reached |" in page
    assert "| ours : theirs, peak memory | 0.5x (0.464 to 0.55) |  | at most 0.5x | reached |" in page
    assert "Checked before timing: equal." in page and "What limits it: The ceiling." in page
    assert "Not measured yet." in page and "load average before: 0.1, 0.2, 0.3" in page


def test_the_page_at_two_levels():
    facts = {"cpu": "A CPU", "cores": 2, "features": [], "capability": "AVX512", "emulated": "", "memory_gib": 8}
    facts |= {"system": "Linux", "python": "3.11"}
    own = {"machine": facts, "date": "2026-01-01", "load": [0], "checked": "", "measured": MEASURED}
    other = {**own, "machine": {**facts, "capability": "AVX2", "emulated": "all"}}
    pairs = (Pair("ours", "theirs", at_least=3, at_avx2=4.5), Pair("ours", "theirs", at_least=0.88, share=True))
    page = report.page([(replace(ROW, pairs=pairs), {"avx512": own, "avx2": other})])
    assert "| row | comparison | goal | AVX-512 | AVX2, emulated |" in page
    assert "| A title | ours : theirs | at least 3x / at least 4.5x | 4x (2x) | **4x** (2x) |" in page
    assert "| A title | ours : theirs | at least 88% | 400% (200%) | 400% (200%) |" in page
    assert "### AVX-512\n" in page and "### AVX2, emulated\n" in page and "newer instructions hidden" in page


def test_results_that_are_kept_make_the_page(tmp_path):
    for path in sorted(run.RESULTS.rglob("*.json")):
        assert json.loads(path.read_text())["row"] in run.row_names(), path
        assert path.parent.name in run.LEVELS and path.parent.parent == run.RESULTS, path


def test_the_ceiling_has_the_models_products():
    """A picture through ViT-B/32 is 8.8 GFLOP, less what the last layer needs for the pooled token alone."""
    flop = sum(2 * m * k * n for m, k, n in products.vision(16)) / 16
    assert flop == pytest.approx(8.2e9, rel=0.02)
    assert sum(2 * m * k * n for m, k, n in products.text(64, 16)) / 64 / 16 == pytest.approx(
        0.0755e9 * 0.935, rel=0.02
    )


def test_an_environment_can_be_named(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("TRICLIP_BENCH_HF5", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="TRICLIP_BENCH_HF5"):
        peers.python("hf5")
    (tmp_path / "bin" / "python").touch()
    assert peers.python("hf5") == tmp_path / "bin" / "python"
