"""The table in docs/howto/migrate.md of v4.37's names that have no meaning here.

python -m conformance.absent    # rewrite it from clip_core.absent
"""

from __future__ import annotations

from pathlib import Path

from clip_core.absent import ABSENT

PAGE = Path(__file__).parents[1] / "docs/howto/migrate.md"
START, END = "<!-- from clip_core/absent.py -->\n", "<!-- end -->\n"
TITLES = {
    "*": "every class",
    "tokenizer": "tokenizers",
    "torch_model": "PyTorch models",
    "tf_model": "TensorFlow models",
    "flax_model": "Flax models",
}


def table() -> str:
    """A row for each kind of class and reason."""
    rows = ["| of | name | instead |", "|---|---|---|"]
    for kind, names in sorted(ABSENT.items(), key=lambda item: list(TITLES).index(item[0])):
        reasons: dict[str, list[str]] = {}
        for name, instead in names.items():
            reasons.setdefault(instead, []).append(f"`{name}`")
        rows += [f"| {TITLES[kind]} | {', '.join(found)} | {instead} |" for instead, found in reasons.items()]
    return "\n".join(rows) + "\n"


def shown() -> str:
    """What the page has between the marks."""
    return PAGE.read_text("utf-8").partition(START)[2].partition(END)[0]


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text("utf-8").replace(START + shown(), START + table()), "utf-8")
