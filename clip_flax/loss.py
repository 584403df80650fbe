"""The contrastive losses: softmax (CLIP) and sigmoid (SigLIP), each dense, chunked and as a ring over devices.

N pairs, n of them on one device, m columns of a tile, d width; L [N, N] = scale * x @ y.T, row i an image.

    softmax  loss = (1/2N) sum_i (r_i + c_i - 2 L_ii), with r and c the log-sum-exp of L's rows and columns
             G    = (1/2N) (e^(L - r) + e^(L - c) - 2 delta)
    sigmoid  loss = -(1/N) sum_ij log sigmoid(z_ij (L_ij + bias)), z = 2 delta - 1
             G    = -(1/N) z sigmoid(-z (L + bias))
    both     dx = scale G y, dy = scale G^T x, dscale = sum_i x_i (G y)_i, dbias = sum_ij G_ij

The streamed modes keep only r and c (in two parts, see `LogSum`) and recompute each tile of L in the backward pass.
-2 delta is added inside the tile, where e^0 + e^0 - 2 cancels exactly; subtracted from dx it would cost a digit. Sums
are float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Tree = Any
# (x [k, d], y [m, d], delta [k, m], rows' tree, columns' tree) -> the two trees, with this tile's share in them
Tile = Callable[[jax.Array, jax.Array, jax.Array, Tree, Tree], tuple[Tree, Tree]]


class Stream(NamedTuple):
    """The order of tiles; static in every function below.

    mesh: rows are sharded over all its axes; None for one device. ring: columns are passed around; otherwise each
    device gathers all. chunk: rows per tile. precision: of the matrix products, as `jax.lax.Precision`.
    """

    mesh: Mesh | None
    ring: bool
    chunk: int
    precision: Any

    @property
    def axes(self) -> tuple[str, ...]:
        return () if self.mesh is None else self.mesh.axis_names

    @property
    def size(self) -> int:
        return 1 if self.mesh is None else self.mesh.size


def contrastive_loss(
    images: jax.Array,
    texts: jax.Array,
    logit_scale: jax.Array,
    logit_bias: jax.Array | None = None,
    *,
    kind: str = "softmax",
    mode: str = "dense",
    chunk: int = 1024,
    label_smoothing: float = 0.0,
    mesh: Mesh | None = None,
    precision: Any = lax.Precision.HIGHEST,
) -> jax.Array:
    """The mean contrastive loss of N pairs, a scalar. Differentiable in its first four arguments, the same as in the
    other backends' `contrastive_loss`.

    Args:
        images, texts: unit rows [N, d], float64, float32 or bfloat16; N divisible by the mesh's devices.
        logit_scale: the logarithm of the similarities' factor, a scalar.
        logit_bias: added to every logit, a scalar; only for "sigmoid".
        kind: "softmax" or "sigmoid".
        mode: "dense", "chunked" or "ring".
        chunk: rows per tile in the streamed modes; need not divide N.
        label_smoothing: softmax, dense only.
        mesh: the devices over which rows are sharded; None for one.
        precision: of the matrix products.
    """
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    scale = jnp.exp(jnp.asarray(logit_scale, dtype))
    bias = jnp.asarray(logit_bias, dtype) if kind == "sigmoid" else None
    if mode == "dense":
        return _dense(images, texts, scale, bias, label_smoothing, mesh, precision)
    stream = Stream(mesh, mode == "ring", chunk, precision)
    return _softmax(stream, images, texts, scale) if bias is None else _sigmoid(stream, images, texts, scale, bias)


def anchor_loss(
    rows: jax.Array,
    anchors: jax.Array,
    sample: jax.Array,
    scale: float,
    label_smoothing: float = 0.0,
    precision: Any = lax.Precision.HIGHEST,
) -> jax.Array:
    """Mean cross-entropy of unit rows [N, d] against unit anchors [samples, d]; sample: int [N], each row's class."""
    logits = scale * _dot(rows, anchors, (1, 1), precision)  # [N, samples]
    own = _pick(sample[:, None] == jnp.arange(anchors.shape[0])[None], logits)
    wanted = (1 - label_smoothing) * own + label_smoothing * logits.mean(axis=1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - wanted)


