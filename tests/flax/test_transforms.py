"""jit, grad, vmap, remat on one device; pmap and shardings on eight simulated ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clip_flax
from clip_flax import FlaxCLIPTextModel

from .conftest import CHECKPOINT

SAME = 1e-5  # float32, sums in another order


def close(left: Any, right: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=SAME, atol=SAME)), left, right)))


def test_outputs_are_pytrees_through_jit(full: Any, inputs: Any) -> None:
    want = full(**inputs, output_hidden_states=True)
    got = jax.jit(lambda params, given: full(**given, params=params, output_hidden_states=True))(full.params, inputs)
    assert type(got) is clip_flax.FlaxCLIPOutput and list(got) == list(want)
    assert close(got, want)
    doubled = jax.tree.map(lambda x: x * 2, got)
    assert np.array_equal(doubled.text_model_output.hidden_states[1], got.text_model_output.hidden_states[1] * 2)


def test_a_model_may_be_a_static_argument_and_a_bound_apply_compiles(text: Any, inputs: Any) -> None:
    ids = inputs["input_ids"]
    want = text(ids).pooler_output
    got = jax.jit(lambda model, x: model(x, train=False).pooler_output, static_argnums=0)(text, ids)
    assert close(got, want)
    assert close(jax.jit(text.module.apply)({"params": text.params}, ids).pooler_output, want)


def test_gradients_equal_differences(text: Any, inputs: Any) -> None:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]

    def loss(params: Any) -> Any:
        return (text(ids, mask, params=params).pooler_output ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(text.params)
    length = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    step = 1e-2  # along the gradient of length 1: small beside the curvature, large beside float32's rounding
    ahead, behind = (
        loss(jax.tree.map(lambda p, g, s=s: p + s * g / length, text.params, gradient)) for s in (step, -step)
    )
    assert abs((ahead - behind) / (2 * step) - length) < 1e-2 * length


def test_vmap_over_inputs_and_over_parameters(text: Any, inputs: Any) -> None:
    ids = inputs["input_ids"]
    want = text(ids).pooler_output
    assert close(jax.vmap(lambda row: text(row).pooler_output[0])(ids), want)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.5]), text.params)
    got = jax.vmap(lambda params: text(ids, params=params).pooler_output)(two)
    assert got.shape == (2, *want.shape) and close(got[0], want) and not close(got[1], want)


def test_rematerialised_layers_change_neither_tree_nor_numbers(text: Any, inputs: Any) -> None:
    ids = inputs["input_ids"]
    model = FlaxCLIPTextModel.from_pretrained(CHECKPOINT)
    model.enable_gradient_checkpointing()
    assert model.module.gradient_checkpointing and not text.module.gradient_checkpointing
    assert jax.eval_shape(lambda: model.init_weights(model.key, (1, 1))) == text.params_shape_tree

    def gradient(of: Any) -> Any:
        return jax.grad(lambda params: (of(ids, params=params).pooler_output ** 2).sum())(text.params)

    def program(of: Any) -> str:
        return str(jax.make_jaxpr(lambda params: of(ids, params=params)[1])(text.params))

    assert close(gradient(model), gradient(text))
    assert program(model).count("remat") == text.config.num_hidden_layers
    assert "remat" not in program(text)
    made = FlaxCLIPTextModel.from_pretrained(CHECKPOINT, gradient_checkpointing=True)
    assert made.module.gradient_checkpointing


def test_a_training_step_lowers_the_loss(full: Any, inputs: Any) -> None:
    optax = pytest.importorskip("optax", reason="the step is taken by optax")
    given = {**inputs, "input_ids": inputs["input_ids"][:2], "attention_mask": inputs["attention_mask"][:2]}

    def loss(params: Any) -> Any:
        logits = full(**given, params=params, train=True).logits_per_text
        labels = jnp.arange(2)
        rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (rows + optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)).mean()

    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, state, values = full.params, optimizer.init(full.params), []
    for _ in range(5):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < values[0]


EIGHT = """
    import jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from clip_flax import FlaxCLIPModel

    assert jax.device_count() == 8
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 98, (8, 12)).astype("int32")
    ids[:, -1] = 99
    pixels = rng.normal(size=(8, 3, 16, 16)).astype("float32")
    want = model(ids, pixels)

    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    def spread(path, leaf):  # kernels of the MLP over "model", the rest everywhere
        axis = {"fc1": P(None, "model"), "fc2": P("model", None)}.get(path[-2].key if len(path) > 1 else "", P())
        return NamedSharding(mesh, axis if leaf.ndim == 2 else P())
    shardings = jax.tree_util.tree_map_with_path(spread, model.params)
    rows = NamedSharding(mesh, P("data"))
    call = jax.jit(
        lambda params, ids, pixels: model(ids, pixels, params=params),
        in_shardings=(shardings, rows, rows),
        out_shardings=NamedSharding(mesh, P()),
    )
    got = call(jax.device_put(model.params, shardings), ids, pixels)
    assert got.logits_per_text.sharding.device_set == set(jax.devices())
    for name in ("logits_per_text", "text_embeds", "image_embeds"):
        assert np.allclose(got[name], want[name], atol=1e-5), name

    # The wrapper's own compiled call takes what is already spread, with no jit of the caller's.
    model.params = jax.device_put(model.params, shardings)
    own = model(jax.device_put(ids, rows), jax.device_put(pixels, rows))
    assert np.allclose(own.logits_per_text, want.logits_per_text, atol=1e-5)

    params = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * 8), model.params)
    features = jax.pmap(lambda params, ids: model.get_text_features(ids, params=params))(params, ids[:, None])
    assert features.shape == (8, 1, 8)
    unit = features[:, 0] / np.linalg.norm(features[:, 0], axis=-1, keepdims=True)
    assert np.allclose(unit, want.text_embeds, atol=1e-5)
    print("done")
"""


def test_pmap_and_shardings_on_eight_devices() -> None:
    root = Path(clip_flax.__file__).parents[1]
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([str(root), env.get("PYTHONPATH", "")])
    program = f"CHECKPOINT = {str(CHECKPOINT)!r}\n" + textwrap.dedent(EIGHT)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "done", done.stderr[-3000:]
