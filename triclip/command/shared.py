"""What several sub-commands share: arguments, loading, and how skipped pictures are reported."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

BACKENDS = ("torch", "tf", "flax")
INDEX_TYPES = ("exact", "hnsw", "ivf")
INDEX_TYPES_HELP = "exact (default), or hnsw or ivf: approximate, by FAISS or hnswlib (extra `search`)"


def model_arguments(parser: argparse.ArgumentParser, default: str | None = "emoji", json: bool = True) -> None:
    """--model, --backend, --dtype, and --json unless the command has a --json of its own."""
    parser.add_argument("--model", default=default, help="folder, file, hub name, or 'emoji' (default, embedded)")
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


def embed_readable(clip: Any, images: Sequence[str], batch_size: int = 32) -> Any:
    """Embeddings of what can be read; the rest is reported. Raises ImageError when nothing can."""
    from clip_core.errors import ImageError

    found = clip.embed(list(images), batch_size=batch_size)
    report_skipped(found.skipped)
    if not found.sources:
        raise ImageError(f"none of the {len(found.skipped)} pictures could be read")
    return found


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


def appended_to(path: str) -> Any:
    """The .index folder of --append."""
    from ..search import FolderIndex

    if not path.endswith(".index"):
        raise ValueError(f"--append {path}: wanted an .index folder; other files are written whole")
    return FolderIndex(path)
