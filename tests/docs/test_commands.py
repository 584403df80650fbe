"""Every command on a page is one that exists: `triclip`, `make`, `python -m` and `pip install 'triclip[...]'` lines are
checked against the parser, the Makefile, the modules and the extras, and configurations against the schema."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.docs.test_snippets import PAGES, ROOT, blocks
from triclip.command import build_parser
from triclip.train import load, load_config

SHELL = ("bash", "sh", "console")
NOT_OURS = {"torchrun", "gcloud"}  # what they start is looked at
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def commands(text: str) -> list[list[str]]:
    """The words of each command of a block: comments, prompts and leading assignments (A=1 command) taken off."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            found.append(words)
    return found


def check(words: list[str]) -> None:
    """Raises AssertionError saying what is wrong with a command."""
    program, rest = words[0], words[1:]
    if program == "triclip":
        check_triclip(rest)
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif program == "python":
        assert rest[0] == "-m" and importlib.util.find_spec(rest[1]), f"no module {rest[1]}"
    elif program == "pip":
        named = re.findall(r"triclip\[([^\]]+)\]", " ".join(rest))
        unknown = {extra for extras in named for extra in extras.split(",")} - set(EXTRAS)
        assert not unknown, f"no extras {unknown}"
    elif program == "curl":  # of what `triclip serve` answers
        assert re.fullmatch(r"http://127\.0\.0\.1:8765/api/search(\?.*)?", rest[-1]), rest[-1]
    elif program in NOT_OURS:
        inner = next((word for word in rest if word.startswith("triclip ")), "")
        check_triclip(shlex.split(inner)[1:] if inner else rest[rest.index("triclip") + 1 :])
    else:
        raise AssertionError(f"{program}: no program that this test knows")


def check_triclip(arguments: list[str]) -> None:
    arguments = arguments[: arguments.index("|")] if "|" in arguments else arguments
    parser = build_parser()
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(f"triclip {shlex.join(arguments)}: refused by the parser") from error
    known: set[str] = set()
    for dest in ("command", "action"):  # of `triclip data convert`: `data`, then `convert`
        inner = next((action for action in parser._actions if action.dest == dest and action.choices), None)
        if inner is not None:
            parser = inner.choices[getattr(parsed, dest)]
            known |= set(parser._option_string_actions)
    shortened = {word for word in arguments if word.startswith("--")} - known
    assert not shortened, f"triclip {parsed.command}: {shortened}: the parser guesses what this stands for"
    for override in getattr(parsed, "overrides", ()):
        assert load.parse_override(override)[0] in load._all_keys(), f"no key {override}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists(page: Path) -> None:
    for language in SHELL:
        for block in blocks(page, language):
            for words in commands(block):
                check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_configuration_is_valid(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        (tmp_path / "run.yaml").write_text(block)
        load_config(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    "line",
    [
        "triclip embed photos/ --out photos.npz",
        "triclip classify photos/",
        "triclip conform x --backend torch",
        "triclip train --config run.yaml optimizer.rate=1",
        "TPU_NAME=local triclip trian --config run.yaml",
        "torchrun --nproc-per-node 8 -m triclip train --conf",
        'gcloud ssh NAME --command "triclip train run.yaml"',
        "make everything",
        "python -m triclip.nothing",
        "pip install 'triclip[pytorch]'",
        "rm -rf .",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        for words in commands(line):
            check(words)
