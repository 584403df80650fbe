"""The TensorFlow losses against their definition in float64 (`conformance.losses_reference`), on one replica and
on all of a strategy; the same of code that is broken on purpose; and numbers that are hard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from clip_tf import loss
from conformance import losses_reference as reference

PAIRS, WIDTH, SCALE, BIAS = 24, 7, 2.0, -3.0  # six rows on each of four replicas
NAMES = ("value", "x", "y", "t", "b")


def unit_rows(seed: int, count: int = PAIRS, width: int = WIDTH) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def computed(
    strategy: tf.distribute.Strategy, x: Any, y: Any, t: float, b: float | None, **options: Any
) -> dict[str, np.ndarray]:
    """Value and gradients of `clip_tf.loss.contrastive_loss`, as a training step adds them up."""
    replicas = strategy.num_replicas_in_sync
    rows = len(x) // replicas
    wide = tf.float64 if x.dtype == np.float64 else tf.float32
    kind = "softmax" if b is None else "sigmoid"

    def one_replica(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, ...]:
        context = tf.distribute.get_replica_context()
        scale, bias = tf.constant(t, wide), tf.constant(b or 0.0, wide)
        with tf.GradientTape() as tape:
            tape.watch([x, y, scale, bias])
            share = loss.contrastive_loss(x, y, scale, None if b is None else bias, kind=kind, **options)
        dx, dy, dt, db = tape.gradient(share, [x, y, scale, bias], unconnected_gradients="zero")
        total, dt, db = context.all_reduce("SUM", [share, dt, db])
        return total[None], dx, dy, dt[None], db[None]

    def shared(array: Any) -> Any:
        def share(context: Any) -> tf.Tensor:
            return tf.constant(array[context.replica_id_in_sync_group * rows :][:rows])

        return strategy.experimental_distribute_values_from_function(share)

    step = tf.function(lambda x, y: strategy.run(one_replica, args=(x, y)), autograph=False)
    found = [
        np.concatenate([np.asarray(tf.cast(part, tf.float64)) for part in strategy.experimental_local_results(value)])
        for value in step(shared(x), shared(y))
    ]
    return dict(zip(NAMES, (found[0][0], found[1], found[2], found[3][0], found[4][0]), strict=True))


def defined(x: Any, y: Any, t: float, b: float | None, smoothing: float = 0.0) -> dict[str, np.ndarray]:
    """The same by the definition."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    found = reference.softmax(x, y, t, smoothing) if b is None else reference.sigmoid(x, y, t, b)
    return dict(zip(NAMES, map(np.asarray, found), strict=True))


