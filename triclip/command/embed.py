"""`triclip embed`: pictures or sentences to vectors, in an index that stays up to date or, of millions, in a folder."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from . import embed_folder
from .output import print_json
from .shared import (
    appended_to,
    check_plot,
    check_replaced,
    clip_spec,
    inputs,
    lines,
    load,
    model_arguments,
    plot_argument,
    positive,
    report_skipped,
    warn_of_photographs,
)

_LABELLED = 60  # pictures whose names can be read on one map
_FEW = 30  # pictures that need no clusters in a page
EXAMPLES = """
  triclip embed photos/
  triclip embed photos/ -o photos.index --exclude raw --watch
  triclip embed "photos/**/*.jpg" cat.png -o some.npz
  triclip embed "shards/{000..127}.tar" -o vectors/ --model openai/clip-vit-base-patch32 --device cuda
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "embed",
        help="pictures or sentences to vectors, in an index that stays up to date or, of millions, in a folder",
        description="Embed pictures into an index. Given again, the same command embeds what is new or has changed and "
        "drops what is gone; the rest is not touched. It goes on where it was ended.",
        examples=EXAMPLES,
    )
    parser.add_argument("images", nargs="*", metavar="INPUT", help="pictures, folders or glob patterns; of millions: "
                        "tar shards, tables, too; -: as standard input lists them")  # fmt: skip
    parser.add_argument("--texts", metavar="FILE", help="embed a file's lines (-: standard input) instead of pictures")
    parser.add_argument("--output", "-o", metavar="PATH", help="an .index folder, .npz, .npy or .parquet; a folder "
                        "(ending in / or without suffix) for millions; default: .triclip in the one folder that is "
                        "embedded")  # fmt: skip
    _upkeep_arguments(parser)
    parser.add_argument("--append", action="store_true", help="only add what is new to the .index folder that is there")
    parser.add_argument("--force", action="store_true", help="make the output anew if it is there, without a question")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N")
    plot_argument(parser, "a map of the vectors, or .html: one to zoom and search in,")
    parser.add_argument("--plot-method", choices=("pca", "umap"), default="pca", help="default: pca")
    embed_folder.add_arguments(parser)
    model_arguments(parser, default=None)
    parser.set_defaults(run=run)


def _upkeep_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("folders of pictures", "kept by the index, for the next time")
    add = group.add_argument
    add("--exclude", action="append", metavar="PATTERN", help='names to leave out, such as "raw" or "*.gif"; with a / '
        'paths in the folder: "2019/*/raw"')  # fmt: skip
    add("--hidden", action="store_true", default=None, help="look into hidden and system folders too")
    add("--follow-links", action="store_true", default=None, help="follow links to folders")
    group = parser.add_argument_group("staying up to date")
    add = group.add_argument
    add("--prune", action="store_true", help="drop what is gone even if it looks as if a drive is missing")
    add("--watch", action="store_true", help="keep the index up to date until Ctrl+C")


def run(args: argparse.Namespace) -> int:
    if args.output is None:
        args.output = _default_output(args)
    args.images = inputs(args.images)
    if embed_folder.is_meant(args):
        return embed_folder.run(args)
    if bool(args.images) == bool(args.texts):
        raise ValueError("embed: wanted either pictures or --texts FILE")
    check_plot(args, (".html",))
    return _embed_texts(args) if args.texts else _embed_pictures(args)


def _default_output(args: argparse.Namespace) -> str:
    from ..search.opening import own_index

    if len(args.images) != 1 or not os.path.isdir(args.images[0]):
        raise ValueError("embed: wanted --output PATH (without it, one folder of pictures, which gets an index inside)")
    return str(own_index(args.images[0]))