# -- dense ------------------------------------------------------------------------------------------------------------


def _dense(
    x: jax.Array, y: jax.Array, scale: jax.Array, bias: Any, smoothing: float, mesh: Mesh | None, precision: Any
) -> jax.Array:
    logits = scale * _dot(x, y, (1, 1), precision)  # [N, N]
    if mesh is not None:
        logits = lax.with_sharding_constraint(logits, NamedSharding(mesh, P(mesh.axis_names)))
    own = jnp.eye(x.shape[0], dtype=bool)
    if bias is not None:
        sign = jnp.where(own, 1, -1).astype(logits.dtype)
        return jnp.sum(jax.nn.softplus(-sign * (logits + bias))) / x.shape[0]
    target = (1 - smoothing) * _pick(own, logits)
    if smoothing:
        target = target + smoothing * (logits.mean(axis=1) + logits.mean(axis=0)) / 2
    both = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(both / 2 - target)


def _pick(own: jax.Array, logits: jax.Array) -> jax.Array:
    """One entry of each row, as a masked sum, so that it and its gradient stay on the row's device."""
    return jnp.where(own, logits, 0).sum(axis=1)


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int], precision: Any) -> jax.Array:
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    dimensions = ((contract[:1], contract[1:]), ((), ()))
    if a.dtype != b.dtype:  # a float32 gradient for bfloat16 rows
        a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=dtype)


# -- the walk through the tiles ---------------------------------------------------------------------------------------


def _sweep(tile: Tile, stream: Stream, x: jax.Array, y: jax.Array, rows: Tree, columns: Tree) -> tuple[Tree, Tree]:
    """Process all tiles of this device's rows. `rows` [n, …] stay here, `columns` belong to y [n, d].

    After a ring, columns are complete and back on their device; otherwise they are this device's share for all y
    [N, …].
    """
    n = x.shape[0]
    here = lax.axis_index(stream.axes) if stream.axes else 0
    numbers = here * n + jnp.arange(n)  # number of the first row among all

    def visit(rows: Tree, y: jax.Array, columns: Tree, first: Any) -> tuple[Tree, Tree]:
        across = first + jnp.arange(y.shape[0])

        def step(columns: Tree, part: Tree) -> tuple[Tree, Tree]:
            x, numbers, rows = part
            rows, columns = tile(x, y, numbers[:, None] == across, rows, columns)
            return columns, rows

        columns, rows = _over_chunks(step, columns, (x, numbers, rows), stream.chunk)
        return rows, columns

    if not stream.ring or stream.size == 1:
        return visit(rows, _gathered(y, stream), columns, 0)
    turn = [(i, (i + 1) % stream.size) for i in range(stream.size)]

    def step(carry: Tree, number: jax.Array) -> tuple[Tree, None]:
        rows, (y, columns) = carry
        rows, columns = visit(rows, y, columns, (here - number) % stream.size * n)
        return (rows, jax.tree.map(lambda leaf: lax.ppermute(leaf, stream.axes, turn), (y, columns))), None

    (rows, (_, columns)), _ = lax.scan(step, (rows, (y, columns)), jnp.arange(stream.size))
    return rows, columns


def _over_chunks(step: Callable[[Tree, Tree], tuple[Tree, Tree]], carry: Tree, rows: Tree, chunk: int) -> Any:
    """`lax.scan` over chunks of rows; `step` processes the remainder separately."""
    n = jax.tree.leaves(rows)[0].shape[0]
    whole = n // chunk * chunk
    done = []
    if whole:
        blocks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, chunk, *leaf.shape[1:]), rows)
        carry, out = lax.scan(step, carry, blocks)
        done.append(jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), out))
    if whole < n:
        carry, out = step(carry, jax.tree.map(lambda leaf: leaf[whole:], rows))
        done.append(out)
    return carry, done[0] if len(done) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *done)


def _gathered(y: jax.Array, stream: Stream) -> jax.Array:
    return lax.all_gather(y, stream.axes, tiled=True) if stream.axes and not stream.ring else y


def _fresh(stream: Stream, shape: tuple[int, ...], dtype: Any, value: float = 0.0) -> jax.Array:
    """A constant that varies over devices from here on."""
    constant = jnp.full(shape, value, dtype)
    return lax.pcast(constant, stream.axes, to="varying") if stream.axes else constant


