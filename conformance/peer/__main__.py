"""`python -m conformance.peer tree|run|table`: see the package and docs/conformance.md."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from . import CHECKPOINT, PARTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS, REASONS = HERE / "results.json", HERE / "reasons.json"
PAGE, MARK = ROOT / "docs/conformance.md", "<!-- the peer's own tests, from conformance/peer/results.json -->"


def lay_tree(sdist: Path, checkout: Path, target: Path) -> None:
    """Put their tests into `target`, and the tokenizer's files where their tests expect the hub's."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                path = target.joinpath(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    for name in ("models/clip", "utils/test_model_output.py", "fixtures"):
        source, place = checkout / "tests" / name, target / "tests" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, place)
    for package in ("", "models", "models/clip", "utils"):
        (target / "tests" / package / "__init__.py").touch()
    _write_checkpoint(target / CHECKPOINT)


def _write_checkpoint(folder: Path) -> None:
    """Write what their tests load from the hub: the real tokenizer, and a small model with random weights."""
    from clip_core import CLIPConfig, CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast
    from clip_torch import CLIPModel

    pictures = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64)
    CLIPProcessor(pictures, CLIPTokenizerFast(model_max_length=77)).save_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(text_config=tower, vision_config={**tower, "image_size": 64}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)


def run(side: str, python: str, part: str, tree: Path, select: str | None, quiet: bool = False) -> int:
    """Run one part on one side; junit results go to `tree/results`."""
    out = tree / "results" / f"{side}-{part}.xml"
    out.parent.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PEER_SIDE": side,
        "PEER_TREE": str(tree),
        "PEER_FRAMEWORKS": ",".join(PARTS[part].frameworks),
        "PYTHONPATH": os.pathsep.join([str(tree), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        "RUN_SLOW": "yes",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_USE_LEGACY_KERAS": "0",
    }
    command = [python, "-m", "pytest", "-q", "-p", "conformance.peer.plugin", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tree), "-c", os.devnull, "--tb", "no" if quiet else "short"]
    command += ["-k", select] if select else ["--junitxml", str(out)]
    return subprocess.run([*command, PARTS[part].file], cwd=tree, env=environment, check=False).returncode


def outcomes(file: Path) -> dict[str, tuple[str, str]]:
    """test -> (passed, failed or skipped, its message's first line)."""
    found = {}
    for case in ElementTree.parse(file).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            found[name] = ("failed", (bad.get("message") or "").strip().splitlines()[0:1] or [""])
            found[name] = ("failed", found[name][1][0][:200])
        else:
            found[name] = ("skipped" if case.find("skipped") is not None else "passed", "")
    return found


def compare(tree: Path) -> dict[str, dict]:
    """part -> counts and misses, for the parts that were run on both sides."""
    table = {}
    for part in PARTS:
        files = [tree / "results" / f"{side}-{part}.xml" for side in ("real", "ours")]
        if not all(file.exists() for file in files):
            continue
        real, ours = map(outcomes, files)
        wanted = [name for name, (outcome, _) in real.items() if outcome == "passed"]
        missed = {name: ours.get(name, ("not collected", "")) for name in wanted}
        missed = {name: outcome for name, outcome in missed.items() if outcome[0] != "passed"}
        table[part] = {
            "real": len(wanted),
            "ours": len(wanted) - len(missed),
            "missed": {name: ": ".join(filter(None, outcome)) for name, outcome in sorted(missed.items())},
        }
    return table


def reason(part: str, test: str, reasons: dict[str, str]) -> str:
    """Why a test fails here: the entry for `part/Class::test`, or for `part/test` in every class."""
    return reasons.get(f"{part}/{test}") or reasons.get(f"{part}/{test.partition('::')[2]}") or ""


def page(table: dict[str, dict], reasons: dict[str, str]) -> str:
    """The table as Markdown: counts, then every miss with its reason."""
    real, ours = (sum(row[side] for row in table.values()) for side in ("real", "ours"))
    lines = ["| | pass on transformers 4.37.2 | of these pass here |", "|---|---|---|"]
    lines += [f"| {PARTS[part].title} | {row['real']} | {row['ours']} |" for part, row in table.items()]
    lines += [f"| all | {real} | {ours} ({ours / max(real, 1):.1%}) |", "", "Not met:", ""]
    for part, row in table.items():
        grouped: dict[str, list[str]] = {}
        for test in row["missed"]:
            grouped.setdefault(reason(part, test, reasons), []).append(test)
        for why, tests in grouped.items():
            names = ", ".join(f"`{test}`" for test in tests)
            lines.append(f"- {PARTS[part].title}: {names}: {why or 'not looked into yet.'}")
    return "\n".join(lines) + "\n"


def show(table: dict[str, dict]) -> None:
    for part, row in table.items():
        print(f"{PARTS[part].title:20} {row['ours']:4} of {row['real']}")
        for test, outcome in row["missed"].items():
            print(f"    {test}: {outcome}")


def write(table: dict[str, dict]) -> None:
    """Record the table: results.json, and the page behind its mark."""
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    reasons = json.loads(REASONS.read_text("utf-8"))
    before, mark, after = PAGE.read_text("utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{PAGE}: wanted the line {MARK}")
    rest = after.partition("\n## ")
    PAGE.write_text(f"{before}{mark}\n\n{page(table, reasons)}" + (f"\n## {rest[2]}" if rest[1] else ""), "utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.peer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tree = commands.add_parser("tree", help="lay their tests out")
    tree.add_argument("--sdist", type=Path, required=True, help="transformers-4.37.2.tar.gz of PyPI")
    tree.add_argument("--checkout", type=Path, required=True, help="a folder with tests/models/clip of tag v4.37.2")
    runs = commands.add_parser("run", help="run them on one side or both")
    runs.add_argument("--side", choices=("real", "ours"), action="append", help="default: ours")
    runs.add_argument("--part", choices=tuple(PARTS), action="append", help="default: all")
    runs.add_argument("--python", default=sys.executable, help="of an environment with triclip and all frameworks")
    runs.add_argument("--real-torch", help="python with transformers 4.37.2 and PyTorch")
    runs.add_argument("--real-tf", help="python with transformers 4.37.2, TensorFlow 2.15 and Flax")
    runs.add_argument("-k", help="only tests whose names match, as pytest selects them; nothing is recorded")
    table = commands.add_parser("table", help="compare what was run")
    table.add_argument(
        "--write", action="store_true", help="into conformance/peer/results.json and docs/conformance.md"
    )
    for command in (tree, runs, table):
        command.add_argument("tree", type=Path, help="the folder with their tests")
    given = parser.parse_args(arguments)
    given.tree = given.tree.resolve()
    if given.command == "tree":
        lay_tree(given.sdist, given.checkout, given.tree)
        return 0
    if given.command == "run":
        for side in given.side or ["ours"]:
            for part in given.part or PARTS:
                python = given.python if side == "ours" else getattr(given, f"real_{PARTS[part].environment}")
                run(side, python, part, given.tree, given.k)
        return 0
    found = compare(given.tree)
    show(found)
    if given.write:
        write(found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
