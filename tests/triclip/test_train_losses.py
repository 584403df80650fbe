"""The losses' definition: values against explicit sums, gradients against differences, in float64."""

import math

import numpy as np
import pytest

from conformance.losses_reference import anchored, sigmoid, softmax

STEP = 1e-6
CLOSE = 1e-8  # central differences at 1e-6 in float64


def rows(n, p, seed):
    x = np.random.default_rng(seed).normal(size=(n, p))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


X, Y, T, B = rows(7, 5, 0), rows(7, 5, 1), 1.3, -0.7


def slow_softmax(x, y, t, smoothing):
    n, total = len(x), 0.0
    logits = [[math.exp(t) * float(np.dot(x[i], y[j])) for j in range(n)] for i in range(n)]
    for i in range(n):
        row = math.log(sum(math.exp(logits[i][j]) for j in range(n)))
        column = math.log(sum(math.exp(logits[j][i]) for j in range(n)))
        for j in range(n):
            wanted = smoothing / n + (1 - smoothing if i == j else 0)
            total += wanted * (row - logits[i][j]) + wanted * (column - logits[j][i])
    return total / (2 * n)


def slow_sigmoid(x, y, t, b):
    n, total = len(x), 0.0
    for i in range(n):
        for j in range(n):
            z = 1 if i == j else -1
            total += math.log(1 + math.exp(-z * (math.exp(t) * float(np.dot(x[i], y[j])) + b)))
    return total / n


def slow_anchored(x, y, table, sample, scale, image_weight, text_weight, smoothing):
    a = [row / math.sqrt(sum(v * v for v in row)) for row in table]
    total = 0.0
    for vectors, weight in ((x, image_weight), (y, text_weight)):
        for i, row in enumerate(vectors):
            logits = [scale * float(np.dot(row, anchor)) for anchor in a]
            norm = math.log(sum(map(math.exp, logits)))
            for j, logit in enumerate(logits):
                wanted = smoothing / len(a) + (1 - smoothing if j == sample[i] else 0)
                total += weight * wanted * (norm - logit) / len(vectors)
    return total


def difference(function, value):
    """The gradient of a scalar function at an array or a number, by central differences."""
    value = np.array(value, np.float64)
    out = np.zeros_like(value)
    for place in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[place] += STEP
        down[place] -= STEP
        out[place] = (function(up) - function(down)) / (2 * STEP)
    return out


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax(smoothing):
    found = softmax(X, Y, T, smoothing)
    assert found.value == pytest.approx(slow_softmax(X, Y, T, smoothing), abs=1e-13)
    np.testing.assert_allclose(found.dx, difference(lambda x: softmax(x, Y, T, smoothing).value, X), atol=CLOSE)
    np.testing.assert_allclose(found.dy, difference(lambda y: softmax(X, y, T, smoothing).value, Y), atol=CLOSE)
    assert found.dt == pytest.approx(float(difference(lambda t: softmax(X, Y, t, smoothing).value, T)), abs=CLOSE)
    assert found.db == 0


def test_sigmoid():
    found = sigmoid(X, Y, T, B)
    assert found.value == pytest.approx(slow_sigmoid(X, Y, T, B), abs=1e-13)
    np.testing.assert_allclose(found.dx, difference(lambda x: sigmoid(x, Y, T, B).value, X), atol=CLOSE)
    np.testing.assert_allclose(found.dy, difference(lambda y: sigmoid(X, y, T, B).value, Y), atol=CLOSE)
    assert found.dt == pytest.approx(float(difference(lambda t: sigmoid(X, Y, t, B).value, T)), abs=CLOSE)
    assert found.db == pytest.approx(float(difference(lambda b: sigmoid(X, Y, T, b).value, B)), abs=CLOSE)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_anchors(smoothing):
    table = np.random.default_rng(2).normal(size=(4, 5)) * 3
    sample = np.array([0, 3, 1, 1, 2, 0, 3])
    rest = (sample, 6.0, 1.5, 0.5, smoothing)
    found = anchored(X, Y, table, *rest)
    assert found.value == pytest.approx(slow_anchored(X, Y, table, *rest), abs=1e-13)
    np.testing.assert_allclose(found.dx, difference(lambda x: anchored(x, Y, table, *rest).value, X), atol=CLOSE)
    np.testing.assert_allclose(found.dy, difference(lambda y: anchored(X, y, table, *rest).value, Y), atol=CLOSE)
    np.testing.assert_allclose(found.danchors, difference(lambda a: anchored(X, Y, a, *rest).value, table), atol=CLOSE)


def test_duplicate_pairs_at_the_largest_scale_stay_finite():
    x = np.concatenate([X, X])
    for found in (softmax(x, x, math.log(100)), sigmoid(x, x, math.log(100), -10.0)):
        assert all(np.isfinite(part).all() for part in found)
    assert softmax(x, x, math.log(100)).value == pytest.approx(math.log(2), abs=1e-6)


def test_one_pair():
    assert softmax(X[:1], Y[:1], T).value == 0
    assert not softmax(X[:1], Y[:1], T).dx.any()
