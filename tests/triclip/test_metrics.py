"""Retrieval and zero-shot metrics against an oracle that ranks the whole matrix, query by query."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_core import InputError
from triclip.metrics import accuracy, class_ranks, predicted_classes, retrieval, zero_shot


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def rank(scores, right):
    """The place, from 1, of the best right candidate; wrong ones as good stand before it."""
    best = max(scores[j] for j in right)
    return 1 + sum(1 for j, score in enumerate(scores) if j not in right and score >= best)


def oracle(images, texts, captions):
    """captions[m]: the text of row m; a picture is right for every text that reads like one of its own."""
    owner = [image for image, _ in captions]
    words = [text for _, text in captions]
    scores = (images.astype(np.float64) @ texts.astype(np.float64).T).astype(np.float32)
    own = {i: {words[m] for m in range(len(words)) if owner[m] == i} for i in range(len(images))}
    by_image = [rank(scores[i], {m for m, w in enumerate(words) if w in own[i]}) for i in range(len(images)) if own[i]]
    by_text = [rank(scores[:, m], {i for i in own if words[m] in own[i]}) for m in range(len(words))]
    return by_image, by_text


def expected(ranks):
    return {f"R@{k}": np.mean([r <= k for r in ranks]) for k in (1, 5, 10)} | {"MRR": np.mean([1 / r for r in ranks])}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**31), st.booleans())
def test_retrieval_equals_the_oracle(images, texts, block, seed, merged):
    rng = np.random.default_rng(seed)
    image_vectors = unit(rng.integers(-2, 3, (images, 3)) + 0.25)  # a coarse grid: many exact ties
    vocabulary = unit(rng.integers(-2, 3, (12, 3)) + 0.25)
    owner, words = rng.integers(0, images, texts), rng.integers(0, 12, texts)
    by_image, by_text = oracle(image_vectors, vocabulary[words], list(zip(owner, words, strict=True)))
    if merged:
        unique, number, counts = np.unique(words, return_inverse=True, return_counts=True)
        found = retrieval(image_vectors, vocabulary[unique], np.stack([owner, number], 1), counts, block=block)
    else:
        words = np.arange(texts)  # texts that are told apart although they may be equal vectors
        vectors = vocabulary[rng.integers(0, 12, texts)]
        by_image, by_text = oracle(image_vectors, vectors, list(zip(owner, words, strict=True)))
        found = retrieval(image_vectors, vectors, owner, block=block)
    assert found["image_to_text"] == pytest.approx(expected(by_image))
    assert found["text_to_image"] == pytest.approx(expected(by_text))
    assert found["images"] == images and found["texts"] == texts


def test_perfect_and_useless_vectors():
    eye = np.eye(12, dtype=np.float32)
    perfect = retrieval(eye, eye, np.arange(12))
    assert perfect["image_to_text"] == perfect["text_to_image"] == {"R@1": 1, "R@5": 1, "R@10": 1, "MRR": 1}
    same = np.ones((12, 4), np.float32) / 2
    useless = retrieval(same, same, np.arange(12))
    assert useless["image_to_text"] == {"R@1": 0, "R@5": 0, "R@10": 0, "MRR": pytest.approx(1 / 12)}


def test_fewer_than_ten_candidates_and_pictures_without_texts():
    images = np.eye(4, dtype=np.float32)
    found = retrieval(images, images[[2, 2]], [2, 2])  # two equal texts of one picture; three pictures have none
    assert found["image_to_text"]["R@1"] == found["text_to_image"]["R@1"] == 1 and found["images"] == 4
    found = retrieval(images, images[[1, 0]], [0, 1])
    assert found["image_to_text"] == {"R@1": 0, "R@5": 1, "R@10": 1, "MRR": 0.5}
    assert found["text_to_image"]["MRR"] == pytest.approx(1 / 4)  # the other three tie


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 8), st.integers(0, 2**31))
def test_zero_shot_equals_the_oracle(images, classes, block, seed):
    rng = np.random.default_rng(seed)
    vectors, head = unit(rng.integers(-2, 3, (images, 3)) + 0.25), unit(rng.integers(-2, 3, (classes, 3)) + 0.25).T
    labels = rng.integers(0, classes, images)
    scores = (vectors.astype(np.float64) @ head.astype(np.float64)).astype(np.float32)
    orders = [sorted(range(classes), key=lambda c: (-row[c], c)) for row in scores]
    ranks = [1 + order.index(label) for order, label in zip(orders, labels, strict=True)]
    assert class_ranks(vectors, head, labels, block=block).tolist() == ranks
    predicted = predicted_classes(vectors, head, labels, block=block)
    assert ((predicted == labels) == (np.array(ranks) == 1)).all()
    assert predicted.tolist() == [order[0] for order in orders]
    found = zero_shot(vectors, head, labels)
    hits = np.array(ranks) == 1
    assert found["top1"] == pytest.approx(hits.mean()) and found["top5"] == pytest.approx(np.mean(np.array(ranks) <= 5))
    assert found["mean_per_class"] == pytest.approx(np.mean([hits[labels == c].mean() for c in set(labels.tolist())]))


def test_one_class_and_rows_of_unequal_length():
    assert zero_shot(np.eye(3), np.ones((3, 1)), [0, 0, 0]) == {
        "top1": 1.0, "top5": 1.0, "mean_per_class": 1.0, "images": 3
    }  # fmt: skip
    found = accuracy(np.array([1, 1, 1, 2]), np.array([0, 0, 0, 7]))
    assert found["top1"] == 0.75 and found["mean_per_class"] == 0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.full((2, 3), np.nan), np.ones((2, 3)), [0, 1]), "image_vectors: wanted finite"),
        ((np.ones((2, 3)), np.ones((2, 4)), [0, 1]), "text_vectors: wanted width 3"),
        ((np.ones((2, 3)), np.ones((2, 3)), [0, 2]), "image_of_text: wanted numbers from 0 to 1"),
        ((np.ones((2, 3)), np.ones((2, 3)), [0]), "image_of_text: wanted 2 integers"),
        ((np.ones((2, 3)), np.ones((2, 3)), [[0, 0]]), "a picture for every text"),
        ((np.ones((0, 3)), np.ones((2, 3)), [0, 1]), "image_vectors: wanted rows"),
        ((np.ones((2, 3)), np.ones((2, 3)), [0, 1], [1, 0]), "text_counts"),
    ],
)
def test_what_cannot_be_ranked_is_refused(arguments, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        retrieval(*arguments)
