"""Write the demo: pictures of the held-out design family, and prompts the model was not trained on.

    python examples/emoji/demo_pictures.py SCRATCH clip_core/models/emoji/pictures

Prompts and pictures were chosen before the model was trained. Each prompt is checked: it is no caption of the training
set, in no template either, and the picture's family (Fluent, MIT) was in no training batch.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

from build_data import normal_code, read_words
from dataset import HELD_OUT_VENDOR, TEMPLATES, EmojiData
from PIL import Image
from vendors import VENDORS, icon_pictures, package_folder, slug, slug_tables

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


def check_prompts(data: EmojiData) -> None:
    """Raise ValueError when a prompt is a training caption, bare or in a template."""
    captions = set(data.captions())
    for number in data.train_names:
        captions.update(data.entries[number]["synonyms"], data.entries[number]["definition"])
    for prompt in PROMPTS.values():
        if prompt in captions or any(
            template.format(caption) == prompt for caption in captions for template in TEMPLATES
        ):
            raise ValueError(f"prompt {prompt!r} is a training caption")


def draw(svg: str) -> Image.Image:
    import resvg_py

    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)))).convert(
        "RGBA"
    )
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    data = EmojiData(args.scratch, HELD_OUT_VENDOR)
    check_prompts(data)
    packages = args.scratch / "packages"
    vendor = next(vendor for vendor in VENDORS if vendor.name == SOURCE)
    tables = slug_tables(read_words(packages), packages)
    drawn = {
        code: svg for code, svg, _ in icon_pictures(package_folder(packages, vendor.package, vendor.version), tables)
    }
    entries = {entry["label"]: entry for entry in data.entries}
    args.folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for label, prompt in PROMPTS.items():
        name = f"{slug(label)}.png"
        draw(drawn[normal_code(entries[label]["code"])]).save(args.folder / name, optimize=True)
        listed.append({"file": name, "name": label, "prompt": prompt, "name_seen": not entries[label]["held_out"]})
    demo = {
        "about": "Pictures of a design family the model was not trained on, and prompts that are no training caption.",
        "licence": f"Fluent Emoji by Microsoft Corporation, MIT; npm {vendor.package} {vendor.version}",
        "pictures": listed,
    }
    (args.folder / "demo.json").write_text(json.dumps(demo, indent=1) + "\n")


if __name__ == "__main__":
    main()
