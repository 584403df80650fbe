"""From the start of a process to the first results of `triclip search`."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Pair, Row, Side

PROGRAM = """
import contextlib, io, json, sys
from triclip.command import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    main(["search", sys.argv[1] + "/PLACE", "a rocket", "--device", "cpu", "--json"])
print(json.dumps(json.loads(out.getvalue())))
"""
INDEX = PROGRAM.replace("PLACE", "emoji_300k.index")
FOLDER = PROGRAM.replace("PLACE", "pictures_100k")
ROW = Row(
    title="Cold search",
    about=(
        "A whole process: start Python, load the embedded model in PyTorch, check that it made the index, search. An "
        "index of 300,000 vectors; and a folder of 100,000 pictures with an index inside, which is looked through for "
        "changes first. Files in the page cache."
    ),
    data=("emoji_300k", "pictures_100k"),
    sides={
        "an index of 300,000": Side("triclip", "INDEX", "process"),
        "a folder of 100,000": Side("triclip", "FOLDER", "process"),
    },
    pairs=(Pair("an index of 300,000", None, at_most=4), Pair("a folder of 100,000", None, at_most=8)),
    count=1,
    check="found",
    rounds=5,
)


def found(results: dict[str, Any]) -> str:
    assert all(len(one) == 5 for one in results.values())
    return "each names five pictures."
