"""Common to several sub-commands: arguments, loading, and reports of skipped pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..backends import BACKENDS

INDEX_TYPES = ("exact", "hnsw", "ivf")
INDEX_TYPES_HELP = "exact (default), or hnsw or ivf: approximate, by FAISS (extra `search`)"


PHOTOGRAPHS = (
    "triclip: these look like photographs; the embedded model {name!r} knows drawings only (icons, emoji, clip art): "
    "name another, such as --model openai/clip-vit-base-patch32"
)


def model_arguments(
    parser: argparse.ArgumentParser, default: str | None = "emoji", json: bool = True, background: bool = True
) -> None:
    """--model, --backend, --dtype, --background if that counts, and --json unless the command has one of its own."""
    named = "'emoji' (default, embedded)" if default else "'emoji'; default: the index's, else 'emoji' (embedded)"
    parser.add_argument("--model", default=default, help=f"folder, file, hub name, or {named}")
    parser.add_argument("--backend", choices=BACKENDS, help="default: the first of them that is installed")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default: a GPU if there is one), cpu, "
                        "cuda, cuda:1, mps")  # fmt: skip
    parser.add_argument(
        "--dtype", default=None, help="float32 (default), float16, bfloat16, auto, or int8 (torch on a CPU)"
    )
    if background:
        where = "white" if default else "the index's, else white"
        parser.add_argument("--background", metavar="COLOUR", help="behind transparent pictures: a name, #rrggbb, or "
                            f"none: transparency is dropped as the processor does (default: {where})")  # fmt: skip
    if json:
        json_argument(parser)


def json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def load(args: argparse.Namespace, origin: Any = None) -> Any:
    """The `Clip` that `model_arguments` name; what they don't say is the index's, of that `origin`."""
    return clip_spec(args, origin).load_clip()


@cache
def say_device(name: str) -> None:
    """Which device computes, once: to a terminal, and anywhere if it is no CPU."""
    if name != "cpu" or sys.stderr.isatty():
        print(f"triclip: device {name}", file=sys.stderr)


def clip_spec(args: argparse.Namespace, origin: Any = None) -> Any:
    """The model that `model_arguments` name, not loaded; what they don't say is the index's, of that `origin`."""
    from ..embed.encoder import ClipSpec

    background = getattr(args, "background", None)
    if background is None:
        colour = "white" if origin is None else origin.colour
    else:
        colour = None if background == "none" else background
    model = args.model or (origin.model if origin is not None else "emoji")
    return ClipSpec(model, args.backend, args.dtype, args.device, colour, say_device)


def plot_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", metavar="FILE", help=f"also draw {what}: .pdf, .svg or .png (extra `viz`)")


def check_plot(args: argparse.Namespace, also: Sequence[str] = ()) -> None:
    """Raise what saving the plot would, before the work and not after it; `also`: further suffixes."""
    if args.plot and os.path.splitext(args.plot)[1] not in also:
        from .. import viz

        viz.check_output(args.plot)


def report_skipped(skipped: Iterable[tuple[Any, str]]) -> None:
    """Print a line on standard error for each (source, reason)."""
    for source, reason in skipped:
        named = reason if str(source) in reason else f"{source}: {reason}"
        print(f"triclip: skipped {named}", file=sys.stderr)


def embed_readable(clip: Any, images: Sequence[str], batch_size: int = 32) -> Any:
    """Embeddings of the readable pictures; the others are reported. Raises ImageError if none is readable."""
    from clip_core.errors import ImageError

    found = clip.embed(list(images), batch_size=batch_size)
    report_skipped(found.skipped)
    if not found.sources:
        raise ImageError(f"none of the {len(found.skipped)} pictures could be read")
    return found


def warn_of_photographs(model: Any, pictures: Iterable[Any]) -> None:
    """A line on standard error if an embedded model is given what are clearly photographs, for the most part."""
    from clip_core.hub import BUNDLED

    from ..photographs import mostly_photographs

    if str(model) in BUNDLED and not Path(model).exists() and mostly_photographs(pictures):
        print(PHOTOGRAPHS.format(name=model), file=sys.stderr)


def read_input() -> str:
    """All of standard input, as UTF-8. Raises ValueError when that is a terminal: nobody would know what to type."""
    if sys.stdin.isatty():
        raise ValueError("-: wanted something on standard input, found a terminal")
    data = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    return os.fsdecode(data)


def inputs(paths: Sequence[str]) -> list[str]:
    """Paths, in place of "-" those that standard input lists: one a line, or ended by zero bytes (`find -print0`)."""
    out = []
    for path in paths:
        if path != "-":
            out.append(path)
            continue
        text = read_input()
        found = [one for one in (text.split("\0") if "\0" in text else text.splitlines()) if one]
        if not found:
            raise ValueError("-: wanted paths on standard input, found none")
        out += found
    return out


def lines(path: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input ("-"), that are not blank. Raises ValueError without any."""
    try:
        text = read_input() if path == "-" else Path(path).read_text(encoding="utf-8")
        text.encode()
    except UnicodeError as error:
        raise ValueError(f"{path}: wanted UTF-8 text, one label a line: {error}") from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{path}: wanted one label a line, found none")
    return found


def positive(text: str) -> int:
    """The type of positive integer arguments."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted at least 1, found {value}")
    return value


def check_replaced(path: str, force: bool) -> None:
    """Ask before an existing index is replaced. Raises FileExistsError without the answer yes, or without a terminal,
    unless `force`."""
    from ..search.parts import MANIFEST

    is_there = os.path.isfile(os.path.join(path, MANIFEST) if os.path.isdir(path) else path)
    if force or not is_there:  # other folders are never replaced
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(f"{path} is there already. Replace it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise FileExistsError(f"--output {path}: is there already; --force replaces it, --append adds to an .index")


def appended_to(path: str) -> Any:
    """The .index folder of --append."""
    from ..search import FolderIndex

    if not path.endswith(".index"):
        raise ValueError(f"--append {path}: wanted an .index folder; other files are written whole")
    return FolderIndex(path)