def errors(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Greatest difference over greatest value; the difference itself of what is to be 0."""
    return {
        name: float(np.abs(found[name] - wanted[name]).max() / (np.abs(wanted[name]).max() or 1.0)) for name in wanted
    }


def every_mode(every: tf.distribute.Strategy, all_chunks: bool) -> dict[str, dict[str, float]]:
    """Every kind, mode, chunk and strategy. 4 does not divide the rows of a replica, 1024 is more than there are; all
    cases take minutes to trace, one chunk per mode shows the same mathematics."""
    x, y, table = unit_rows(0), unit_rows(1), {}
    for strategy in (tf.distribute.get_strategy(), every):
        replicas = strategy.num_replicas_in_sync
        modes = [("dense", 1024), ("chunked", 5 if replicas == 1 else 4), ("ring", 4 if replicas > 1 else 1024)]
        modes += [("chunked", 1024), ("ring", 1024)] if all_chunks else []
        for kind, b in (("softmax", None), ("sigmoid", BIAS)):
            for mode, chunk in modes:
                found = computed(strategy, x, y, SCALE, b, mode=mode, chunk=chunk)
                table[f"{kind} {mode} replicas {replicas} chunk {chunk}"] = errors(found, defined(x, y, SCALE, b))
        found = computed(strategy, x, y, SCALE, None, label_smoothing=0.1)
        wanted = defined(x, y, SCALE, None, 0.1)
        table[f"softmax dense replicas {replicas} label_smoothing 0.1"] = errors(found, wanted)
    return table


@contextmanager
def replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """`clip_tf.loss` with one function broken."""
    whole = getattr(loss, name)
    setattr(loss, name, function)
    try:
        yield
    finally:
        setattr(loss, name, whole)


def negative_controls(strategy: tf.distribute.Strategy) -> dict[str, dict[str, float]]:
    """The known ways to get this wrong, in the code itself. Each must show in some error."""
    x, y = unit_rows(0), unit_rows(1)
    wanted, table = defined(x, y, SCALE, None), {}
    gather, streamed = loss.gather, loss._streamed_softmax

    def each_its_own(x: tf.Tensor) -> tf.Tensor:
        """The gradient of other replicas' shares is lost."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = tf.range(strategy.num_replicas_in_sync * x.shape[0]) // x.shape[0]
        whole = gather(x)
        return tf.where((rows == tf.cast(replica, tf.int32))[:, None], whole, tf.stop_gradient(whole))

    def over_world(*arguments: Any) -> tf.Tensor:
        return streamed(*arguments) / strategy.num_replicas_in_sync

    def times_world(*arguments: Any) -> tf.Tensor:
        return streamed(*arguments) * strategy.num_replicas_in_sync

    for title, mode, name, broken in (
        ("gather without a gradient", "dense", "gather", each_its_own),
        ("block without the others' gradient", "chunked", "_sum_over_replicas", lambda x: x),
        ("over the number of replicas", "chunked", "_streamed_softmax", over_world),
        ("times the number of replicas", "chunked", "_streamed_softmax", times_world),
    ):
        with replaced(name, broken):
            table[title] = errors(computed(strategy, x, y, SCALE, None, mode=mode, chunk=4), wanted)
    return table


def hard_numbers() -> dict[str, dict[str, float]]:
    """Scale 100, a third of the pairs there twice, chunks that don't divide; float32, and bfloat16 rows. The definition
    takes the same rounded rows."""
    strategy, table = tf.distribute.get_strategy(), {}
    x = unit_rows(2, PAIRS, 64)
    y = x + 0.25 * np.random.default_rng(3).normal(size=x.shape)  # harder than any trained model's pairs
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    x[16:], y[16:] = x[:8], y[:8]
    for dtype in (tf.float32, tf.bfloat16):
        rows = [tf.cast(side, dtype).numpy() for side in (x, y)]
        for kind, b in (("softmax", None), ("sigmoid", -10.0)):
            wanted = defined(*rows, np.log(100.0), b)
            for mode in ("dense", "chunked"):
                found = computed(strategy, *rows, np.log(100.0), b, mode=mode, chunk=5)
                table[f"{kind} {mode} {dtype.name}"] = errors(found, wanted)
    return table


def anchors() -> dict[str, float]:
    """`anchor_loss` for both sides, as the engine adds it."""
    x, y, table = (tf.constant(rows) for rows in (unit_rows(0), unit_rows(1), unit_rows(4, 20) * 0.3))
    sample = np.random.default_rng(5).integers(0, 20, PAIRS).astype(np.int32)
    with tf.GradientTape() as tape:
        tape.watch([x, y, table])
        unit = tf.math.l2_normalize(table, axis=-1, epsilon=0.0)
        share = loss.anchor_loss(x, unit, sample, 16.0, 0.1) + 0.5 * loss.anchor_loss(y, unit, sample, 16.0, 0.1)
    found = [share, *tape.gradient(share, [x, y, table])]
    wanted = reference.anchored(*(part.numpy() for part in (x, y, table)), sample, 16.0, 1.0, 0.5, 0.1)
    names = ("value", "x", "y", "anchors")
    return errors(
        dict(zip(names, map(np.asarray, found), strict=True)), dict(zip(names, map(np.asarray, wanted), strict=True))
    )