def _embed_texts(args: argparse.Namespace) -> int:
    from ..fingerprint import fingerprint
    from ..search import Index, append_index, check_output

    check_output(args.output)  # before the work, not after it
    for option in ("watch", "prune", "exclude", "hidden", "follow_links"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')}: wanted pictures, found --texts")
    target = appended_to(args.output) if args.append else None
    if target is None:
        check_replaced(args.output, args.force)
    spec = clip_spec(args, target.origin if target is not None else None)
    print_of_model = fingerprint(spec.name)
    if target is not None:
        target.origin.check_model(spec.name, print_of_model)
    names = lines(args.texts)
    args.model = spec.name
    vectors = load(args).encode_text(names, batch_size=args.batch_size)
    index, added = Index(vectors, names, spec.name, None, print_of_model), len(names)
    if target is None:
        index.save(args.output)
    else:
        added = append_index(target, index)
    if args.plot:
        _plot_map(args, index)
    if args.json:
        about = {"output": args.output, "count": len(names), "width": index.width, "model": spec.name}
        print_json({**about, "skipped": []})
        return 0
    again = f", {len(names) - added} were there already" if added < len(names) else ""
    print(f"{added} vectors of width {index.width} -> {args.output}{again}")
    return 0


def _embed_pictures(args: argparse.Namespace) -> int:
    from ..search import open_index
    from ..search.single_file import check_output
    from ..upkeep import update

    if Path(args.output).suffix:
        check_output(args.output)
    if args.append:
        appended_to(args.output)
    spec = _spec(args)

    def bring_up_to_date(replace: bool = False) -> Any:
        return update(
            args.output, args.images, spec, rules=_rules(args), batch_size=args.batch_size, only_add=args.append,
            prune=args.prune, replace=replace,
        )  # fmt: skip

    changes = bring_up_to_date(args.force)
    _report(args, changes)
    warn_of_photographs(spec.name, _some_pictures(open_index(args.output)))
    if args.plot:
        _plot_map(args, open_index(args.output))
    return _watch(args, bring_up_to_date) if args.watch else 0


def _some_pictures(index: Any) -> list[str]:
    """Paths of pictures of an index, evenly spread."""
    from ..photographs import LOOKED_AT

    rows = range(0, len(index), max(1, len(index) // LOOKED_AT))[:LOOKED_AT]
    return [index.origin.path_of(index.metadata(row)["name"]) for row in rows]


def _spec(args: argparse.Namespace) -> Any:
    """The model; what isn't said of it is the index's."""
    from ..search import open_index
    from ..search.opening import is_index

    there = not args.force and is_index(args.output)
    return clip_spec(args, open_index(args.output).origin if there else None)


def _rules(args: argparse.Namespace) -> Any:
    """What is left out, where that is said; else the index knows."""
    from ..walk import Rules

    if args.exclude is None and args.hidden is None and args.follow_links is None:
        return None
    return Rules(tuple(args.exclude or ()), bool(args.hidden), bool(args.follow_links))


def _watch(args: argparse.Namespace, bring_up_to_date: Any) -> int:
    import threading

    from ..upkeep import watch

    stop = threading.Event()
    print(f"watching {', '.join(args.images)} (Ctrl+C stops)", file=sys.stderr, flush=True)
    try:
        watch(bring_up_to_date, lambda changes: _report(args, changes), _say_failed, stop)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
    return 0


def _say_failed(error: Exception) -> None:
    print(f"triclip: {error}", file=sys.stderr, flush=True)


def _report(args: argparse.Namespace, changes: Any) -> None:
    report_skipped(changes.unreadable)
    for folder, reason in changes.walk.unlisted:
        print(f"triclip: warning: {folder}: could not be looked into: {reason}", file=sys.stderr)
    if changes.kept:
        print(
            f"triclip: warning: {changes.kept} pictures are gone, and stay in the index in case a drive is missing; "
            "--prune drops them",
            file=sys.stderr,
        )
    if args.json:
        print_json(_as_json(args, changes))
        return
    added = changes.new + changes.changed + changes.moved
    rest = [(changes.total - added, "were there already"), (changes.changed, "of them changed"),
            (changes.moved, "of them known contents"), (changes.gone, "have left")]  # fmt: skip
    said = "".join(f", {count} {what}" for count, what in rest if count)
    print(f"{added} vectors of width {changes.width} -> {args.output}{said}", flush=True)
    left = _left_out(changes)
    if left:
        print(f"left out: {left}", flush=True)


def _left_out(changes: Any) -> str:
    """What has no vector, and why, in one line."""
    walk = changes.walk
    counts = [(len(changes.unreadable), "could not be read"), (walk.not_pictures, "no pictures"),
              (walk.unread, "HEIC, which `pip install 'triclip[heic]'` reads"),
              (walk.hidden, "hidden"), (walk.excluded, "excluded"), (walk.links, "links to folders")]  # fmt: skip
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _as_json(args: argparse.Namespace, changes: Any) -> dict[str, Any]:
    from ..search import open_index

    walk = changes.walk
    return {
        "output": args.output, "count": changes.total, "width": changes.width, "model": open_index(args.output).model,
        **{key: getattr(changes, key) for key in ("new", "changed", "moved", "gone", "kept")},
        "skipped": [{"image": path, "reason": reason} for path, reason in changes.unreadable],
        "left_out": {key: getattr(walk, key) for key in ("not_pictures", "unread", "hidden", "excluded", "links")},
    }  # fmt: skip


def _plot_map(args: argparse.Namespace, index: Any) -> None:
    """Pictures on the plane, some as thumbnails, in groups named by the words nearest to them; or texts as points."""
    from .. import viz
    from ..viz.maps import project, spread_sample

    names, vectors = index.names, index.vectors
    labels = names if args.texts else [Path(name).stem for name in names]
    paths = None if args.texts else [Path(index.origin.path_of(name)) for name in names]
    is_page = args.plot.endswith(".html")
    groups = None if args.texts or len(names) <= (_FEW if is_page else _LABELLED) else _groups(args, index)
    if is_page:
        viz.save_page(args.plot, vectors, labels, groups, paths, args.plot_method, os.path.basename(args.output))
        return
    pictures: Any = None
    if paths is not None:
        shown = set(spread_sample(project(vectors, args.plot_method).points).tolist())
        pictures = [path if row in shown and path.is_file() else None for row, path in enumerate(paths)]
    figure = viz.embedding_map(
        vectors, labels if len(labels) <= _LABELLED else None, groups, pictures, method=args.plot_method
    )
    viz.save(figure, args.plot)


def _groups(args: argparse.Namespace, index: Any) -> list[str]:
    """For each picture the name of its cluster, of ImageNet's names those that are nearest."""
    from ..train.labels import read_labels
    from ..viz.clusters import cluster_names, clusters

    numbers = clusters(index.vectors)
    words = list(dict.fromkeys(read_labels("imagenet")))
    clip = load(args, index.origin)
    names = cluster_names(index.vectors, numbers, words, clip.zero_shot_head(words, "a photo of a {}.").T)
    return [names[number] for number in numbers]
