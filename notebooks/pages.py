"""A hook of mkdocs: pages that the documentation site takes from elsewhere in the repository. They are the notebooks as
tutorials, with the outputs that are kept in them, the model card, the changelog, and the command line from its parser.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `mkdocs` alone does not look in the working directory

TAKEN = {
    "model-card.md": "clip_core/models/emoji/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page, pictures = tutorial(path)
        add(files, config, f"tutorials/{path.stem}.md", page)
        add(files, config, f"tutorials/{path.name}", path.read_bytes())
        for name, content in pictures.items():
            add(files, config, f"tutorials/{name}", content)
    for name, source in TAKEN.items():
        add(files, config, name, (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "]("))
    add(files, config, "reference/cli.md", command_line())
    return files


def add(files: Any, config: Any, name: str, content: str | bytes) -> None:
    from mkdocs.structure.files import File

    files.append(File.generated(config, name, content=content))


# -- notebooks --------------------------------------------------------------------------------------------------------


def tutorial(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page: its Markdown, and name -> PNG of its figures."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    heading = path.stem
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            heading = (re.findall(r"^#+ (.+)$", source, re.M) or [heading])[-1]
            continue
        parts.append(fenced("python", source))
        for output in cell["outputs"]:
            parts.append(shown(output, f"{path.stem}_{len(pictures)}.png", heading, pictures))
    title, _, rest = "\n\n".join(parts).partition("\n\n")
    first, newline, intro = title.partition("\n")  # the title's cell may hold the introduction as well
    link = f'<small>[This page as a notebook]({path.name}){{ download="{path.name}" }}</small>'
    return f"{first}\n\n{link}\n{newline}{intro}\n\n{rest}\n", pictures


def shown(output: dict[str, Any], name: str, heading: str, pictures: dict[str, bytes]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        width = output.get("metadata", {}).get("image/png", {}).get("width")
        return f"![{heading}]({name})" + (f'{{ width="{width}" }}' if width else "")
    return fenced("text", "".join(output.get("text") or data.get("text/plain", "")))


def fenced(language: str, text: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


# -- the command line -------------------------------------------------------------------------------------------------


def command_line() -> str:
    """All sub-commands with their arguments, from the parser."""
    from triclip.command import build_parser

    parser = build_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in commands._choices_actions}
    parts = ["# Command line", parser.description or "", "`triclip --version` prints the version."]
    for name, command in commands.choices.items():
        parts += [f"## triclip {name}", f"{sentence(helps[name])}", fenced("text", usage(command))]
        parts.append("| argument | |\n|---|---|\n" + "\n".join(rows(command)))
    return "\n\n".join(parts) + "\n"


def usage(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)  # not the terminal's
    return parser.format_usage().removeprefix("usage: ")


def rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%").replace("|", r"\|")
        choices = f"one of {', '.join(map(str, action.choices))}" if action.choices else ""
        yield f"| `{names}` | {'; '.join(filter(None, (text, choices)))} |"


def sentence(text: str | None) -> str:
    """With a capital and a full stop."""
    text = (text or "").strip()
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "." if text else ""
