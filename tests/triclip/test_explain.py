"""Rollout and relevance against token-by-token computations from the papers."""

import numpy as np
import pytest

from clip_core.errors import InputError
from triclip.explain import relevance, rollout


def random_attentions(layers=3, heads=2, tokens=5, seed=0):
    raw = np.random.default_rng(seed).random((layers, heads, tokens, tokens)).astype(np.float32)
    return raw / raw.sum(-1, keepdims=True)


def test_rollout_is_the_sum_over_all_paths():
    """The share that flows from one token to another: every path through the layers, each step half attention (mean
    over heads) and half staying where it is."""
    attentions = random_attentions()
    layers, heads, tokens, _ = attentions.shape

    def step(layer, to, start):
        attended = sum(float(attentions[layer, head, to, start]) for head in range(heads)) / heads
        return 0.5 * attended + 0.5 * (to == start)

    wanted = np.zeros((tokens, tokens))
    for end in range(tokens):
        for a in range(tokens):
            for b in range(tokens):
                for start in range(tokens):
                    wanted[end, start] += step(2, end, b) * step(1, b, a) * step(0, a, start)
    found = rollout(attentions)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_rollout_of_two_tokens_by_hand():
    attentions = np.array([[[[1, 0], [0.5, 0.5]]], [[[0, 1], [0, 1]]]], np.float32)
    # Layer by layer, half residual: [[1, 0], [.25, .75]], then [[.5, .5], [0, 1]].
    np.testing.assert_allclose(rollout(attentions), [[0.625, 0.375], [0.25, 0.75]])


def test_relevance_is_the_papers_update_rule():
    attentions, gradients = random_attentions(), np.random.default_rng(1).normal(size=(3, 2, 5, 5)).astype(np.float32)
    wanted = np.eye(5)
    for layer in range(3):
        mean = np.zeros((5, 5))
        for head in range(2):
            for i in range(5):
                for j in range(5):
                    mean[i, j] += max(0.0, float(gradients[layer, head, i, j] * attentions[layer, head, i, j])) / 2
        wanted = wanted + mean @ wanted
    found = relevance(attentions, gradients)
    np.testing.assert_allclose(found, wanted - np.eye(5), atol=1e-6)
    assert (found >= 0).all()


def test_relevance_follows_positive_gradients_alone():
    """Token 0 looks at 1 (which speaks for the score) and at 2 (which speaks against it); 1 had looked at 3."""
    attentions, gradients = np.full((2, 1, 4, 4), 0.25, np.float32), np.zeros((2, 1, 4, 4), np.float32)
    gradients[1, 0, 0, 1], gradients[1, 0, 0, 2], gradients[0, 0, 1, 3] = 4, -4, 2
    np.testing.assert_allclose(relevance(attentions, gradients)[0], [0, 1, 0, 0.5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rollout(np.ones((2, 3, 3))), "attentions: wanted floats"),
        (lambda: rollout(np.ones((1, 1, 2, 3))), "attentions: wanted floats"),
        (lambda: rollout(np.ones((0, 1, 2, 2))), "attentions: wanted floats"),
        (lambda: relevance(np.ones((1, 1, 2, 2)), np.ones((2, 1, 2, 2))), "gradients: wanted the attentions' shape"),
        (lambda: relevance(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2), int)), "gradients: wanted floats"),
    ],
)
def test_bad_arrays(call, words):
    with pytest.raises(InputError, match=words):
        call()
