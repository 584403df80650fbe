"""The emoji recipe's own arithmetic: vocabulary, captions' meanings, recall, augmentation, batches."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from clip_core import CLIPTokenizer, CLIPTokenizerFast

RECIPE = Path(__file__).parents[2] / "examples" / "emoji"
torch = pytest.importorskip("torch", reason="the recipe trains with PyTorch")


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


def test_augmentation_draws_from_its_generator_alone_and_stays_in_range():
    from augment import MEAN, STD, augment

    rgba = torch.zeros(8, 4, 64, 64, dtype=torch.uint8)
    rgba[:, :, 16:48, 16:48] = 255
    flip = torch.ones(8, dtype=torch.bool)
    first = augment(rgba, flip, 48, torch.Generator().manual_seed(3))
    again = augment(rgba, flip, 48, torch.Generator().manual_seed(3))
    other = augment(rgba, flip, 48, torch.Generator().manual_seed(4))
    assert first.shape == (8, 3, 48, 48) and torch.equal(first, again) and not torch.equal(first, other)
    rgb = first * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert rgb.min() > -0.3 and rgb.max() < 1.3


def test_batches_take_each_name_once_and_two_different_pictures():
    from types import SimpleNamespace

    from dataset import Batches, Pictures

    names = np.repeat(np.arange(10), 3)
    data = SimpleNamespace(
        train=Pictures(np.arange(30), names), train_names=np.arange(10), monochrome=np.zeros(30, bool)
    )
    batches = Batches(data, 5, random.Random(0))
    seen = []
    for _ in range(2):
        drawn, rows = batches.next()
        assert len(set(drawn)) == 5 and len(rows) == 10
        for first, second, name in zip(rows[:5], rows[5:], drawn, strict=True):
            assert names[first] == names[second] == name and first != second
        seen += drawn
    assert sorted(seen) == list(range(10))
