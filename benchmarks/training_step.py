"""A training step of ViT-B/32: forward, backward, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import models, products
from benchmarks.harness import Pair, Row, Side

BATCH, LENGTH = 32, 77

ROW = Row(
    title="A training step, ViT-B/32, batch 32",
    about=f"{BATCH} pictures and texts of {LENGTH} tokens, contrastive loss, gradients, AdamW; float32.",
    data=("vit_b32",),
    sides={
        "triclip, torch": Side("triclip", "ours_torch"),
        "HF 4.57, torch": Side("hf4", "peer_torch"),
        "products alone, torch": Side("triclip", "ceiling"),
        "triclip, Flax": Side("triclip", "ours_flax"),
        "HF 4.57, Flax": Side("hf4", "peer_flax"),
    },
    pairs=(
        Pair("triclip, torch", "HF 4.57, torch", at_least=1.1),
        Pair("triclip, torch", "products alone, torch", share=True),
        Pair("triclip, Flax", "HF 4.57, Flax", at_least=1.05),
    ),
    count=BATCH,
    unit="pairs",
    check="same_loss",
    limits=(
        "In PyTorch products by oneDNN, forwards and backwards, which are four fifths of the time; one pass each way "
        "for the activation, its gradient written in place, since new memory is slow; and the last layer for pooled "
        "tokens alone. In Flax both sides have the same products, of which the last layer's are fewer here, and AdamW "
        "is optax's; the derivative of LayerNorm is written out, because XLA adds up the one of a two-pass variance "
        "from the top layer again in every layer: it had made the step 1.4 times as long."
    ),
    rounds=3,
)


def ours_torch(data: Path) -> Callable[[], Any]:
    return _torch(models.torch_model(data))


def peer_torch(data: Path) -> Callable[[], Any]:
    return _torch(models.hf_torch(data))


def ours_flax(data: Path) -> Callable[[], Any]:
    return _flax(models.flax_model(data))


def peer_flax(data: Path) -> Callable[[], Any]:
    return _flax(models.hf_flax(data))


def ceiling(data: Path) -> Callable[[], Any]:
    """The forward products three times: each has two more of its size in the gradients."""
    towers = [products.with_torch(shapes, times=3) for shapes in (products.vision(BATCH), products.text(BATCH, LENGTH))]

    def run() -> None:
        for tower in towers:
            tower()

    return run


def _torch(model: Any) -> Callable[[], Any]:
    import torch

    pixels, ids = torch.from_numpy(models.pixels(BATCH)), torch.from_numpy(models.ids(BATCH, LENGTH))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)
    target = torch.arange(BATCH)

    def run() -> Any:
        image, text = model.get_image_features(pixels), model.get_text_features(ids)
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
        logits = image @ text.T * model.logit_scale.exp()
        loss = sum(torch.nn.functional.cross_entropy(x, target) for x in (logits, logits.T)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [loss.item()]

    return run


def _flax(model: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp
    import optax

    pixels, ids = jnp.asarray(models.pixels(BATCH)), jnp.asarray(models.ids(BATCH, LENGTH), "int32")
    optimizer = optax.adamw(1e-5)

    def loss_of(params: Any) -> Any:
        image = model.get_image_features(pixels, params=params)
        text = model.get_text_features(ids, params=params)
        image, text = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
        logits = image @ text.T * jnp.exp(params["logit_scale"])
        return -sum(jnp.diagonal(jax.nn.log_softmax(logits, axis)).mean() for axis in (0, 1)) / 2

    def step(params: Any, state: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.array, model.params)
    now = {"params": params, "state": optimizer.init(params)}

    def run() -> Any:
        now["params"], now["state"], loss = compiled(now["params"], now["state"])
        return [float(loss)]

    return run


def same_loss(results: dict[str, Any]) -> str:
    return "First loss. " + models.compare(results, 1e-4)
