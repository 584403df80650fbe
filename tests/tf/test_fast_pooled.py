"""The pooled state computed by itself equals the plain forward pass's, values and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clip_core.errors import InputError
from conformance import cases as data
from conformance.adaptors import TF
from conformance.compare import ACROSS, GRADIENT, relative_error

tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

ADAPTOR = TF()
CASES = {case.name: case for case in data.cases() if case.values}
TOWERS = {name: case for name, case in CASES.items() if case.tower != "full" and case.name[:3] not in ("act", "hea")}
HEADS = {"pruned_heads": {0: [1], 1: [0]}, "output_hidden_states": True, "return_dict": False}
for name in ("mask.zero_row", "image.cut_off"):
    TOWERS[f"{name}, fewer heads"] = replace(TOWERS[name], config={**TOWERS[name].config, **HEADS})


def build(name: str, dtype: str = "float32") -> tuple[Any, Any, dict[str, Any]]:
    """A model, its tower and its inputs."""
    case = TOWERS[name]
    model = ADAPTOR.build(case, dtype)
    return model, getattr(model, f"{case.tower}_model"), ADAPTOR._inputs(case)


def plain(tower: Any, inputs: dict[str, Any]) -> Any:
    return tower(**inputs, return_dict=True).pooler_output


@pytest.mark.parametrize("name", TOWERS)
def test_equals_the_plain_pass(name: str) -> None:
    _, tower, inputs = build(name)
    assert relative_error(tower.pooled(**inputs), plain(tower, inputs)) <= ACROSS


@pytest.mark.parametrize("name", ["mask.zero_row", "eos.legacy", "image.cut_off", "depth.text_1", "depth.text_0"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(name: str, checkpointing: bool) -> None:
    model, tower, inputs = build(name)
    tower.encoder.gradient_checkpointing = checkpointing
    found = []
    for run in (lambda: tower.pooled(**inputs, training=checkpointing), lambda: plain(tower, inputs)):
        with tf.GradientTape() as tape:
            pooled = run()
            loss = tf.reduce_sum(pooled * data.cotangent("pooled", tuple(pooled.shape)))
        weights = [v.value for v in tower.trainable_variables]
        found.append(tape.gradient(loss, weights, unconnected_gradients="zero"))
    for variable, got, want in zip(tower.trainable_variables, *found, strict=True):
        if "k_proj/bias" not in variable.path:  # 0 in real numbers
            got, want = (tf.convert_to_tensor(value).numpy() for value in (got, want))
            assert np.abs(got - want).max() <= GRADIENT * max(np.abs(want).max(), 1e-2), variable.path


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["mask.zero_row", "image.cut_off"])
def test_half_precision(name: str, dtype: str) -> None:
    _, tower, inputs = build(name, dtype)
    got, want = tower.pooled(**inputs), plain(tower, inputs)
    assert got.dtype == want.dtype == dtype
    assert relative_error(tf.cast(got, tf.float32), tf.cast(want, tf.float32)) <= 5e-2  # eight bits, two layers


def test_in_a_graph_with_free_sizes() -> None:
    _, tower, inputs = build("mask.holes")
    spec = tf.TensorSpec((None, None), tf.int64)
    run = tf.function(lambda ids, mask: tower.pooled(ids, mask), input_signature=[spec, spec])
    got = run(inputs["input_ids"], inputs["attention_mask"])
    assert relative_error(got, plain(tower, inputs)) <= ACROSS


def test_chosen_patches() -> None:
    _, tower, inputs = build("image.cut_off")  # 4 x 4 patches
    pixels = inputs["pixel_values"]
    chosen = np.array([[0, 3, 7], [15, 1, 2], [4, 5, 6], [9, 8, 15]])
    tokens = tower.pre_layrnorm(tower.embeddings(pixels)).numpy()
    picked = np.stack([row[[0, *own]] for row, own in zip(tokens, (chosen + 1).tolist(), strict=True)])
    want = tower.post_layernorm(tower.encoder(tf.constant(picked)).last_hidden_state[:, 0])
    for dtype in (tf.int32, tf.int64, tf.uint8):
        assert relative_error(tower.pooled(pixels, patches=tf.constant(chosen, dtype)), want) <= ACROSS
    with pytest.raises(InputError, match="wanted patches from 0 to 15, found 16"):
        tower.pooled(pixels, patches=tf.fill((4, 1), 16))
    with pytest.raises(InputError, match=r"for 4 pictures, found \(2, 3\)"):
        tower.pooled(pixels, patches=tf.zeros((2, 3), tf.int32))
