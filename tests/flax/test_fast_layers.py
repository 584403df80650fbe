"""Patches as one product equal a convolution, in numbers, gradients and parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clip_flax.layers import PatchConv
from conformance.compare import ACROSS, relative_error

INIT = nn.initializers.normal(0.1)


@pytest.mark.parametrize("sides", [(6, 6), (9, 6), (8, 7)], ids=str)  # 8 and 7 leave something over
@pytest.mark.parametrize("dtype, bound", [(jnp.float32, ACROSS), (jnp.bfloat16, 2e-2)], ids=["float32", "bfloat16"])
def test_patches(sides: tuple[int, int], dtype: Any, bound: float) -> None:
    x = jax.random.normal(jax.random.PRNGKey(0), (2, *sides, 3))
    fast, plain = PatchConv(5, 3, INIT, dtype), nn.Conv(5, (3, 3), (3, 3), "VALID", use_bias=False, dtype=dtype)
    variables = plain.init(jax.random.PRNGKey(1), x)
    shapes = jax.tree.map(jnp.shape, fast.init(jax.random.PRNGKey(1), x))
    assert shapes == jax.tree.map(jnp.shape, variables)

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
