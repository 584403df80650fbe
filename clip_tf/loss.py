"""The contrastive losses over all replicas. `conformance.losses_reference` defines the mathematics.

n rows of this replica, N of all, m of a block of texts, P projection, s = exp(logit_scale), L = s image text^T + bias.

Every function returns this replica's *share*: the shares sum to the mean loss over the global batch, and so do the
gradients of the parameters, summed over the replicas. Nothing is divided by the number of replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from .layers import at_least_float32


def contrastive_loss(
    images: tf.Tensor,
    texts: tf.Tensor,
    logit_scale: tf.Tensor,
    logit_bias: tf.Tensor | None = None,
    *,
    kind: str = "softmax",
    mode: str = "dense",
    chunk: int = 1024,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """This replica's share of the loss, a scalar, float32 at least. Called in a replica context.

    Args:
        images, texts: unit rows [n, P] of this replica, pair i in row i; n is equal in all replicas.
        logit_scale: the logarithm of the scale, a scalar. logit_bias: a scalar, for "sigmoid".
        kind: "softmax" (the mean of both directions' cross entropies) or "sigmoid" (per pair, divided by N).
        mode: "dense" keeps a matrix [n, N]. "chunked" keeps tiles of `chunk` rows [chunk, N], recomputed for the
            gradient. "ring" is chunked with the texts of one replica at a time, tiles [chunk, n]: tf.distribute has no
            point-to-point exchange, so each replica's block is broadcast (as a sum with zeros).
        label_smoothing: dense softmax only; the share of the target that is spread over all N.
    """
    image, text = at_least_float32(images), at_least_float32(texts)
    logit_scale = tf.cast(tf.convert_to_tensor(logit_scale), image.dtype)
    if kind == "sigmoid":
        logit_bias = tf.cast(tf.convert_to_tensor(logit_bias), image.dtype)
        if mode == "dense":
            return _dense_sigmoid(image, text, logit_scale, logit_bias)
        return _streamed_sigmoid(image, text, logit_scale, logit_bias, chunk, mode == "ring")
    if mode == "dense":
        return _dense_softmax(image, text, logit_scale, label_smoothing)
    return _streamed_softmax(image, text, logit_scale, chunk, mode == "ring")


def anchor_loss(
    rows: tf.Tensor, anchors: tf.Tensor, sample: tf.Tensor, scale: float, label_smoothing: float = 0.0
) -> tf.Tensor:
    """This replica's share of the mean cross entropy of unit rows [n, P] against unit anchors [samples, P].

    sample: int [n], the anchor of each row's own.
    """
    rows = at_least_float32(rows)
    logits = scale * tf.matmul(rows, tf.cast(anchors, rows.dtype), transpose_b=True)  # [n, samples]
    losses = _cross_entropy(logits, sample, label_smoothing)
    return tf.reduce_sum(losses) / tf.cast(_replicas() * tf.shape(rows)[0], rows.dtype)


# -- dense ------------------------------------------------------------------------------------------------------------


def _dense_softmax(image: tf.Tensor, text: tf.Tensor, logit_scale: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    scale, target = tf.exp(logit_scale), _first_row(image) + tf.range(tf.shape(image)[0])
    per_image = tf.matmul(scale * image, gather(text), transpose_b=True)  # [n, N]
    per_text = tf.matmul(scale * text, gather(image), transpose_b=True) if _replicas() > 1 else tf.transpose(per_image)
    losses = [_cross_entropy(logits, target, label_smoothing) for logits in (per_image, per_text)]
    return tf.add_n([tf.reduce_sum(loss) for loss in losses]) / tf.cast(2 * tf.shape(per_image)[1], image.dtype)


def _cross_entropy(logits: tf.Tensor, target: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    """[n, classes], [n] -> [n]."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    if label_smoothing:
        uniform = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    return losses


def _dense_sigmoid(image: tf.Tensor, text: tf.Tensor, logit_scale: tf.Tensor, logit_bias: tf.Tensor) -> tf.Tensor:
    logits = tf.matmul(tf.exp(logit_scale) * image, gather(text), transpose_b=True) + logit_bias  # [n, N]
    sign = 2 * tf.one_hot(_first_row(image) + tf.range(tf.shape(image)[0]), tf.shape(logits)[1], dtype=image.dtype) - 1
    return tf.reduce_sum(tf.nn.softplus(-sign * logits)) / tf.cast(tf.shape(logits)[1], image.dtype)


# -- streamed ---------------------------------------------------------------------------------------------------------


class Tiles(NamedTuple):
    """Rows in tiles of equal height, because compilers need one shape; `valid` marks rows that are not padding."""

    rows: tf.Tensor  # [tiles, height, P]
    valid: tf.Tensor  # [tiles, height, 1], bool
    numbers: tf.Tensor  # [tiles, height], the rows' numbers in this replica

    @property
    def count(self) -> Any:
        return self.rows.shape[0] or tf.shape(self.rows)[0]

    def flat(self, values: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """[tiles, height, ...] -> [length, ...]"""
        return tf.reshape(values, (-1, *values.shape[2:]))[:length]


def _tiles(x: tf.Tensor, chunk: int) -> Tiles:
    length = x.shape[0] or tf.shape(x)[0]
    height = tf.minimum(chunk, length) if tf.is_tensor(length) else min(chunk, length)
    count = -(-length // height)
    rows = tf.reshape(tf.pad(x, [[0, count * height - length], [0, 0]]), (count, height, x.shape[1]))
    numbers = tf.reshape(tf.range(count * height), (count, height))
    return Tiles(rows, (numbers < length)[..., None], numbers)


def _streamed_softmax(image: tf.Tensor, text: tf.Tensor, logit_scale: tf.Tensor, chunk: int, ring: bool) -> tf.Tensor:
    @tf.custom_gradient
    def loss(image: tf.Tensor, text: tf.Tensor, logit_scale: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        scale, tiles, length = tf.exp(logit_scale), _tiles(image, chunk), tf.shape(image)[0]
        count = tf.cast(2 * _replicas() * length, image.dtype)
        row_max = tf.fill(tf.shape(tiles.numbers), tf.constant(float("-inf"), image.dtype))
        row_sum = tf.zeros_like(row_max)
        columns = []  # for each block, (max, sum) over the images of all replicas
        for block_after in _blocks(text, ring):
            block = block_after(row_sum)
            row_max, row_sum, column_max, column_sum = _sweep(tiles, scale, block.texts, row_max, row_sum)
            columns.append(_over_replicas(column_max, column_sum))
        row_top, row_total = tiles.flat(row_max, length), tiles.flat(row_sum, length)
        top, total = (
            tf.concat(of_blocks, axis=0)[_first_row(text) :][:length] for of_blocks in zip(*columns, strict=True)
        )
        diagonal = scale * tf.reduce_sum(image * text, axis=1)
        value = tf.reduce_sum((row_top - diagonal) + (top - diagonal) + tf.math.log(row_total * total))

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            def weights(logits: tf.Tensor, a: tf.Tensor, first: tf.Tensor, k: int) -> tf.Tensor:
                # The -2 is added here, because a good pair's remainder is small and would be lost in a later
                # difference. (max, sum) stay separate: their log-sum-exp is rounded like a logit, 1e-5 at scale 100.
                top, total = columns[k]
                of_row = tf.exp(logits - row_max[a][:, None]) / row_sum[a][:, None]
                match = _matches(tiles.numbers[a], first, tf.shape(logits)[1], logits.dtype)
                return of_row + tf.exp(logits - top[None]) / total[None] - 2 * match

            d_image, d_text, _ = _backward(image, text, tiles, scale, ring, weights)
            step = upstream / count * scale
            return step * d_image, step * d_text, step * tf.reduce_sum(image * d_image)

        return value / count, gradient

    return loss(image, text, logit_scale)


def _sweep(tiles: Tiles, scale: tf.Tensor, texts: tf.Tensor, row_max: tf.Tensor, row_sum: tf.Tensor) -> tuple:
    """Images against a block of texts [m, P]: the rows' updated (max, sum), and the columns' [m]."""
    dtype, width = texts.dtype, tf.shape(texts)[:1]
    columns = tf.fill(width, tf.constant(float("-inf"), dtype)), tf.zeros(width, dtype)

    def body(a: tf.Tensor, new_max: Any, new_sum: Any, column_max: tf.Tensor, column_sum: tf.Tensor) -> tuple:
        logits = tf.matmul(scale * tiles.rows[a], texts, transpose_b=True)  # [height, m]
        top = tf.maximum(row_max[a], tf.reduce_max(logits, axis=1))
        kept = row_sum[a] * tf.exp(row_max[a] - top)
        new_max = new_max.write(a, top)
        new_sum = new_sum.write(a, kept + tf.reduce_sum(tf.exp(logits - top[:, None]), axis=1))
        logits = tf.where(tiles.valid[a], logits, tf.constant(float("-inf"), dtype))
        top = tf.maximum(column_max, tf.reduce_max(logits, axis=0))
        kept = column_sum * tf.exp(column_max - top)
        return a + 1, new_max, new_sum, top, kept + tf.reduce_sum(tf.exp(logits - top[None]), axis=0)

    state = tf.constant(0), _array(tiles, dtype, row_max.shape[1:]), _array(tiles, dtype, row_max.shape[1:]), *columns
    _, new_max, new_sum, *columns = tf.while_loop(lambda a, *_: a < tiles.count, body, state, parallel_iterations=1)
    return _stack(new_max, row_max), _stack(new_sum, row_sum), *columns


def _streamed_sigmoid(
    image: tf.Tensor, text: tf.Tensor, logit_scale: tf.Tensor, logit_bias: tf.Tensor, chunk: int, ring: bool
) -> tf.Tensor:
    @tf.custom_gradient
    def loss(
        image: tf.Tensor, text: tf.Tensor, logit_scale: tf.Tensor, logit_bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., Any]]:
        scale, tiles = tf.exp(logit_scale), _tiles(image, chunk)
        total = tf.cast(_replicas() * tf.shape(image)[0], image.dtype)

        def signed(logits: tf.Tensor, a: tf.Tensor, first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            sign = 2 * _matches(tiles.numbers[a], first, tf.shape(logits)[1], logits.dtype) - 1
            return sign, -sign * (logits + logit_bias)

        value = tf.zeros((), image.dtype)
        for block_after in _blocks(text, ring):
            block = block_after(value)

            def body(a: tf.Tensor, total: tf.Tensor, block: Block = block) -> tuple[tf.Tensor, tf.Tensor]:
                logits = tf.matmul(scale * tiles.rows[a], block.texts, transpose_b=True)
                losses = tf.nn.softplus(signed(logits, a, block.first)[1])
                return a + 1, total + tf.reduce_sum(tf.where(tiles.valid[a], losses, 0))

            state = tf.constant(0), value
            _, value = tf.while_loop(lambda a, _: a < tiles.count, body, state, parallel_iterations=1)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def weights(logits: tf.Tensor, a: tf.Tensor, first: tf.Tensor, k: int) -> tf.Tensor:
                sign, negated = signed(logits, a, first)
                return -sign * tf.sigmoid(negated)

            d_image, d_text, d_bias = _backward(image, text, tiles, scale, ring, weights)
            step = upstream / total
            d_scale = step * scale * tf.reduce_sum(image * d_image)
            return step * scale * d_image, step * scale * d_text, d_scale, step * d_bias

        return value / total, gradient

    return loss(image, text, logit_scale, logit_bias)


def _backward(
    image: tf.Tensor, text: tf.Tensor, tiles: Tiles, scale: tf.Tensor, ring: bool, weights: Callable[..., tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(G text [n, P], G^T image [n, P] over all replicas' images, this replica's sum of G). `weights`: function of
    (logits [height, m], tile, first text's number, block) to G's tiles."""
    d_rows, d_text = tf.zeros_like(tiles.rows), tf.zeros_like(text)
    total = tf.zeros((), image.dtype)
    for k, block_after in enumerate(_blocks(text, ring)):
        block = block_after(d_rows)

        def body(
            a: tf.Tensor, new: Any, d_block: tf.Tensor, total: tf.Tensor, k: int = k, block: Block = block
        ) -> tuple:
            logits = tf.matmul(scale * tiles.rows[a], block.texts, transpose_b=True)  # [height, m]
            g = tf.where(tiles.valid[a], weights(logits, a, block.first, k), 0)
            new = new.write(a, tf.matmul(g, block.texts))
            return a + 1, new, d_block + tf.matmul(g, tiles.rows[a], transpose_a=True), total + tf.reduce_sum(g)

        new = _array(tiles, image.dtype, tiles.rows.shape[1:])
        state = tf.constant(0), new, tf.zeros_like(block.texts), total
        _, new, d_block, total = tf.while_loop(lambda a, *_: a < tiles.count, body, state, parallel_iterations=1)
        d_rows = d_rows + _stack(new, tiles.rows)
        d_text = d_text + block.own(_sum_over_replicas(d_block), text)
    return tiles.flat(d_rows, tf.shape(image)[0]), d_text, total


def _array(tiles: Tiles, dtype: tf.DType, shape: tf.TensorShape) -> tf.TensorArray:
    return tf.TensorArray(dtype, tiles.count, element_shape=shape)


def _stack(array: tf.TensorArray, like: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(array.stack(), like.shape)


def _matches(rows: tf.Tensor, first: tf.Tensor, width: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """[height, width]: 1 at each row's pair; the columns' numbers begin `first` from this replica's first row."""
    return tf.cast(rows[:, None] == first + tf.range(width)[None], dtype)


# -- replicas ---------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Some replicas' texts.

    texts: [m, P]. first: the number of the first one, relative to this replica's first row.
    own: function from a tensor [m, ...] to the part of this replica's texts (zeros [n, ...] in a block without them).
    """

    texts: tf.Tensor
    first: tf.Tensor
    own: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _blocks(text: tf.Tensor, ring: bool) -> list[Callable[[tf.Tensor], Block]]:
    """All texts in one block, or in a ring one replica's after another's. Each is a function of a result to wait for,
    so that only one block exists at a time."""
    length, replica = tf.shape(text)[0], _replica()
    if _replicas() == 1:
        return [lambda _: Block(text, tf.constant(0), lambda x, _: x)]
    if not ring:
        return [lambda _: Block(gather(text), -replica * length, _own_rows)]

    def broadcast(k: int, after: tf.Tensor) -> Block:
        def mine(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
            return tf.where(tf.equal(replica, k), x, tf.zeros_like(like))

        with tf.control_dependencies([after]):
            texts = _sum_over_replicas(mine(text, text))
        return Block(texts, (k - replica) * length, mine)

    return [partial(broadcast, k) for k in range(_replicas())]


def _own_rows(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """This replica's rows, as many as `like` has, of all replicas' rows. (XLA needs the size apart from the start.)"""
    start = tf.stack([_first_row(like), *[0] * (x.shape.rank - 1)])
    return tf.slice(x, start, tf.concat([tf.shape(like)[:1], tf.shape(x)[1:]], axis=0))


def gather(x: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas, in their order. The gradient is summed over the replicas."""
    return tf.distribute.get_replica_context().all_gather(x, axis=0) if _replicas() > 1 else x


def _sum_over_replicas(x: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce("SUM", x) if _replicas() > 1 else x


def _over_replicas(top: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Combine (max, sum) over all replicas."""
    tops, totals = gather(top[None]), gather(total[None])  # [replicas, m]
    top = tf.reduce_max(tops, axis=0)
    return top, tf.reduce_sum(totals * tf.exp(tops - top), axis=0)


def _replicas() -> int:
    return tf.distribute.get_replica_context().num_replicas_in_sync


def _replica() -> tf.Tensor:
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)


def _first_row(x: tf.Tensor) -> tf.Tensor:
    return _replica() * tf.shape(x)[0]
