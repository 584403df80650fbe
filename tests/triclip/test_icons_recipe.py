"""The icons recipe's own parts: vocabulary, names, splits, captions' meanings, recall, training data, export."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from clip_core import CLIPConfig, CLIPTokenizer, CLIPTokenizerFast

RECIPE = Path(__file__).parents[2] / "examples" / "icons"


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
    from retrieval import Gallery, chance, recall, word_scores

    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]])
    found = recall(scores, np.array([0, 0, 2]))
    assert found["R@1"] == pytest.approx(1 / 3) and found["R@5"] == 1.0
    assert chance(200) == {"R@1": 0.005, "R@5": 0.025, "R@10": 0.05}
    pictures = np.array([[0, 0], [100, 100], [255, 255]], np.uint8)
    nearest, scores = Gallery(pictures, ["a", "b", "a"]).search(np.array([[90, 90]], np.uint8), ["a", "b", "c"])
    assert nearest == ["b"] and scores.argmax() == 1 and scores[0, 2] == -np.inf
    assert scores[0, 0] == pytest.approx(-2 * (90 / 255) ** 2, rel=1e-5)
    words = word_scores(["red cars", "tree"], ["a car", "the red car", "bee"])
    assert words[0].tolist() == [0.5, 1.0, 0.0] and not words[1].any()


def test_concepts_join_the_variants_of_one_emoji():
    from emoji import concept
    from vendors import normal_code

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


def test_vocabulary_is_learnt_as_by_counting_anew():
    """The queue of counts gives what looking at all pairs before each merge gives."""
    import bpe

    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice(list("abcd"), rng.integers(1, 7))) for _ in range(8)) for _ in range(40)]
    words = {}
    for word in " ".join(texts).split():
        words[word] = words.get(word, 0) + 1
    splits, wanted = {word: bpe.split_word(word) for word in words}, []
    for _ in range(60):
        pairs = {}
        for word, parts in splits.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] = pairs.get(pair, 0) + words[word]
        wanted.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        splits = {word: bpe.merge(parts, wanted[-1]) for word, parts in splits.items()}
    assert bpe.learn(texts, 60) == wanted


@pytest.mark.parametrize(
    "icon, suffixes, prefixes, name",
    [
        ("user-add-line", ["line", "fill"], [], ("user add", "line")),
        ("access-time-20-filled", ["20-filled", "20-regular"], [], ("access time", "20-filled")),
        ("baseline-home", [], ["baseline"], ("home", "baseline")),
        ("arrow3", [], [], ("arrow", "3")),
        ("Battery_90", [], [], ("battery", "90")),
        ("outline", ["outline"], [], ("outline", "")),
        ("9-k", [], [], ("9 k", "")),
    ],
)
def test_names_of_icons_without_what_says_their_style(icon, suffixes, prefixes, name):
    from iconify import name_words

    assert name_words(icon, suffixes, prefixes) == name


def test_brands_and_sizes_and_repeats_are_left_out(tmp_path):
    from iconify import PICTURES, Icon, is_brand, one_size, worth_drawing

    assert is_brand("brand github", set()) and is_brand("github circle", {"github"}) and not is_brand("apple", set())
    sizes = ["add-16-filled", "add-24-filled", "add-48-filled", "add-20-regular", "bee"]
    assert one_size(sizes) == ["add-24-filled", "add-20-regular", "bee"]
    icons = [Icon(f"set {number}", "x", "red car", "") for number in range(40)]
    icons += [Icon("a", "y", "odd thing", ""), Icon("game-icons", "z", "odd beast", ""), Icon("ph", "q", "qqq", "")]
    kept = worth_drawing(icons, {"red", "car", "odd", "thing", "beast"})
    names = [icon.name for icon in kept]
    assert names.count("red car") == PICTURES and set(names) == {"red car", "odd beast", "qqq"}
    assert [icon.set for icon in worth_drawing(icons, {"red", "car"})] == [
        icon.set for icon in kept if icon.name != "odd beast"
    ]


def test_clip_art_says_its_title_and_keywords(tmp_path):
    from clipart import clean, drawings

    assert clean("Clipart by Nicu Buculei - big_tree.svg") == "big tree" and clean("Dog (2)") == "dog"
    folder = tmp_path / "usr/share/openclipart/svg/animals"
    folder.mkdir(parents=True)
    about = "<dc:title>Red &amp; Fox_01</dc:title><rdf:li>animal</rdf:li><rdf:li>Clip Art</rdf:li>"
    free = "web.resource.org/cc/PublicDomain"
    (folder / "fox.svg").write_text(f"<svg>{about}{free}</svg>")
    (folder / "other.svg").write_text(f"<svg>{about}</svg>")  # doesn't say that it is free
    found = list(drawings(tmp_path))
    assert [(each.id, each.title, each.keywords) for each in found] == [
        ("animals/fox.svg", "red fox", ["animal", "animals"])
    ]


def a_small_set(folder):
    """Three names of which one is an emoji's, with pictures as build_data.py leaves them."""
    import io

    from PIL import Image
    from splits import Data, Record

    data = Data.__new__(Data)
    rng, blob, places = np.random.default_rng(0), b"", []
    for _ in range(4):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8) | 128).save(out, "PNG")
        places.append((0, len(blob), len(blob) + len(out.getvalue())))
        blob += out.getvalue()
    (folder / "pictures.png").write_bytes(blob)
    data.places, data._files = places, [np.memmap(folder / "pictures.png", np.uint8, "r")]
    sets = [("emoji", "noto"), ("emoji", "emojione-monotone"), ("icon", "lucide"), ("clipart", "openclipart")]
    data.pictures = [{"kind": kind, "set": of, "name": "apple"} for kind, of in sets]
    entry = {"names": ["red fruit"], "synonyms": [], "keywords": ["red", "old"], "wider": [], "definition": ["a fruit"]}
    records = [Record("apple", [0, 1], {}, {}, entry), Record("left arrow", [2, 3], {"arrow": None}, {"move": None})]
    return data, records