def _columns(stream: Stream, y: jax.Array) -> int:
    return y.shape[0] if stream.ring else y.shape[0] * stream.size


def _total(stream: Stream, value: jax.Array) -> jax.Array:
    value = value.sum()
    return lax.psum(value, stream.axes) if stream.axes else value


def _home(stream: Stream, dy: jax.Array) -> jax.Array:
    """Gradients of the columns, moved to the columns' devices."""
    if stream.ring or not stream.axes:
        return dy
    return lax.psum_scatter(dy, stream.axes, scatter_dimension=0, tiled=True)


def _on_devices(stream: Stream, function: Callable[..., Any], inputs: tuple[Any, ...], outputs: Any) -> Any:
    """`function(stream, …)` on each device's rows; `inputs` and `outputs` mark values as sharded rows ("rows") or
    replicated ("same")."""
    if stream.mesh is None:
        return partial(function, stream)
    specs = {"rows": P(stream.axes), "same": P()}
    spec = partial(jax.tree.map, specs.__getitem__)
    return jax.shard_map(partial(function, stream), mesh=stream.mesh, in_specs=spec(inputs), out_specs=spec(outputs))


# -- softmax ----------------------------------------------------------------------------------------------------------

# A log-sum-exp in two parts, [n] each: the maximum, and the sum of e^(value - maximum).
LogSum = tuple[jax.Array, jax.Array]


def _add(logsum: LogSum, logits: jax.Array, axis: int) -> LogSum:
    top, total = logsum
    new = jnp.maximum(top, logits.max(axis))
    return new, total * jnp.exp(top - new) + jnp.exp(logits - jnp.expand_dims(new, axis)).sum(axis)


def _empty(stream: Stream, count: int, dtype: Any) -> LogSum:
    return _fresh(stream, (count,), dtype, -jnp.inf), _fresh(stream, (count,), dtype)


def _softmax_values(stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array) -> tuple[jax.Array, LogSum, LogSum]:
    """The loss, r of this device's rows, and c of its columns (of all columns, without a ring)."""
    n, dtype = x.shape[0], scale.dtype

    def tile(x: jax.Array, y: jax.Array, delta: jax.Array, rows: Tree, columns: LogSum) -> tuple[Tree, LogSum]:
        logsum, diagonal = rows
        logits = scale * _dot(x, y, (1, 1), stream.precision)  # [k, m]
        return (_add(logsum, logits, 1), diagonal + _pick(delta, logits)), _add(columns, logits, 0)

    rows = _empty(stream, n, dtype), _fresh(stream, (n,), dtype)
    (r, diagonal), c = _sweep(tile, stream, x, y, rows, _empty(stream, _columns(stream, y), dtype))
    c = own = _all_columns(stream, c)
    if stream.axes and not stream.ring:
        first = lax.axis_index(stream.axes) * n
        own = tuple(lax.dynamic_slice_in_dim(part, first, n) for part in c)
    losses = sum((top - diagonal) + jnp.log(total) for top, total in (r, own))
    return _total(stream, losses) / (2 * n * stream.size), r, c


def _all_columns(stream: Stream, columns: LogSum) -> LogSum:
    if stream.ring or not stream.axes:
        return columns
    top, total = columns
    most = lax.pmax(top, stream.axes)
    return most, lax.psum(total * jnp.exp(top - most), stream.axes)


