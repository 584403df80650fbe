"""The losses and their gradients in float64, as closed forms over the whole matrix of pairs.

The definition of the mathematics: every backend's losses, dense, chunked and ring, are tested against it. x are the
pictures' and y the texts' rows, [N, P] of unit length, with pair i in row i of both; t is the logarithm of the scale,
s = e^t; b the sigmoid's bias. Gradients are with respect to x and y themselves, as independent variables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Loss(NamedTuple):
    """A loss and its gradients with respect to x [N, P], y [N, P], t and b (0 if the loss has none)."""

    value: float
    dx: Array
    dy: Array
    dt: float
    db: float


class AnchorLoss(NamedTuple):
    """The anchors' loss and its gradients with respect to x [N, P], y [N, P] and the anchors' table [M, P]."""

    value: float
    dx: Array
    dy: Array
    danchors: Array


def softmax(x: Array, y: Array, t: float, smoothing: float = 0.0) -> Loss:
    """CLIP's loss: the mean of the cross-entropies of rows and of columns of L = s x y^T, true class i of row i.

    `smoothing` e: the wanted distribution is (1 - e) on the pair plus e / N on every column (row).
    """
    x, y = _float64(x), _float64(y)
    count = len(x)
    logits = np.exp(t) * x @ y.T
    wanted = (1 - smoothing) * np.eye(count) + smoothing / count
    rows, columns = _log_softmax(logits, 1), _log_softmax(logits, 0)
    value = -(wanted * (rows + columns)).sum() / (2 * count)
    by_logits = (np.exp(rows) + np.exp(columns) - 2 * wanted) / (2 * count)
    return _through_pairs(value, by_logits, x, y, t, 0.0)


def sigmoid(x: Array, y: Array, t: float, b: float) -> Loss:
    """SigLIP's loss: -log sigma(z_ij L_ij) summed over all i, j, over N; L = s x y^T + b; z is 1 on pairs, else -1."""
    x, y = _float64(x), _float64(y)
    count = len(x)
    signs = 2 * np.eye(count) - 1
    signed = signs * (np.exp(t) * x @ y.T + b)
    value = np.logaddexp(0, -signed).sum() / count
    by_logits = -signs * np.exp(-np.logaddexp(0, signed)) / count
    return _through_pairs(value, by_logits, x, y, t, float(by_logits.sum()))


def anchored(
    x: Array,
    y: Array,
    table: Array,
    sample: Array,
    scale: float,
    image_weight: float,
    text_weight: float,
    smoothing: float = 0.0,
) -> AnchorLoss:
    """The anchors' loss: image_weight * CE(scale x a^T) + text_weight * CE(scale y a^T), means over N.

    a are the table's rows [M, P] at unit length (the table itself need not be), the true class of row i is
    `sample[i]`; pairs of one sample share it. `smoothing` as for `softmax`, over the M anchors.
    """
    x, y, table = _float64(x), _float64(y), _float64(table)
    length = np.linalg.norm(table, axis=1, keepdims=True)
    anchors = table / length
    wanted = np.full((len(x), len(table)), smoothing / len(table))
    wanted[np.arange(len(x)), sample] += 1 - smoothing
    value, by_rows, by_anchors = 0.0, [], np.zeros_like(anchors)
    for rows, weight in ((x, image_weight), (y, text_weight)):
        logs = _log_softmax(scale * rows @ anchors.T, 1)
        value -= weight * (wanted * logs).sum() / len(rows)
        by_logits = weight * (np.exp(logs) - wanted) / len(rows)
        by_rows.append(scale * by_logits @ anchors)
        by_anchors += scale * by_logits.T @ rows
    by_table = (by_anchors - anchors * (anchors * by_anchors).sum(1, keepdims=True)) / length
    return AnchorLoss(float(value), by_rows[0], by_rows[1], by_table)


def _through_pairs(value: float, by_logits: Array, x: Array, y: Array, t: float, db: float) -> Loss:
    """Gradients through L = s x y^T + b, given those with respect to L."""
    scale = np.exp(t)
    dx, dy = scale * by_logits @ y, scale * by_logits.T @ x
    return Loss(float(value), dx, dy, float((x * dx).sum()), db)


def _log_softmax(logits: Array, axis: int) -> Array:
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _float64(array: Array) -> Array:
    return np.asarray(array, np.float64)
