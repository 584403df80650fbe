"""The Flax losses against their definition in float64 (`conformance.losses_reference`), on one and eight devices.

    python -m conformance.training.flax_loss

prints JSON: the relative errors of every kind, mode, mesh and chunk; those of deliberately broken code, which must be
large; errors at a scale of 100 with duplicate pairs and in bfloat16. The eight devices are simulated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clip_flax import loss
from conformance import losses_reference as reference
from triclip.train.config import MeshSection
from triclip.train.engines.flax_.sharding import make_mesh

PAIRS, WIDTH, SCALE, BIAS = 48, 7, 2.0, -3.0  # six rows on each of eight devices
NAMES = ("value", "x", "y", "t", "b")
# How far float64 may be from the definition: sums of 48 terms in another order.
TOLERANCE = 1e-12


def unit_rows(seed: int, count: int = PAIRS, width: int = WIDTH) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def computed(x: Any, y: Any, t: float, b: float | None, mesh: Mesh | None, **options: Any) -> dict[str, np.ndarray]:
    """Value and gradients of `clip_flax.loss.contrastive_loss`."""

    def value(x: Any, y: Any, t: Any, b: Any) -> jax.Array:
        kind = "softmax" if b is None else "sigmoid"
        return loss.contrastive_loss(x, y, t, b, kind=kind, mesh=mesh, **options)

    dtype = jnp.promote_types(x.dtype, jnp.float32)
    numbers = jnp.asarray(t, dtype), None if b is None else jnp.asarray(b, dtype)
    wanted = (0, 1, 2) if b is None else (0, 1, 2, 3)
    found, gradients = jax.jit(jax.value_and_grad(value, argnums=wanted))(x, y, *numbers)
    return dict(zip(NAMES, (np.asarray(leaf, np.float64) for leaf in (found, *gradients)), strict=False))


def defined(x: Any, y: Any, t: float, b: float | None, smoothing: float = 0.0) -> dict[str, np.ndarray]:
    """The same by the definition."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    found = reference.softmax(x, y, t, smoothing) if b is None else reference.sigmoid(x, y, t, b)
    return dict(zip(NAMES, map(np.asarray, found), strict=True))


def errors(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Greatest difference over greatest value, of everything that was computed."""
    return {name: float(np.abs(found[name] - wanted[name]).max() / np.abs(wanted[name]).max()) for name in found}


def meshes() -> dict[str, Mesh | None]:
    return {"1": None, "8x1x1": make_mesh(MeshSection()), "2x2x2": make_mesh(MeshSection(2, 2, 2))}


def every_mode() -> dict[str, dict[str, float]]:
    """Every kind, mode, mesh and chunk (4 does not divide the six rows of a device, 1024 is more than there are)."""
    x, y, table = unit_rows(0), unit_rows(1), {}
    for kind, b in (("softmax", None), ("sigmoid", BIAS)):
        for mode in ("dense", "chunked", "ring"):
            for name, mesh in meshes().items():
                for chunk in (4, 1024) if mode != "dense" else (0,):
                    found = computed(x, y, SCALE, b, mesh, mode=mode, chunk=chunk)
                    table[f"{kind} {mode} mesh {name} chunk {chunk}"] = errors(found, defined(x, y, SCALE, b))
    for name, mesh in meshes().items():
        found = computed(x, y, SCALE, None, mesh, mode="dense", label_smoothing=0.1)
        table[f"softmax dense mesh {name} label_smoothing 0.1"] = errors(found, defined(x, y, SCALE, None, 0.1))
    return table


@contextmanager
def replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """`clip_flax.loss` with one function broken."""
    whole = getattr(loss, name)
    setattr(loss, name, function)
    try:
        yield
    finally:
        setattr(loss, name, whole)


def negative_controls() -> dict[str, dict[str, float]]:
    """The known ways to get this wrong, in the code itself. Each must show in some error."""
    x, y, mesh = unit_rows(0), unit_rows(1), make_mesh(MeshSection())
    wanted, table = defined(x, y, SCALE, None), {}

    def no_gather_gradient(stream: Any, dy: jax.Array) -> jax.Array:
        own = dy.shape[0] // stream.size
        return jax.lax.dynamic_slice_in_dim(dy, jax.lax.axis_index(stream.axes) * own, own)

    whole_chain = loss._chain

    def over_world(stream: Any, *values: Any) -> Any:
        return whole_chain(stream, *values[:-1], values[-1] / stream.size)

    def times_k(stream: Any, *values: Any) -> Any:
        dx, dy, dscale = whole_chain(stream, *values)
        return dx, dy, 4 * dscale

    for title, name, broken in (
        ("gather without a gradient", "_home", no_gather_gradient),
        ("gradients over the world size", "_chain", over_world),
        ("scale gradient times the parts", "_chain", times_k),
    ):
        with replaced(name, broken):
            table[title] = errors(computed(x, y, SCALE, None, mesh, mode="chunked", chunk=4), wanted)
    return table


def hard_numbers() -> dict[str, dict[str, float]]:
    """Scale 100, a third of the pairs there twice, chunks that don't divide; float32, and bfloat16 rows. The definition
    takes the same rounded rows."""
    table = {}
    x = unit_rows(2, PAIRS, 64)
    y = x + 0.25 * np.random.default_rng(3).normal(size=x.shape)  # harder than any trained model's pairs
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    x[32:], y[32:] = x[:16], y[:16]
    for dtype in (jnp.float32, jnp.bfloat16):
        rows = [np.asarray(jnp.asarray(side, dtype)) for side in (x, y)]
        for kind, b in (("softmax", None), ("sigmoid", -10.0)):
            wanted = defined(*rows, np.log(100.0), b)
            for mode in ("dense", "chunked", "ring"):
                found = computed(*rows, np.log(100.0), b, make_mesh(MeshSection()), mode=mode, chunk=4)
                table[f"{kind} {mode} {jnp.dtype(dtype).name}"] = errors(found, wanted)
    return table


def anchors() -> dict[str, float]:
    """`anchor_loss` for both sides, as the engine adds it."""
    x, y, table = unit_rows(0), unit_rows(1), unit_rows(4, 20) * 0.3
    sample = np.random.default_rng(5).integers(0, 20, PAIRS)

    def value(x: Any, y: Any, table: Any) -> jax.Array:
        unit = table / jnp.linalg.norm(table, axis=1, keepdims=True)
        images = loss.anchor_loss(x, unit, sample, 16.0, 0.1)
        return images + 0.5 * loss.anchor_loss(y, unit, sample, 16.0, 0.1)

    found, gradients = jax.value_and_grad(value, argnums=(0, 1, 2))(x, y, table)
    wanted = reference.anchored(x, y, table, sample, 16.0, 1.0, 0.5, 0.1)
    names = ("value", "x", "y", "anchors")
    return errors(
        dict(zip(names, (np.asarray(leaf) for leaf in (found, *gradients)), strict=True)),
        dict(zip(names, map(np.asarray, wanted), strict=True)),
    )


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    hard = hard_numbers()  # before float64 is there
    with jax.enable_x64(True):
        results = {"modes": every_mode(), "controls": negative_controls(), "anchors": anchors()}
    print(json.dumps({"tolerance": TOLERANCE, **results, "hard": hard}))


if __name__ == "__main__":
    main()
