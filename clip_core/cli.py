"""The `triclip` command. Sub-commands import what they need when they run, so `--help` is fast.

Exit codes: 0 done; 1 an error, described on standard error; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("triclip: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (`| head`) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError, TypeError, ImportError) as error:
        # The documented error types (clip_core.errors) are all of these; each message names what is wrong.
        print(f"triclip: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="triclip", description="CLIP in PyTorch, Keras/TensorFlow and JAX/Flax.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_classify(commands)
    _add_explain(commands)
    _add_embed(commands)
    _add_index(commands)
    _add_search(commands)
    _add_serve(commands)
    _add_inspect(commands)
    _add_convert(commands)
    _add_conform(commands)
    _add_training(commands)
    _add_demo(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from . import __version__

        print(f"triclip {__version__}")
        parser.exit()


def _model_arguments(parser: argparse.ArgumentParser, default: str | None = "emoji") -> None:
    parser.add_argument("--model", default=default, help="folder, file, hub name, or 'emoji' (default, embedded)")
    parser.add_argument("--backend", default="torch", choices=("torch", "tf", "flax"), help="default: torch")
    parser.add_argument("--dtype", default=None, help="float32 (default), float16, bfloat16 or auto")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _load(args: argparse.Namespace) -> Any:
    from .pipeline import Clip

    return Clip.from_pretrained(args.model, backend=args.backend, dtype=args.dtype)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _plot_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", metavar="FILE", help=f"also draw {what}: .pdf, .svg or .png (extra `viz`)")


def _check_plot(args: argparse.Namespace) -> None:
    """Before the work, not after it."""
    if args.plot:
        from . import viz

        viz.check_output(args.plot)


def _report_skipped(skipped: Sequence[tuple[Any, str]]) -> None:
    for source, reason in skipped:
        named = reason if str(source) in reason else f"{source}: {reason}"
        print(f"triclip: skipped {named}", file=sys.stderr)


def _embed(clip: Any, images: Sequence[str], batch_size: int = 32) -> Any:
    """Embeddings of what can be read; the rest is reported. Raises ImageError when nothing can."""
    from .errors import ImageError

    found = clip.embed(list(images), batch_size=batch_size)
    _report_skipped(found.skipped)
    if not found.sources:
        raise ImageError(f"none of the {len(found.skipped)} pictures could be read")
    return found


# -- classify ---------------------------------------------------------------------------------------------------------


def _add_classify(commands: Any) -> None:
    parser = commands.add_parser("classify", help="which label fits each picture")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, folders or glob patterns")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", nargs="+", metavar="LABEL", help="the labels")
    labels.add_argument("--labels-file", metavar="FILE", help="the labels, one a line")
    parser.add_argument("--template", action="append", metavar="TEXT", help="a sentence with {} for the label")
    parser.add_argument("--top", type=_positive, default=5, metavar="K", help="labels shown per picture (default 5)")
    _plot_argument(parser, "the pictures with their labels, the first 40")
    parser.add_argument("--plot-grid", action="store_true", help="draw cosines, pictures by labels, instead")
    _model_arguments(parser)
    parser.set_defaults(run=_classify)


def _classify(args: argparse.Namespace) -> int:
    labels = args.labels or _lines(args.labels_file)
    if args.plot_grid and not args.plot:
        raise ValueError("classify: wanted --plot FILE with --plot-grid, found none")
    _check_plot(args)
    clip = _load(args)
    found = _embed(clip, args.images)
    result = clip.classify(found.vectors, labels, args.template)
    rows = [(str(source), ranked[: args.top]) for source, ranked in zip(found.sources, result, strict=True)]
    if args.plot:
        _plot_classes(args, clip, found, [ranked for _, ranked in rows], labels)
    if args.json:
        _print_json([{"image": s, "labels": [{"label": n, "probability": p} for n, p in ranked]} for s, ranked in rows])
        return 0
    for source, ranked in rows:
        print(source)
        for label, probability in ranked:
            print(f"  {probability:7.2%}  {label}")
    return 0


def _plot_classes(args: argparse.Namespace, clip: Any, found: Any, ranked: Sequence[Any], labels: Any) -> None:
    """The likeliest labels of each picture; or all cosines, of a label the mean of its sentences."""
    from . import viz

    if not args.plot_grid:
        viz.save(viz.predictions(found.sources[:40], ranked[:40], top=args.top), args.plot)
        return
    shown, vectors = found.sources[:_GRID], found.vectors[:_GRID]
    cosines = vectors @ clip.zero_shot_head(labels[:_GRID], args.template)
    viz.save(viz.similarity_grid(shown, labels[:_GRID], cosines), args.plot)


_GRID = 40  # pictures and labels of a grid: more can't be read on paper


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted UTF-8 text, one label a line: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: wanted one label a line, found none")
    return lines


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted at least 1, found {value}")
    return value


def _add_explain(commands: Any) -> None:
    parser = commands.add_parser("explain", help="what the similarity of a picture and a text rests on")
    parser.add_argument("image", metavar="IMAGE", help="a picture")
    parser.add_argument("text", metavar="TEXT", help="a sentence")
    parser.add_argument("--method", choices=("relevance", "rollout"), default="relevance", help="default: relevance")
    parser.add_argument("--first-layer", type=int, default=0, metavar="N", help="leave out the layers before it")
    _plot_argument(parser, "the scores over the picture and beside the words")
    _model_arguments(parser)
    parser.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> int:
    from .explain import explain

    _check_plot(args)
    found = explain(_load(args), args.image, args.text, args.method, args.first_layer)
    if args.plot:
        from . import viz

        viz.save(viz.explanations(found), args.plot)
    words = [(word, float(score)) for word, score in zip(found.words, found.word_scores, strict=True)]
    if args.json:
        scores = [{"word": word, "score": score} for word, score in words]
        _print_json({"similarity": found.similarity, "words": scores, "patches": found.patches.tolist()})
        return 0
    print(f"similarity {found.similarity:.3f}; {found.method} of the words:")
    for word, score in words:
        print(f"  {score:7.4f}  {word}")
    return 0


# -- embed and search -------------------------------------------------------------------------------------------------


def _add_embed(commands: Any) -> None:
    from .bulk.command import add_arguments

    parser = commands.add_parser("embed", help="pictures or sentences to vectors, in a file or, of millions, a folder")
    parser.add_argument("images", nargs="*", metavar="INPUT", help="pictures, folders or glob patterns; of millions: "
                        "tar shards, tables, folders, patterns")  # fmt: skip
    parser.add_argument("--texts", metavar="FILE", help="embed the lines of this file instead of pictures")
    parser.add_argument("--output", "-o", required=True, metavar="PATH", help=".npz, .npy, .parquet or .index; a "
                        "folder (ending in / or without suffix) for millions")  # fmt: skip
    parser.add_argument("--append", action="store_true", help="add to the .index folder that is there")
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N")
    _plot_argument(parser, "a map of the vectors")
    parser.add_argument("--plot-method", choices=("pca", "umap"), default="pca", help="default: pca")
    add_arguments(parser)
    _model_arguments(parser)
    parser.set_defaults(run=_embed_command)


def _embed_command(args: argparse.Namespace) -> int:
    from .bulk import command
    from .index import Index, append_index, check_output

    if command.is_meant(args):
        return command.run(args)
    if bool(args.images) == bool(args.texts):
        raise ValueError("embed: wanted either pictures or --texts FILE")
    check_output(args.output)  # before the work, not after it
    _check_plot(args)
    target = _appended_to(args.output) if args.append else None
    clip = _load(args)
    if args.texts:
        names, skipped = _lines(args.texts), []
        vectors = clip.encode_text(names, batch_size=args.batch_size)
    else:
        found = _embed(clip, args.images, args.batch_size)
        names, vectors, skipped = [str(source) for source in found.sources], found.vectors, found.skipped
    found_index = Index(vectors, names, str(args.model))
    if target is None:
        found_index.save(args.output)
    else:
        append_index(target, found_index)
    if args.plot:
        _plot_map(args, vectors, names)
    report = {"output": args.output, "count": len(names), "width": int(vectors.shape[1]), "model": str(args.model)}
    if args.json:
        _print_json({**report, "skipped": [{"image": str(s), "reason": r} for s, r in skipped]})
    else:
        print(f"{len(names)} vectors of width {vectors.shape[1]} -> {args.output}")
    return 0


def _plot_map(args: argparse.Namespace, vectors: Any, names: Sequence[str]) -> None:
    from . import viz

    few = len(names) <= 60  # pictures that can be told apart on one map
    labels = list(names) if args.texts else [Path(name).stem for name in names]
    pictures = None if args.texts or not few else [Path(name) for name in names]
    viz.save(viz.embedding_map(vectors, labels, pictures=pictures, method=args.plot_method), args.plot)


def _appended_to(path: str) -> Any:
    from .index import FolderIndex

    if not path.endswith(".index"):
        raise ValueError(f"--append {path}: wanted an .index folder; other files are written whole")
    return FolderIndex(path)


def _add_index(commands: Any) -> None:
    parser = commands.add_parser("index", help="embedded files into one index that opens at once, however large")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="files or folders that `triclip embed` wrote")
    parser.add_argument("--output", "-o", required=True, metavar="FOLDER", help="the index, a name ending in .index")
    parser.add_argument("--append", action="store_true", help="add to the index that is there")
    parser.add_argument("--dtype", choices=("float32", "float16"), help="of the stored vectors (default: as given)")
    parser.add_argument("--index-type", choices=("exact", "hnsw", "ivf"), default="exact", help=_INDEX_TYPES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=_index)


_INDEX_TYPES = "exact (default), or hnsw or ivf: approximate, by FAISS or hnswlib (extra `search`)"


def _index(args: argparse.Namespace) -> int:
    from .bulk.opened import open_each
    from .index import append_index, build_folder, sampled_recall

    if not args.output.endswith(".index"):
        raise ValueError(f"--output {args.output}: wanted a name ending in .index")
    if args.append and args.dtype:
        raise ValueError("--append: the vectors are stored as those before them, without --dtype")
    sources = (found for source in args.sources for found in open_each(Path(source)))
    if args.append:
        index = _appended_to(args.output)
        for source in sources:
            append_index(index, source)
    else:
        index = build_folder(args.output, sources, args.dtype)
    report = {"output": args.output, "count": len(index), "width": index.width, "model": index.model}
    if args.index_type != "exact":
        index.rebuild_candidates(args.index_type)
        report.update(index_type=args.index_type, **sampled_recall(index, args.index_type))
    if args.json:
        _print_json(report)
        return 0
    print(f"{len(index)} vectors of width {index.width} -> {args.output}")
    if args.index_type != "exact":
        print(f"{args.index_type}: recall@10 {report['recall@10']:.1%} of exact search, {report['queries']} queries")
    return 0


def _add_search(commands: Any) -> None:
    parser = commands.add_parser("search", help="find pictures in an embedded folder, by words, pictures, or both")
    parser.add_argument("index", metavar="INDEX", help="what `triclip embed` or `triclip index` wrote")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="words, or the path of a picture")
    parser.add_argument("--text", action="append", metavar="TEXT", help="words, even if such a file exists")
    parser.add_argument("--image", action="append", metavar="FILE", help="a picture")
    parser.add_argument(
        "--term",
        nargs=2,
        action="append",
        metavar=("WEIGHT", "QUERY"),
        help="words or a picture of another weight than 1; below 0: unlike this",
    )
    parser.add_argument("--filter", action="append", metavar="EXPR", help='e.g. "year>=2020", "name~*.png"; all hold')
    parser.add_argument("--index-type", choices=("exact", "hnsw", "ivf"), default="exact", help=_INDEX_TYPES)
    parser.add_argument("--top", type=_positive, default=5, metavar="K", help="results shown (default 5)")
    _plot_argument(parser, "a sheet of what was found")
    _model_arguments(parser, default=None)
    parser.set_defaults(run=_search)


def _search(args: argparse.Namespace) -> int:
    from .index import Index, combine

    terms = _terms(args)
    _check_plot(args)
    index = Index.load(args.index)
    args.model = args.model or index.model
    clip = _load(args)
    vectors = [(clip.encode_image if is_picture else clip.encode_text)(what)[0] for what, is_picture, _ in terms]
    query = combine(vectors, [weight for _, _, weight in terms])
    scores, rows = index.search_rows(query[None], args.top, args.filter, args.index_type)
    results = [(index.metadata(int(row)), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
    if args.plot:
        _plot_found(args.plot, terms, results)
    if args.json:
        found = [{"name": about.pop("name"), "similarity": score, "metadata": about} for about, score in results]
        _print_json([{key: value for key, value in one.items() if value != {}} for one in found])
        return 0
    for rank, (about, score) in enumerate(results, 1):
        print(f"{rank:3d}  {score:6.3f}  {about['name']}")
    return 0


def _plot_found(path: str, terms: Sequence[tuple[str, bool, float]], results: Sequence[tuple[Any, float]]) -> None:
    """The query as a picture where it is one alone, in words otherwise."""
    from . import viz

    query: Any = ""
    for what, is_picture, weight in terms:
        sign = "−" if weight < 0 else "+" if query else ""
        factor = "" if abs(weight) == 1 else f"{abs(weight):g} × "
        query = f"{query} {sign} {factor}{os.path.basename(what) if is_picture else what}".strip()
    if len(terms) == 1 and terms[0][1]:
        query = Path(terms[0][0])
    found = [Path(about["name"]) if os.path.isfile(about["name"]) else about["name"] for about, _ in results]
    viz.save(viz.retrieval_sheet([query], [found], [[score for _, score in results]]), path)


def _terms(args: argparse.Namespace) -> list[tuple[str, bool, float]]:
    """(words or path, whether it is a picture, weight) of everything that is searched for."""
    either = [(1.0, args.query)] if args.query is not None else []
    for weight, query in args.term or ():
        try:
            either.append((float(weight), query))
        except ValueError as error:
            raise ValueError(f"--term {weight} {query!r}: wanted a number as the weight") from error
    terms = [(query, os.path.isfile(query), weight) for weight, query in either]
    terms += [(text, False, 1.0) for text in args.text or ()] + [(path, True, 1.0) for path in args.image or ()]
    if not terms:
        raise ValueError("search: wanted a QUERY, --text, --image or --term")
    return terms


def _add_serve(commands: Any) -> None:
    from .serve.command import add_serve

    add_serve(commands)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="what a checkpoint is: format, config, parameters, dtype, processor")
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="folder, file, hub name or 'emoji'")
    parser.add_argument(
        "--machine",
        action="store_true",
        help="instead: the processor, the threads, and which short cuts are taken (TRICLIP_SHORT_CUTS sets them)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from . import checkpoint
    from .hub import resolve_folder

    if args.machine:
        return _inspect_machine()
    if args.checkpoint is None:
        raise ValueError("inspect: wanted a checkpoint or --machine, found neither")
    facts = checkpoint.inspect(resolve_folder(args.checkpoint, weights=True))
    if args.json:
        _print_json(facts)
    else:
        _print_facts(facts)
    return 0


def _inspect_machine() -> int:
    from . import machine
    from .image.fast import measure

    measure()
    print(machine.describe())
    return 0


def _print_facts(facts: Any, indent: int = 0) -> None:
    for key, value in facts.items():
        pad = " " * indent
        if isinstance(value, dict) and value:
            print(f"{pad}{key}:")
            _print_facts(value, indent + 2)
        elif isinstance(value, list | tuple):
            print(f"{pad}{key}: {', '.join(str(item) for item in value) or '-'}")
        else:
            print(f"{pad}{key}: {value}")


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="a checkpoint of any format into another format")
    parser.add_argument("source", metavar="SRC", help="folder, file or hub name")
    parser.add_argument("target", metavar="DST", help="folder or file to write")
    parser.add_argument("--to", default="hf", metavar="FORMAT", help="the format to write (default hf)")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="default: kept per tensor")
    parser.add_argument("--component", help="text, vision, text_encoder, text_encoder_2, …")
    parser.add_argument("--shard-size", metavar="SIZE", help='e.g. "2GB"')
    parser.add_argument("--config", metavar="FILE", help="a config.json to use where the source has none")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    from . import checkpoint
    from .hub import resolve_folder
    from .progress import Progress

    options: dict[str, Any] = {"to": args.to, "dtype": args.dtype, "component": args.component, "config": args.config}
    if args.shard_size:
        options["shard_size"] = args.shard_size
    source = resolve_folder(args.source, weights=True)
    with Progress("bytes", 0) as bar:
        saved = checkpoint.convert(source, args.target, progress=bar.reach, **options)
    for note in saved.notes:
        print(f"note: {note}")
    print(f"{args.source} -> {args.target} ({args.to})")
    return 0


def _add_conform(commands: Any) -> None:
    parser = commands.add_parser("conform", help="run a checkpoint through every installed backend and compare")
    if "conform" in sys.argv:  # its arguments live with its engine, which need not load for other commands
        from . import conform

        conform.add_arguments(parser)
        parser.set_defaults(run=conform.run)


# -- training ---------------------------------------------------------------------------------------------------------


def _add_training(commands: Any) -> None:
    from .train import command

    command.add_train(commands)
    command.add_evaluate(commands)


# -- demo -------------------------------------------------------------------------------------------------------------


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="classify the bundled pictures with the embedded model")
    parser.add_argument("--output", default="demo-output", metavar="FOLDER", help="where the picture grid goes")
    parser.add_argument("--backend", default="torch", choices=("torch", "tf", "flax"))
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from .demo import run

    return run(Path(args.output), args.backend)


if __name__ == "__main__":
    sys.exit(main())
