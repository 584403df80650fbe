"""The workflow for hosted runners runs what developers run: the Makefile's targets and the scripts of .ci/."""

import re
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
pytestmark = pytest.mark.skipif(not WORKFLOW.exists(), reason="only the checkout has the workflow")


@pytest.fixture(scope="module")
def jobs():
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def test_every_command_is_a_script_or_a_target(jobs):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name, job in jobs.items():
        assert commands(job), name
        for command in commands(job):
            script, target = re.match(r"bash (\.ci/\S+)", command), re.match(r"make (\S+)", command)
            assert script or target, f"{name}: {command}: wanted `bash .ci/SCRIPT` or `make TARGET`"
            assert not script or (ROOT / script[1]).is_file(), command
            assert not target or target[1] in targets, command


def test_every_script_is_run_somewhere(jobs):
    """By the workflow, by the Makefile, or by another script."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".ci").iterdir()}
    texts |= {
        "Makefile": (ROOT / "Makefile").read_text(encoding="utf-8"),
        "ci.yml": WORKFLOW.read_text(encoding="utf-8"),
    }
    scripts = [name for name in texts if (ROOT / ".ci" / name).exists()]
    assert [name for name in scripts if not any(f"/{name}" in text for n, text in texts.items() if n != name)] == []


def test_the_pythons_that_are_claimed_are_run(jobs):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    claimed = {c.split(" :: ")[-1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert claimed <= set(jobs["backends"]["strategy"]["matrix"]["python"])
    assert min(claimed, key=lambda v: int(v.split(".")[1])) == project["requires-python"].removeprefix(">=")


def test_the_readmes_links_lead_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).exists()] == []
