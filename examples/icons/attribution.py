"""Write ATTRIBUTION.md's table of icon sets: those that pictures were taken of, with author and licence.

python examples/icons/attribution.py SCRATCH
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from build_data import ICON_PACKAGES
from vendors import package_folder

TABLE = Path(__file__).with_name("ATTRIBUTION.md")
START, END = "<!-- icon sets -->\n", "<!-- end of icon sets -->\n"


def rows(scratch: Path) -> list[str]:
    collections = json.loads((package_folder(scratch / "packages", *ICON_PACKAGES[0]) / "collections.json").read_text())
    with open(scratch / "pictures" / "icon" / "pictures.jsonl", encoding="utf-8") as file:
        counts = Counter(json.loads(line)["set"] for line in file)
    lines = ["| set | author | licence | pictures |", "|---|---|---|---|"]
    for key, count in sorted(counts.items(), key=lambda item: collections[item[0]]["name"].lower()):
        entry = collections[key]
        lines.append(
            f"| {entry['name']} (`{key}`) | {entry['author']['name']} | {entry['license']['spdx']} | {count} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    args = parser.parse_args()
    before, rest = TABLE.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    TABLE.write_text(before + START + "\n".join(rows(args.scratch)) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
