"""The emoji recipe's own parts: vocabulary, captions' meanings, recall, training data, export."""

import sys
from pathlib import Path

import numpy as np
import pytest

from clip_core import CLIPTokenizer, CLIPTokenizerFast

RECIPE = Path(__file__).parents[2] / "examples" / "emoji"


@pytest.fixture(scope="module", autouse=True)
def recipe_on_path():
    sys.path.insert(0, str(RECIPE))
    yield
    sys.path.remove(str(RECIPE))


def test_vocabulary_is_one_that_clip_tokenizers_read(tmp_path):
    import bpe

    captions = ["red heart", "red hearts", "a red car", "Über heart", "café & tea"]
    merges = bpe.learn(captions, 12)
    assert merges[:2] == [("a", "r"), ("e", "ar")]  # four pairs tie at three: the alphabet decides
    bpe.write_vocabulary(tmp_path, merges)
    slow, fast = CLIPTokenizer.from_pretrained(tmp_path), CLIPTokenizerFast.from_pretrained(tmp_path)
    assert len(slow) == 512 + len(merges) + 2 == len(fast)
    assert (slow.bos_token_id, slow.eos_token_id) == (len(slow) - 2, len(slow) - 1)
    ids = fast(captions)["input_ids"]
    assert slow(captions)["input_ids"] == ids
    assert ids[0][0] == slow.bos_token_id and ids[0][-1] == slow.eos_token_id
    assert fast.decode(ids[4], skip_special_tokens=True).replace(" ", "") == "café&tea"
    assert fast.tokenize("red") == ["red</w>"]


def test_merging_keeps_words_apart():
    import bpe

    assert bpe.merge(("a", "a", "a"), ("a", "a")) == ("aa", "a")
    assert bpe.merge(("a", "b</w>"), ("a", "b</w>")) == ("ab</w>",)
    assert bpe.learn(["ab", "ab"], 5) == [("a", "b</w>")]  # no pair is left after the only word is whole


def test_recall_counts_ties_against_the_model():
    from retrieval import chance, nearest_names, recall

    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]])
    found = recall(scores, np.array([0, 0, 2]))
    assert found["R@1"] == pytest.approx(1 / 3) and found["R@5"] == 1.0
    assert chance(200) == {"R@1": 0.005, "R@5": 0.025, "R@10": 0.05}
    gallery = np.array([[0, 0], [100, 100], [255, 255]], np.uint8)
    scores = nearest_names(np.array([[90, 90]], np.uint8), gallery, np.array([7, 8, 7]), np.array([7, 8, 9]))
    assert scores.argmax() == 1 and scores[0, 2] == -np.inf
    assert scores[0, 0] == pytest.approx(-2 * (90 / 255) ** 2, rel=1e-5)


def test_concepts_join_the_variants_of_one_emoji():
    from build_data import concept, normal_code

    running = [normal_code(c) for c in ("1F3C3", "1F3C3-200D-2642-FE0F", "1F3C3-200D-2640-FE0F-200D-27A1-FE0F")]
    assert {concept(code) for code in running} == {"1f3c3"}
    cooks = ("1f468-200d-1f373", "1f469-200d-1f373", "1f9d1-200d-1f373")
    assert len({concept(code) for code in cooks}) == 1
    assert concept("1f468") != concept("1f469")


def test_icon_names_are_matched_and_ambiguous_ones_left_out():
    from vendors import match_icon, slug, unambiguous

    assert slug("Côte d’Ivoire & more: “x”") == "cote-divoire-and-more-x"
    table = unambiguous([("crown", "1f451"), ("sun", "2600"), ("sun", "1f31e"), ("", "0")])
    assert table == {"crown": "1f451"}
    tables, squashed = [{"admission-tickets": "1f39f"}], [{"admissiontickets": "1f39f"}]
    assert match_icon("admissiontickets", tables, squashed) == "1f39f"
    assert match_icon("admission-tickets-2", tables, squashed) == "1f39f"
    assert match_icon("something-else", tables, squashed) is None


def test_wordnet_takes_the_meaning_that_shares_words(tmp_path):
    from wordnet import WordNet

    lines = [
        "05 n 02 crane 0 stork 0 001 @ 00000000 n 0000 | large long-necked wading bird of marshes; a \"quote\"  \n",
        "06 n 01 crane 1 000 | lifts and moves heavy objects; a machine for building  \n",
    ]  # fmt: skip
    parent = "00000000 03 n 01 animal 0 000 | a living thing  \n"
    second = len(parent)
    third = second + len(f"{second:08d} {lines[0]}")
    (tmp_path / "dict").mkdir()
    data = parent + f"{second:08d} {lines[0]}" + f"{third:08d} {lines[1]}"
    (tmp_path / "dict" / "data.noun").write_text(data)
    (tmp_path / "dict" / "index.noun").write_text(f"  1 licence\ncrane n 2 1 @ 2 0 {second:08d} {third:08d}  \n")
    net = WordNet(tmp_path)
    bird = net.find("crane", ["bird", "animal", "wading"])
    assert bird.synonyms == ("crane", "stork") and bird.wider == ("animal",)
    assert bird.definition == ("large long-necked wading bird of marshes",)
    assert net.find("crane", ["machine", "building", "lifts"]).definition[1] == "a machine for building"
    assert net.find("crane", ["music"]) is None


