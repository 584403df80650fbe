"""Write what `triclip demo` shows: sixteen pictures with sentences, and a sheet of icons to search.

    python examples/icons/demo_pictures.py SCRATCH clip_core/models/icons/pictures

Pictures, sentences and right answers were chosen before the model was trained, those of the sixteen before the model
that this one replaced. Each sentence is checked: it is no word or definition of a training name, in no template either.
The sixteen are Fluent Emoji (MIT), the sheet's icons Phosphor (MIT): neither family was in any training batch.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from build_data import emoji_jobs, read_words
from captions import TEMPLATES, words_of
from draw import draw, on_white
from PIL import Image
from splits import Data
from vendors import VENDORS, WORD_PACKAGES, package_folder, slug
from wordnet import WordNet

SIDE = 128
SOURCE = "fluent-emoji"
# name of the emoji -> what a person might ask for. demo.json says which names were held out of training as well.
PROMPTS = {
    "hot beverage": "a cup of coffee with steam rising",
    "snowman": "a man made of snow in winter",
    "rocket": "a spaceship flying into orbit",
    "pizza": "a slice of italian food with melted cheese",
    "umbrella with rain drops": "something to keep you dry when it rains",
    "guitar": "an instrument with six strings",
    "wrapped gift": "a present tied with a ribbon",
    "sunflower": "a big yellow flower",
    "lion": "the king of animals with a mane",
    "broken heart": "a love that ended",
    "octopus": "a sea creature with eight arms",
    "birthday cake": "cake with burning candles",
    "giraffe": "an animal with a very long neck",
    "fire engine": "the red truck of the firefighters",
    "alarm clock": "a clock that wakes you in the morning",
    "hot pepper": "a spicy red chili",
}
SHEET, SHEET_SIDE, SHEET_COLUMNS, SHEET_SEED = 300, 64, 20, 20243
# what a person might look for -> the icons that are right
SEARCHES = {
    "a pet that barks": ["dog"],
    "saving up coins": ["piggy bank", "coins", "hand coins", "tip jar"],
    "listen to music in private": ["headphones", "headset"],
    "a ball that is kicked into a goal": ["soccer ball"],
    "throw it away": ["trash", "trash simple"],
    "it keeps a ship from drifting": ["anchor", "anchor simple"],
    "furniture to sleep in": ["bed"],
    "cut paper or cloth": ["scissors"],
    "a cup of something hot to drink": ["coffee", "tea bag"],
    "look for something": ["magnifying glass", "binoculars"],
    "first prize in the contest": ["trophy", "medal"],
    "wet weather": ["cloud rain", "umbrella", "umbrella simple", "cloud lightning"],
    "what the king wears on his head": ["crown", "crown simple", "crown cross"],
    "put out the flames": ["fire extinguisher", "fire truck"],
    "write with it and rub it out again": ["pencil", "pencil simple", "eraser", "note pencil"],
    "two wheels and pedals": ["bicycle"],
}


def check_sentences(data: Data, packages: Path) -> None:
    """Raise ValueError when a sentence is a training caption, bare or in a template."""
    meanings = WordNet(package_folder(packages, *WORD_PACKAGES[2]))
    known = {text for record in data.records() for text in words_of(record, meanings).all()}
    for sentence in [*PROMPTS.values(), *SEARCHES]:
        bare = {sentence} | {
            sentence[len(before) : len(sentence) - len(after)]
            for before, after in (template.split("{}") for template in TEMPLATES)
            if sentence.startswith(before) and sentence.endswith(after)
        }
        if bare & known:
            raise ValueError(f"sentence {sentence!r} is a training caption")


def write_pictures(packages: Path, scratch: Path, folder: Path) -> list[dict]:
    """The sixteen pictures; returns demo.json's entries for them."""
    entries = read_words(packages)
    held_out = {entry["label"]: entry["held_out"] for entry in json.loads((scratch / "emoji.json").read_text())}
    svgs = {about["name"]: svg for about, svg, _ in emoji_jobs(packages, entries) if about["set"] == SOURCE}
    listed = []
    for label, prompt in PROMPTS.items():
        picture = draw(svgs[label], SIDE)
        assert picture is not None
        on_white(picture).save(folder / f"{slug(label)}.png", optimize=True)
        listed.append({"file": f"{slug(label)}.png", "name": label, "prompt": prompt, "name_seen": not held_out[label]})
    return listed


def write_sheet(data: Data, folder: Path) -> dict:
    """sheet.png, the right answers among other icons drawn at random; returns demo.json's entry for it."""
    rows = {data.pictures[row]["name"]: row for row in data.split("family", set())}
    wanted = {name for answers in SEARCHES.values() for name in answers}
    rng = random.Random(SHEET_SEED)
    names = [*wanted, *rng.sample(sorted(set(rows) - wanted), SHEET - len(wanted))]
    names.sort()
    size = (SHEET_COLUMNS * SHEET_SIDE, -(-SHEET // SHEET_COLUMNS) * SHEET_SIDE)
    sheet = Image.new("L", size, "white")
    for number, name in enumerate(names):
        row, column = divmod(number, SHEET_COLUMNS)
        sheet.paste(on_white(data.picture(rows[name])).convert("L"), (column * SHEET_SIDE, row * SHEET_SIDE))
    sheet.save(folder / "sheet.png", optimize=True)
    searches = [{"sentence": sentence, "right": right} for sentence, right in SEARCHES.items()]
    return {"file": "sheet.png", "side": SHEET_SIDE, "columns": SHEET_COLUMNS, "names": names, "searches": searches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    packages, data = args.scratch / "packages", Data(args.scratch)
    check_sentences(data, packages)
    args.folder.mkdir(parents=True, exist_ok=True)
    vendor = next(vendor for vendor in VENDORS if vendor.name == SOURCE)
    demo = {
        "about": "Pictures of two families the model was not trained on; sentences that are no training caption.",
        "licence": f"Fluent Emoji by Microsoft Corporation, MIT; npm {vendor.package} {vendor.version}. "
        "sheet.png: Phosphor Icons, MIT; npm @iconify/json 2.2.535",
        "pictures": write_pictures(packages, args.scratch, args.folder),
        "sheet": write_sheet(data, args.folder),
    }
    (args.folder / "demo.json").write_text(json.dumps(demo, indent=1) + "\n")


if __name__ == "__main__":
    main()
