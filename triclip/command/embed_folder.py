"""`triclip embed` into a folder."""

from __future__ import annotations

import argparse
import glob
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..embed.settings import BROKEN, FILES, SAMPLES
from ..search.runs import KINDS, RUN
from .shared import clip_spec

NAMED = 10  # lines about skipped items on standard error; broken.jsonl has all
# argument -> its value when it was not given
_DEFAULTS: dict[str, Any] = {
    "what": "images", "format": "auto", "image_key": None, "caption_key": None, "to": "npy", "store": "float32",
    "samples_per_shard": SAMPLES, "deduplicate": False, "threads": None, "engine": "local",
    "workers": None, "ray_address": None, "cpus_per_worker": 1.0, "gpus_per_worker": 0.0, "shard": None,
    "prepare": False,
}  # fmt: skip
_RAY = ("workers", "ray_address", "cpus_per_worker", "gpus_per_worker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that apply only if the output is a folder."""
    group = parser.add_argument_group("millions", "into a folder of shards; run again, it goes on where it was ended")
    add = group.add_argument
    add("--what", choices=tuple(KINDS), help="images (default), texts (captions) or both")
    add("--format", help="auto (default), webdataset, table, datasets or arrayrecord")
    add("--image-key", metavar="NAME", help="column, suffix or feature of the pictures (default: the usual names)")
    add("--caption-key", metavar="NAME", help="the same of captions; several with commas")
    add("--to", choices=FILES, help="files of the shards: npy (default) or parquet")
    add("--store", choices=("float32", "float16"), help="dtype of the vectors in the files (default float32)")
    add("--samples-per-shard", type=int, metavar="N", help=f"of an output shard (default {SAMPLES})")
    add("--deduplicate", action="store_true", default=None, help="by content; the input is then read twice")
    add("--threads", type=int, metavar="N", help="that read and decode (default: one for each processor)")
    add("--shard", metavar="INDEX/COUNT", help="do only this part of the work, 0/4 to 3/4; others do the rest")
    add("--prepare", action="store_true", default=None, help="only plan (and hash), before several --shard")
    add("--engine", choices=("local", "ray"), help="local (default), or ray: workers on a cluster (extra `ray`)")
    add("--workers", type=int, metavar="N", help="ray: how many (default: by the cluster's processors)")
    add("--ray-address", metavar="HOST:PORT", help="ray: of a cluster (default RAY_ADDRESS, else this machine)")
    add("--cpus-per-worker", type=float, metavar="N", help="ray: default 1")
    add("--gpus-per-worker", type=float, metavar="N", help="ray: default 0")


def is_meant(args: argparse.Namespace) -> bool:
    """Whether the output is a folder of shards. Raises ValueError for an option that needs one if it is not."""
    from ..search.opening import OWN
    from ..search.parts import MANIFEST

    path = Path(args.output)
    is_index = path.name == OWN or (path / MANIFEST).is_file() or (not path.suffix and _names_pictures(args.images))
    if not is_index and (args.output.endswith(("/", "\\")) or not path.suffix or (path / RUN).is_file()):
        return True
    given = next((key for key in _DEFAULTS if getattr(args, key) is not None), None)
    if given is not None:
        option = "--" + given.replace("_", "-")
        raise ValueError(
            f"{option}: wanted folders, tar shards or tables, as --output a folder (ending in /, or without suffix), "
            f"found {args.output}"
        )
    return False


def _names_pictures(inputs: list[str]) -> bool:
    """Whether some inputs are picture files, or patterns of such: these go into an index, which is kept up to date."""
    from clip_core.image.input import picture_suffixes

    for one in inputs:
        patterned = not os.path.exists(one) and glob.has_magic(one)
        found = next(glob.iglob(one, recursive=True), "") if patterned else one
        if os.path.splitext(found)[1].lower() in picture_suffixes() and not os.path.isdir(found):
            return True
    return False


def run(args: argparse.Namespace) -> int:
    """Embed, and report the results and the skipped items."""
    from ..embed.run import embed

    if not args.images:
        raise ValueError("embed: wanted inputs: tar shards, tables or folders")
    for option in ("texts", "append", "plot", "exclude", "hidden", "follow_links", "prune", "watch"):
        if getattr(args, option):
            named = f"--{option.replace('_', '-')}"
            raise ValueError(f"{named}: wanted a file or an .index as --output, found the folder {args.output}")
    values = {key: default if getattr(args, key) is None else getattr(args, key) for key, default in _DEFAULTS.items()}
    given = next((key for key in _RAY if getattr(args, key) is not None), None)
    engine, shard = values.pop("engine"), values.pop("shard")
    ray = {key: values.pop(key) for key in _RAY}
    if engine != "ray" and given is not None:
        raise ValueError(f"--{given.replace('_', '-')}: wanted --engine ray beside it")
    made: Any = engine
    if engine == "ray":
        from ..embed.ray_engine import Ray

        made = Ray(ray["workers"], ray["ray_address"], ray["cpus_per_worker"], ray["gpus_per_worker"])
    spec = clip_spec(args, None)
    report = embed(
        args.images, args.output, spec, batch_size=args.batch_size,
        engine=made, shard=shard, **values,
    )  # fmt: skip
    _report_skipped(report.output, report.broken + report.damaged)
    if args.json:
        print(json.dumps({**vars(report), "output": str(report.output)}, indent=2))
        return 0
    print(_text(report, args.prepare))
    return 0


def _report_skipped(output: Path, count: int) -> None:
    if not count:
        return
    with open(output / BROKEN, encoding="utf-8") as file:
        for line in itertools.islice(file, NAMED):
            one = json.loads(line)
            named = one["reason"] if one["name"] in one["reason"] else f"{one['name']}: {one['reason']}"
            print(f"triclip: skipped {named}", file=sys.stderr)
    if count > NAMED:
        print(f"triclip: skipped more; all are in {output / BROKEN}", file=sys.stderr)


def _text(report: Any, prepared: bool | None) -> str:
    if prepared:
        return f"{report.samples} samples planned -> {report.output}"
    rows = " and ".join(f"{count} {kind} vectors" for kind, count in report.rows.items())
    parts = [f"{rows} of {report.samples} samples -> {report.output}"]
    if report.broken or report.damaged:
        parts.append(f"{report.broken} broken, {report.damaged} inputs damaged (see {BROKEN})")
    if report.duplicates:
        parts.append(f"{report.duplicates} duplicates left out")
    if report.embedded:
        rate = report.embedded / max(report.seconds, 1e-9)
        parts.append(f"{report.embedded} samples in {report.seconds:.0f} s, {rate:.0f}/s")
    if not report.complete:
        parts.append("other shards are not done yet")
    return "\n".join(parts)