def a_small_set():
    """What dataset.EmojiData holds, for three names, of which the second must not be mirrored."""
    from dataset import EmojiData, Pictures

    entries = [
        {
            "label": label,
            "names": [f"{label} too"],
            "keywords": ["red", "old"],
            "synonyms": [],
            "wider": [],
            "definition": [],
        }
        for label in ("apple", "left arrow", "bee")
    ]
    data = EmojiData.__new__(EmojiData)
    data.entries, data.labels = entries, [entry["label"] for entry in entries]
    data.train = Pictures(np.array([0, 1, 2, 4]), np.array([0, 0, 1, 2]))
    data.train_names, data.flippable = np.arange(3), np.array([True, False, True])
    data.monochrome = np.array([False, True, False, False, False])
    data.rgba = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 4), dtype=np.uint8)
    data.rgba[..., 3] |= 128
    data.rgba[..., :3] = np.minimum(data.rgba[..., :3], data.rgba[..., 3:])  # premultiplied
    data.white = np.random.default_rng(1).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    return data, Pictures(np.array([3, 1]), np.array([2, 0]))


def test_training_data_is_what_the_trainer_reads(tmp_path):
    from PIL import Image
    from training_data import CAPTIONS, write_split, write_training

    from triclip.data import open_source

    data, held_out = a_small_set()
    assert write_training(data, tmp_path) == 3
    samples = list(open_source(tmp_path / "train.jsonl"))
    shown = [[Path(image).name for image in sample.images] for sample in samples]
    assert sorted(shown[0]) == ["0-mirrored.png"] * 2 + ["0.png"] * 2 + ["1-mirrored.png", "1.png"]
    assert shown[1] == ["2.png"] * 4  # counts as much as a picture and its mirror image
    for sample, label in zip(samples, data.labels, strict=True):
        assert len(sample.captions) == CAPTIONS and sample.captions.count(label) >= CAPTIONS // 2
        assert len(set(sample.captions)) > 10
    plain, mirrored = (np.asarray(Image.open(tmp_path / f"pictures/train/0{end}.png")) for end in ("", "-mirrored"))
    assert plain.shape == (72, 72, 4) and np.array_equal(plain[:, ::-1], mirrored)
    assert not plain[:4].any() and plain[4:-4, 4:-4, 3].min() >= 128

    write_split(data, held_out, "vendor", tmp_path)
    split = open_source(tmp_path / "vendor.jsonl")
    assert [sample.captions for sample in split] == [["bee"], ["apple"]]
    assert np.array_equal(np.asarray(Image.open(split[0].images[0])), data.white[3])


def test_the_configuration_is_a_valid_one():
    pytest.importorskip("yaml", reason="the configuration is YAML")
    from bpe import CONTEXT
    from training_data import MERGES

    from triclip.train.load import load_config
    from triclip.train.start import prepare

    config = load_config(RECIPE / "train.yaml")
    text = prepare(config, 1714).model_config.text_config
    assert text.vocab_size == 512 + MERGES + 2 and text.max_position_embeddings == CONTEXT
    assert Path(config.data.train[0]) == RECIPE / "train.jsonl"


def test_export_gives_a_model_folder_and_leaves_other_files(tmp_path):
    import json
    import shutil

    from export import PROMPTS, export

    import clip_core
    from clip_core.checkpoint import load

    embedded = Path(clip_core.__file__).parent / "models" / "emoji"
    shutil.copytree(embedded, tmp_path / "run" / "model", ignore=shutil.ignore_patterns("pictures"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "CARD.md").write_text("stays")
    export(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "CARD.md").read_text() == "stays"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["prompt_templates"] == PROMPTS and config["torch_dtype"] == "float16"
    assert (tmp_path / "out" / "vocab.json").read_bytes().count(b"\n") == 0
    old, new = load(embedded).tensors, load(tmp_path / "out").tensors
    assert old.keys() == new.keys() and all(new[name].dtype == "float16" for name in new)
    assert all(np.array_equal(old[name].numpy(), new[name].numpy()) for name in old)