def _softmax_gradients(
    stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array, r: LogSum, c: LogSum, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def tile(x: jax.Array, y: jax.Array, delta: jax.Array, rows: Tree, columns: Tree) -> tuple[Tree, Tree]:
        (r, u), (c, v) = rows, columns
        logits = scale * _dot(x, y, (1, 1), stream.precision)
        by_rows, by_columns = _share(logits, *(part[:, None] for part in r)), _share(logits, *c)
        slope = by_rows + by_columns - 2 * delta  # [k, m]
        u = u + _dot(slope, y, (1, 0), stream.precision)
        return (r, u), (c, v + _dot(slope, x, (0, 0), stream.precision))

    u, v = _fresh(stream, x.shape, scale.dtype), _fresh(stream, (_columns(stream, y), y.shape[1]), scale.dtype)
    if stream.axes and not stream.ring:
        c = lax.pcast(c, stream.axes, to="varying")
    (_, u), (_, v) = _sweep(tile, stream, x, y, (r, u), (c, v))
    return _chain(stream, x, y, scale, u, v, g / (2 * x.shape[0] * stream.size))


def _share(logits: jax.Array, top: jax.Array, total: jax.Array) -> jax.Array:
    # Not e^(L - r): r, of about 100, is rounded to 1e-5, which e^ keeps as a relative error. L - top is exact.
    return jnp.exp(logits - top) / total


def _chain(
    stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array, u: jax.Array, v: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dx, dy, dscale) from u = G y [n, d] and v = G^T x, with the factor g."""
    v = _home(stream, v)
    return (g * scale * u).astype(x.dtype), (g * scale * v).astype(y.dtype), g * _total(stream, x * u)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax(stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array) -> jax.Array:
    return _softmax_forward(stream, x, y, scale)[0]


def _softmax_forward(stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array) -> Any:
    columns = "rows" if stream.ring else "same"
    outputs = ("same", ("rows",) * 2, (columns,) * 2)
    value, r, c = _on_devices(stream, _softmax_values, ("rows", "rows", "same"), outputs)(x, y, scale)
    return value, (x, y, scale, r, c)


def _softmax_backward(stream: Stream, kept: Any, g: jax.Array) -> Any:
    columns = "rows" if stream.ring else "same"
    inputs = ("rows", "rows", "same", ("rows",) * 2, (columns,) * 2, "same")
    return _on_devices(stream, _softmax_gradients, inputs, ("rows", "rows", "same"))(*kept, g)


_softmax.defvjp(_softmax_forward, _softmax_backward)


# -- sigmoid ----------------------------------------------------------------------------------------------------------


def _signed(
    stream: Stream, x: jax.Array, y: jax.Array, delta: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """z [k, m], and z (L + bias)."""
    z = jnp.where(delta, 1, -1).astype(scale.dtype)
    return z, z * (scale * _dot(x, y, (1, 1), stream.precision) + bias)


def _sigmoid_value(stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    def tile(x: jax.Array, y: jax.Array, delta: jax.Array, rows: jax.Array, columns: Tree) -> tuple[Tree, Tree]:
        _, logits = _signed(stream, x, y, delta, scale, bias)
        return rows + jax.nn.softplus(-logits).sum(axis=1), columns

    rows, _ = _sweep(tile, stream, x, y, _fresh(stream, (x.shape[0],), scale.dtype), ())
    return _total(stream, rows) / (x.shape[0] * stream.size)


def _sigmoid_gradients(
    stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    def tile(x: jax.Array, y: jax.Array, delta: jax.Array, rows: Tree, v: jax.Array) -> tuple[Tree, Tree]:
        u, sums = rows
        z, logits = _signed(stream, x, y, delta, scale, bias)
        slope = -z * jax.nn.sigmoid(-logits)  # [k, m]
        u = u + _dot(slope, y, (1, 0), stream.precision)
        return (u, sums + slope.sum(axis=1)), v + _dot(slope, x, (0, 0), stream.precision)

    n, dtype = x.shape[0], scale.dtype
    rows = _fresh(stream, x.shape, dtype), _fresh(stream, (n,), dtype)
    columns = _fresh(stream, (_columns(stream, y), y.shape[1]), dtype)
    (u, sums), v = _sweep(tile, stream, x, y, rows, columns)
    g = g / (n * stream.size)
    return *_chain(stream, x, y, scale, u, v, g), g * _total(stream, sums)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sigmoid(stream: Stream, x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return _sigmoid_forward(stream, x, y, scale, bias)[0]


def _sigmoid_forward(stream: Stream, *values: jax.Array) -> Any:
    return _on_devices(stream, _sigmoid_value, ("rows", "rows", "same", "same"), "same")(*values), values


def _sigmoid_backward(stream: Stream, kept: Any, g: jax.Array) -> Any:
    inputs = ("rows", "rows", "same", "same", "same")
    return _on_devices(stream, _sigmoid_gradients, inputs, ("rows", "rows", "same", "same"))(*kept, g)


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)
