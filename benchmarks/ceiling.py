"""What the machine's matrix products reach in each framework: the limit of every model row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, Side

# Rows of 16 pictures of 50 tokens against ViT-B/32's widest layer: the shape that fills most of the model's time.
M, K, N = 800, 768, 3072
TIMES = 40
ROW = Row(
    title="Matrix products: the ceiling",
    about=(
        f"[{M}, {K}] @ [{K}, {N}], {TIMES} times over, all cores, no framework overhead in between where it compiles. "
        "GFLOP a second; a picture through ViT-B/32 is 8.8 GFLOP, a token through its text tower 0.075."
    ),
    sides={
        "torch fp32": Side("triclip", "torch_fp32"),
        "torch fp32, as in triclip": Side("triclip", "torch_product"),
        "torch bf16": Side("triclip", "torch_bf16"),
        "TensorFlow fp32": Side("triclip", "tf_fp32"),
        "TensorFlow bf16": Side("triclip", "tf_bf16"),
        "JAX fp32": Side("triclip", "jax_fp32"),
        "JAX bf16": Side("triclip", "jax_bf16"),
    },
    count=2e-9 * M * K * N * TIMES,
    unit="GFLOP",
    rounds=7,
    budget=40,
)


def _with_torch(name: str, linear: Any = None) -> Callable[[], Any]:
    import torch

    linear = linear or torch.nn.functional.linear
    a = torch.randn(M, K).to(getattr(torch, name))
    b = torch.randn(N, K).to(getattr(torch, name))

    @torch.inference_mode()
    def run() -> None:
        for _ in range(TIMES):
            linear(a, b, None)

    return run


def _with_tf(name: str) -> Callable[[], Any]:
    import tensorflow as tf

    a, b = (tf.cast(tf.random.normal(shape), name) for shape in ((M, K), (K, N)))

    @tf.function
    def product(a: Any, b: Any) -> Any:
        return tf.linalg.matmul(a, b)

    def run() -> None:
        for _ in range(TIMES):
            out = product(a, b)
        out.numpy()

    return run


def _with_jax(name: str) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    a, b = jnp.ones((M, K), name), jnp.ones((K, N), name)
    product = jax.jit(jnp.matmul)

    def run() -> None:
        for _ in range(TIMES):
            out = product(a, b)
        out.block_until_ready()

    return run


def torch_fp32(data: Path) -> Callable[[], Any]:
    return _with_torch("float32")


def torch_product(data: Path) -> Callable[[], Any]:
    from clip_torch.layers import product

    return _with_torch("float32", product)


def torch_bf16(data: Path) -> Callable[[], Any]:
    return _with_torch("bfloat16")


def tf_fp32(data: Path) -> Callable[[], Any]:
    return _with_tf("float32")


def tf_bf16(data: Path) -> Callable[[], Any]:
    return _with_tf("bfloat16")


def jax_fp32(data: Path) -> Callable[[], Any]:
    return _with_jax("float32")


def jax_bf16(data: Path) -> Callable[[], Any]:
    return _with_jax("bfloat16")