class NoMeanings:
    def find(self, name, keywords=()):
        return None

    first = find


def test_training_data_is_what_the_trainer_reads(tmp_path):
    import io

    pytest.importorskip("array_record")
    from captions import words_of
    from PIL import Image
    from training_data import CAPTIONS, EMOJI_TIMES, write_split, write_training

    from triclip.data import open_source

    data, records = a_small_set(tmp_path)
    words = [words_of(record, NoMeanings()) for record in records]
    assert write_training(data, records, words, tmp_path) == EMOJI_TIMES + 1
    samples = list(open_source(tmp_path / "train.array_record"))
    assert [sample.captions[0] for sample in samples] == ["apple"] * EMOJI_TIMES + ["left arrow"]
    assert len(set(map(tuple, (sample.captions for sample in samples[:EMOJI_TIMES])))) == EMOJI_TIMES
    for sample in samples:
        assert len(sample.captions) == CAPTIONS and sample.captions.count(sample.captions[0]) >= CAPTIONS // 2
    pictures = [[np.asarray(Image.open(io.BytesIO(image))) for image in sample.images] for sample in samples]
    assert [len(shown) for shown in pictures] == [3] * EMOJI_TIMES + [3]
    plain, mirrored, monochrome = pictures[0]
    assert plain.shape == (72, 72, 4) and np.array_equal(plain[:, ::-1], mirrored)
    assert not np.array_equal(plain, monochrome) and not plain[:4].any() and plain[4:-4, 4:-4, 3].min() >= 128
    assert np.array_equal(pictures[-1][1], pictures[-1][2])  # an arrow to the left is never mirrored

    lines = write_split(data, "vendor", [3, 1], tmp_path)
    split = open_source(tmp_path / "vendor.jsonl")
    assert len(lines) == 2 and [sample.captions for sample in split] == [["apple"], ["apple"]]
    assert Image.open(split[0].images[0]).mode == "RGB"


def test_held_out_names_are_known_by_their_words():
    from splits import Data

    data = Data.__new__(Data)
    words = {"names": ["file"], "synonyms": ["red truck"]}
    data.emoji = {
        "1": {"held_out": True, "label": "fire engine", **words},
        "2": {"held_out": False, "label": "bee", **words},
    }
    for text in ("fire engine", "the engine of the fires", "red trucks", "file", "files"):
        assert data._is_held_out([text]), text
    for text in ("fire", "engine", "file plus", "truck", "bee", ""):
        assert not data._is_held_out([text]), text


def test_pictures_that_look_like_the_held_out_family_are_found(tmp_path):
    from splits import HELD_OUT_FAMILY, Data

    rng = np.random.default_rng(0)
    prints = rng.integers(0, 256, (4, 32, 32), dtype=np.uint8)
    prints[1] = prints[0] // 2 + 100  # the same drawing in other greys
    data = Data.__new__(Data)
    data.prints = prints
    data.pictures = [{"set": name} for name in (HELD_OUT_FAMILY, "a", "b", HELD_OUT_FAMILY)]
    data._alike_file = tmp_path / "alike.npy"
    for _ in range(2):  # computed, then read
        assert data._alike_family().tolist() == [False, True, False, False]


def test_pieces_are_the_likeliest_split(tmp_path):
    pytest.importorskip("torch")
    from teacher import Pieces

    reserved = [[f"<{number}>", 0] for number in range(6)]
    scores = {"\u2581a": -1.0, "\u2581": -3.0, "ab": -2.0, "b": -4.0, "a": -5.0, ":": None}
    (tmp_path / "vocab.json").write_text(json.dumps(reserved + [list(item) for item in scores.items()]))
    pieces = Pieces(tmp_path / "vocab.json")
    assert pieces.encode("ab") == [6, 9]  # "_", "ab" scores as much, and its last piece begins earlier
    assert pieces.encode("a b") == [6, 7, 9] and pieces.encode("a:") == [6, 0]


def test_the_configuration_is_a_valid_one():
    pytest.importorskip("yaml", reason="the configuration is YAML")
    from bpe import CONTEXT
    from training_data import MERGES

    from triclip.train.load import load_config

    config = load_config(RECIPE / "train.yaml")
    text = CLIPConfig.from_dict(json.loads((RECIPE / "model.json").read_text())).text_config
    assert text.vocab_size == 512 + MERGES + 2 and text.max_position_embeddings == CONTEXT
    assert Path(config.data.train[0]) == RECIPE / "train.array_record" and config.model.init == "start"


def test_export_gives_a_model_folder_and_leaves_other_files(tmp_path):
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
