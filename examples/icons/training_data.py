"""Write what the trainer reads: one record per name, the held-out splits as tables, the vocabulary, the configuration.

    python examples/icons/training_data.py SCRATCH

SCRATCH is build_data.py's folder. Writes into SCRATCH/icons/:
- train.array_record: a record per name with its pictures and CAPTIONS captions, half of them the name itself. A batch
  has a name at most once, so no two of its pairs mean the same; but an emoji's record is written EMOJI_TIMES times, as
  it holds many more pictures than an icon's.
- vendor.jsonl, names.jsonl, both.jsonl, family.jsonl, clipart.jsonl: the held-out splits (splits.py), a line per
  picture with its bare name; sample.jsonl: every fourth line of the first, for a look while training.
- pictures/: what they name, on white. (Training pictures keep their transparency and have a margin for random crops.)
- tokenizer/: the vocabulary, learnt from the names, their words and WordNet.
- texts.json: what the text tower reads before it meets pictures (text_tower.py).
- train.yaml: the configuration, a copy of the one beside this script.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
from pathlib import Path

import bpe
from captions import Words, caption, words_of
from PIL import Image, ImageOps
from splits import MONOCHROME, Data, Record
from vendors import WORD_PACKAGES, package_folder
from wordnet import WordNet, teaching_texts

MERGES = 7678  # 8,192 tokens
CAPTIONS = 64
CAPTION_SEED = 1
EMOJI_TIMES = 4
MARGIN = 4  # pixels of transparency around a training picture of 64
SPLITS = ("vendor", "names", "both", "family", "clipart")
CONFIG = Path(__file__).with_name("train.yaml")
# Words that make a mirrored picture wrong; letters, digits and clocks are left alone too.
SIDED = ("left", "right", "letter", "button", "clock", "o'clock", "thirty", "keycap", "flag", "sign", "input", "arrow",
         "east", "west", "clockwise", "moon", "question", "exclamation", "hundred", "globe", "symbol", "abc",
         "number", "divide", "slash", "japanese", "calendar", "medal")  # fmt: skip


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def record_pictures(data: Data, record: Record) -> list[bytes]:
    """A record's pictures as PNG, in colour twice; those in colour mirrored as well where a mirrored one is right."""
    flippable = not any(word in record.name for word in SIDED)
    out = []
    for row in record.rows:
        picture = ImageOps.expand(data.picture(row), MARGIN, fill=(0, 0, 0, 0))
        kind, of = data.pictures[row]["kind"], data.pictures[row]["set"]
        coloured = kind == "clipart" or (kind == "emoji" and of not in MONOCHROME)
        plain = png(picture)
        if coloured:
            out += [plain, png(ImageOps.mirror(picture)) if flippable else plain]
        else:
            out.append(plain)
    return out


def write_training(data: Data, records: list[Record], words: list[Words], folder: Path) -> int:
    """train.array_record; returns how many records it has."""
    from array_record.python.array_record_module import ArrayRecordWriter

    from triclip.data.example import _example

    rng = random.Random(CAPTION_SEED)
    writer = ArrayRecordWriter(str(folder / "train.array_record"), "group_size:1")
    written = 0
    for record, own in zip(records, words, strict=True):
        example = _example()()
        example.features.feature["image"].bytes_list.value.extend(record_pictures(data, record))
        for _ in range(EMOJI_TIMES if record.emoji else 1):
            drawn = [caption(own, rng) for _ in range(CAPTIONS // 2)]
            texts = [record.name] * (CAPTIONS - len(drawn)) + drawn
            example.features.feature["caption"].bytes_list.value[:] = [text.encode() for text in texts]
            writer.write(example.SerializeToString())
            written += 1
    writer.close()
    return written


def write_split(data: Data, name: str, rows: list[int], folder: Path) -> list[str]:
    """An evaluation set: pictures on white, each with its bare name. Returns its lines."""
    (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for row in rows:
        path = f"pictures/{name}/{row}.png"
        picture = data.picture(row)
        Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").save(folder / path)
        lines.append(json.dumps({"image": path, "caption": data.pictures[row]["name"]}, ensure_ascii=False) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return lines


def write_words(words: list[Words], wordnet: list[str], folder: Path) -> None:
    """texts.json and tokenizer/."""
    own = list(dict.fromkeys(text for each in words for text in each.all()))
    (folder / "texts.json").write_text(json.dumps({"words": own, "wordnet": wordnet}, ensure_ascii=False))
    counted = [text for each in words for text in [each.name] * 4 + each.all()]
    bpe.write_vocabulary(folder / "tokenizer", bpe.learn([*counted, *wordnet], MERGES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    args = parser.parse_args()
    data = Data(args.scratch)
    print(data.reasons)
    folder = args.scratch / "icons"
    folder.mkdir(exist_ok=True)
    meanings = WordNet(package_folder(args.scratch / "packages", *WORD_PACKAGES[2]))
    records = data.records()
    words = [words_of(record, meanings) for record in records]
    print(f"{len(records)} names, {sum(len(record.rows) for record in records)} pictures", flush=True)
    dictionary = package_folder(args.scratch / "packages", *WORD_PACKAGES[2])
    write_words(words, teaching_texts(dictionary, data.ranks), folder)
    trained = {record.name for record in records}
    lines = {name: write_split(data, name, data.split(name, trained), folder) for name in SPLITS}
    print({name: len(found) for name, found in lines.items()}, flush=True)
    (folder / "sample.jsonl").write_text("".join(lines["vendor"][::4]), encoding="utf-8")
    shutil.copyfile(CONFIG, folder / CONFIG.name)
    print(f"{write_training(data, records, words, folder)} records in {folder}")


if __name__ == "__main__":
    main()
