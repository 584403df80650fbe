"""`triclip duplicates`: pictures of an index that are almost the same."""

from __future__ import annotations

import argparse
import os
from typing import Any

from .output import print_json, print_text
from .search import shown_path
from .shared import json_argument

EXAMPLES = """
  triclip duplicates photos/
  triclip duplicates photos.index --threshold 0.99 --json
  triclip duplicates photos.index --paths-only --null | xargs -0 -I{} mv {} spare/
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "duplicates",
        help="pictures of an index that are almost the same",
        description="Find pictures whose vectors are almost the same: copies of other sizes, formats and qualities. "
        "The largest file of each group comes first; --paths-only prints the others.",
        examples=EXAMPLES,
    )
    parser.add_argument("index", metavar="INDEX", help="what `triclip embed` or `triclip index` wrote, or its folder")
    parser.add_argument("--threshold", type=float, default=0.97, metavar="X", help="the least cosine (default 0.97)")
    parser.add_argument("--paths-only", "-f", action="store_true", help="print the paths of all but one of each group")
    parser.add_argument("--null", "-z", action="store_true", help="with --paths-only: a zero byte after each path")
    parser.add_argument("--folder", metavar="FOLDER", help="where the pictures lie now, if they were moved")
    json_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..search import open_index
    from ..search.columns import NAME
    from ..search.duplicates import near_duplicates

    index = open_index(args.index)
    folder = args.folder or index.origin.root
    names = index.columns[NAME]
    groups = [[shown_path(names[row], folder) for row in rows] for rows in near_duplicates(index, args.threshold)]
    groups = [sorted(paths, key=lambda path: (-_size(path), path)) for paths in groups]
    if args.json:
        print_json(groups)
    elif args.paths_only:
        for path in (path for paths in groups for path in paths[1:]):
            print_text(path, "\0" if args.null else "\n")
    else:
        for paths in groups:
            print(paths[0], *(f"  {path}" for path in paths[1:]), sep="\n")
        spare = sum(map(len, groups)) - len(groups)
        print(f"{len(groups)} groups, {spare} pictures more than one of each")
    return 0


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -1
