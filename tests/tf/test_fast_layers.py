"""Products with two axes and the activation's short cut equal Keras' own layers, values and gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from conformance.compare import ACROSS, relative_error

tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

import keras  # noqa: E402

from clip_tf import layers, modeling, shortcuts  # noqa: E402


def drawn(layer: Any, seed: int = 0) -> Any:
    """The layer, built, with weights drawn at random."""
    layer.build(None)
    for i, weight in enumerate(layer.weights):
        weight.assign(tf.random.stateless_normal(weight.shape, (seed, i)))
    return layer


def values_and_gradients(run: Any, x: Any, weights: list[Any]) -> list[Any]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x)
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *tape.gradient(loss, [x, *(weight.value for weight in weights)])]


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for got, want in zip(ours, theirs, strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert relative_error(got, want) <= ACROSS


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (2, 3, 1, 7)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = drawn(layers.Linear(7, 4, bias)), tf.random.stateless_normal(shape, (1, 1))
    plain = super(layers.Linear, layer).call
    assert_same(*(values_and_gradients(run, x, layer.weights) for run in (layer, plain)))
    want = 3.0 * (0.5 * tf.tensordot(x, layer.kernel, 1) + (layer.bias if bias else 0.0))
    assert relative_error(layer.product(x, before=3.0, after=0.5), want) <= ACROSS


def block(act: Any, dtype: Any = None) -> Any:
    config = SimpleNamespace(hidden_act=act, hidden_size=6, intermediate_size=10)
    with layers.dtype_of(SimpleNamespace(dtype_policy=dtype or "float32")):
        return drawn(modeling.TFCLIPMLP(config))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the short cut returned."""
    results: list[Any] = []
    short_cut = shortcuts.mlp

    def spy(*args: Any) -> Any:
        results.append(short_cut(*args))
        return results[-1]

    monkeypatch.setattr(modeling, "mlp", spy)
    return results


def plainly(mlp: Any, x: Any) -> Any:
    return mlp.fc2(mlp.activation_fn(mlp.fc1(x)))


@pytest.mark.parametrize("graph", [False, True])
def test_quick_gelu(graph: bool, used: list[Any]) -> None:
    mlp, x = block("quick_gelu"), 3 * tf.random.stateless_normal((2, 5, 6), (1, 1))

    def both(x: Any) -> list[Any]:
        return [values_and_gradients(run, x, mlp.weights) for run in (mlp, lambda x: plainly(mlp, x))]

    assert_same(*(tf.function(both) if graph else both)(x))
    assert used and used[0] is not None


def test_of_no_known_sizes() -> None:
    mlp, x = block("quick_gelu"), tf.random.stateless_normal((2, 5, 6), (1, 1))
    run = tf.function(mlp.__call__, input_signature=[tf.TensorSpec((None, None, 6))])
    assert relative_error(run(x), plainly(mlp, x)) <= ACROSS
    assert run(x[:0]).shape == (0, 5, 6)


class Doubled(layers.Linear):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return 2 * super().call(x)


def another(how: str) -> Any:
    if how == "quantised":
        mlp = block("quick_gelu")
        mlp.fc1.quantize("int8", type_check=False)
        return mlp
    config = SimpleNamespace(hidden_act="quick_gelu", hidden_size=6, intermediate_size=10)
    mlp = modeling.TFCLIPMLP(config)
    mlp.fc1 = Doubled(6, 10)
    return drawn(mlp)


@pytest.mark.parametrize("how", ["another layer", "quantised"])
def test_steps_aside_for_layers_of_another_kind(how: str, used: list[Any]) -> None:
    mlp, x = another(how), tf.random.stateless_normal((2, 5, 6), (1, 1))
    assert relative_error(mlp(x), plainly(mlp, x)) <= ACROSS
    assert used == [None]


@pytest.mark.parametrize("act", ["gelu", "relu", tf.nn.tanh])
def test_steps_aside_for_other_activations(act: Any, used: list[Any]) -> None:
    mlp, x = block(act), tf.random.stateless_normal((2, 5, 6), (1, 1))
    assert relative_error(mlp(x), plainly(mlp, x)) <= ACROSS
    assert used == [None]


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_steps_aside_for_half_precision(policy: str, used: list[Any]) -> None:
    mlp, x = block("quick_gelu", keras.DTypePolicy(policy)), tf.random.stateless_normal((2, 5, 6), (1, 1))
    got = mlp(tf.cast(x, tf.bfloat16))
    assert got.dtype == tf.bfloat16 and used == [None]
