"""What several sub-commands share: arguments, loading, and how skipped pictures are reported."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..backends import BACKENDS

INDEX_TYPES = ("exact", "hnsw", "ivf")
INDEX_TYPES_HELP = "exact (default), or hnsw or ivf: approximate, by FAISS (extra `search`)"


PHOTOGRAPHS = (
    "triclip: these look like photographs; the embedded model {name!r} knows drawings only (icons, emoji, clip art): "
    "name another, such as --model openai/clip-vit-base-patch32"
)


def model_arguments(parser: argparse.ArgumentParser, default: str | None = "emoji", json: bool = True) -> None:
    """--model, --backend, --dtype, and --json unless the command has a --json of its own."""
    named = "'emoji' (default, embedded)" if default else "'emoji'; default: the index's, else 'emoji' (embedded)"
    parser.add_argument("--model", default=default, help=f"folder, file, hub name, or {named}")
    parser.add_argument("--backend", default="torch", choices=BACKENDS, help="default: torch")
    parser.add_argument("--dtype", default=None, help="float32 (default), float16, bfloat16 or auto")
    if json:
        json_argument(parser)


def json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def load(args: argparse.Namespace) -> Any:
    """The `Clip` that `model_arguments` name."""
    from ..pipeline import Clip

    return Clip.from_pretrained(args.model, backend=args.backend, dtype=args.dtype)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def plot_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", metavar="FILE", help=f"also draw {what}: .pdf, .svg or .png (extra `viz`)")


def check_plot(args: argparse.Namespace) -> None:
    """Raise what saving the plot would, before the work and not after it."""
    if args.plot:
        from .. import viz

        viz.check_output(args.plot)


def report_skipped(skipped: Iterable[tuple[Any, str]]) -> None:
    """A line on standard error for each (source, reason)."""
    for source, reason in skipped:
        named = reason if str(source) in reason else f"{source}: {reason}"
        print(f"triclip: skipped {named}", file=sys.stderr)


def embed_readable(clip: Any, images: Sequence[str], model: Any, batch_size: int = 32) -> Any:
    """Embeddings of what can be read; the rest is reported, and photographs given to an embedded `model`.

    Raises ImageError when nothing can be read.
    """
    from clip_core.errors import ImageError

    found = clip.embed(list(images), batch_size=batch_size)
    report_skipped(found.skipped)
    if not found.sources:
        raise ImageError(f"none of the {len(found.skipped)} pictures could be read")
    warn_of_photographs(model, found.sources)
    return found


def warn_of_photographs(model: Any, pictures: Iterable[Any]) -> None:
    """A line on standard error when an embedded model is shown what are clearly photographs, for the most part."""
    from clip_core.hub import BUNDLED

    from ..photographs import mostly_photographs

    if str(model) in BUNDLED and not Path(model).exists() and mostly_photographs(pictures):
        print(PHOTOGRAPHS.format(name=model), file=sys.stderr)


def lines(path: str) -> list[str]:
    """The lines of a UTF-8 file that are not blank. Raises ValueError without any."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted UTF-8 text, one label a line: {error}") from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{path}: wanted one label a line, found none")
    return found


def positive(text: str) -> int:
    """The type of arguments that count from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted at least 1, found {value}")
    return value


def check_replaced(path: str, force: bool) -> None:
    """Ask before an index that is there is replaced. Raises FileExistsError without the answer yes, or without a
    terminal to ask at, unless `force`."""
    from ..search.parts import MANIFEST

    is_there = os.path.isfile(os.path.join(path, MANIFEST) if os.path.isdir(path) else path)
    if force or not is_there:  # whatever else is a folder is never replaced
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
