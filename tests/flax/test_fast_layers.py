"""Layers written for speed equal Flax's, in numbers, gradients and parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from clip_flax.layers import LayerNorm, PatchConv, standardized
from conformance.compare import ACROSS, relative_error

INIT = nn.initializers.normal(0.1)
DTYPES = pytest.mark.parametrize(
    "dtype, bound", [(jnp.float32, ACROSS), (jnp.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)


def check_equal(fast: nn.Module, plain: nn.Module, x: jax.Array, bound: float) -> None:
    """Same parameters; same output, and gradients by parameters and x."""
    variables = plain.init(jax.random.PRNGKey(1), x)
    shapes = jax.tree.map(jnp.shape, fast.init(jax.random.PRNGKey(1), x))
    assert shapes == jax.tree.map(jnp.shape, variables)
    keys = jax.random.split(jax.random.PRNGKey(2), len(jax.tree.leaves(variables)))
    leaves, tree = jax.tree.flatten(variables)
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    variables = jax.tree.unflatten(tree, noisy)

    def run(module: nn.Module) -> tuple[jax.Array, Any]:
        def loss(variables: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = module.apply(variables, x)
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        (_, y), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables, x)
        return y, gradients

    (got, ours), (want, theirs) = run(fast), run(plain)
    assert got.shape == want.shape and got.dtype == want.dtype
    pairs = [(got, want), *zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)]
    for a, b in pairs:
        assert relative_error(np.asarray(a, np.float32), np.asarray(b, np.float32)) <= bound


@pytest.mark.parametrize("sides", [(6, 6), (9, 6), (8, 7)], ids=str)  # 8 and 7 leave something over
@DTYPES
def test_patches(sides: tuple[int, int], dtype: Any, bound: float) -> None:
    x = jax.random.normal(jax.random.PRNGKey(0), (2, *sides, 3))
    check_equal(
        PatchConv(5, (3, 3), (3, 3), "VALID", use_bias=False, dtype=dtype, kernel_init=INIT),
        nn.Conv(5, (3, 3), (3, 3), "VALID", use_bias=False, dtype=dtype),
        x,
        bound,
    )


@DTYPES
def test_layer_norm(dtype: Any, bound: float) -> None:
    x = (3 * jax.random.normal(jax.random.PRNGKey(0), (2, 5, 16)) + 1).astype(dtype)
    check_equal(LayerNorm(1e-5, dtype), nn.LayerNorm(1e-5, dtype=dtype, use_fast_variance=False), x, bound)


def test_layer_norm_keeps_digits_of_a_large_mean() -> None:
    x = np.random.default_rng(0).standard_normal((4, 64)) + 1000.0
    x = x.astype(np.float32)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    assert relative_error(np.asarray(standardized(x, 1e-5)), want) <= 1e-4


def test_layer_norm_differentiates_forwards_backwards_and_twice() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)))
        check_grads(lambda x: standardized(x, 1e-5), (x,), order=2, modes=("fwd", "rev"))
