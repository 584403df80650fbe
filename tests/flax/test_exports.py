"""StableHLO, NNX, donated buffers, ensembles and orbax, against plain calls."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

import clip_flax
from clip_flax import FlaxCLIPModel, FlaxCLIPTextModel, FlaxCLIPVisionModelWithProjection

from .conftest import CHECKPOINT

# JAX writes exported programs with it, and doesn't ask for it itself.
needs_flatbuffers = pytest.mark.skipif(find_spec("flatbuffers") is None, reason="flatbuffers is not installed")

SAME = 1e-5  # float32, sums in another order
LONGEST = 12  # positions of the checkpoint


def close(left: Any, right: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=SAME, atol=SAME)), left, right)))


# -- jax.export -------------------------------------------------------------------------------------------------------


def texts() -> tuple[Any, Any]:
    """Any number of texts, and any length that the model has positions for."""
    size = export.symbolic_shape("batch, length", constraints=[f"length <= {LONGEST}"])
    return jax.ShapeDtypeStruct(size, jnp.int32), jax.ShapeDtypeStruct(size, jnp.int32)


def pictures(inputs: Any, batch: str = "images") -> Any:
    return jax.ShapeDtypeStruct((*export.symbolic_shape(batch), *inputs["pixel_values"].shape[1:]), jnp.float32)


@needs_flatbuffers
def test_text_features_of_any_batch_and_length(full: Any, inputs: Any) -> None:
    run = jax.jit(lambda params, ids, mask: full.get_text_features(ids, mask, params=params))
    program = export.deserialize(export.export(run)(full.params, *texts()).serialize())
    ids, mask = inputs["input_ids"].astype(np.int32), inputs["attention_mask"].astype(np.int32)
    for rows, length in ((3, 12), (2, 7), (1, 1)):
        few = ids[:rows, :length], mask[:rows, :length]
        assert close(program.call(full.params, *few), full.get_text_features(*few))
    half = jax.tree.map(lambda leaf: leaf * 0.5, full.params)  # the parameters are an argument
    assert close(program.call(half, ids, mask), full.get_text_features(ids, mask, params=half))
    with pytest.raises(ValueError, match="shapes"):  # too long for the model: the constraint of the sizes
        program.call(full.params, np.ones((1, 13), np.int32), np.ones((1, 13), np.int32))


@needs_flatbuffers
def test_outputs_keep_their_class(full: Any, inputs: Any) -> None:
    run = jax.jit(lambda params, ids, pixels: full(ids, pixels, params=params, output_hidden_states=True))
    (size,) = export.symbolic_shape("pairs")
    shapes = (size, LONGEST), (size, *inputs["pixel_values"].shape[1:])
    given = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, (jnp.int32, jnp.float32), strict=True)]
    program = export.deserialize(export.export(run)(full.params, *given).serialize())
    ids, pixels = inputs["input_ids"][:2].astype(np.int32), inputs["pixel_values"][:2]
    got, want = program.call(full.params, ids, pixels), full(ids, pixels, output_hidden_states=True)
    assert type(got) is type(want) and list(got) == list(want)
    assert type(got.text_model_output) is type(want.text_model_output)
    assert close(got, want)


@needs_flatbuffers
def test_a_file_with_its_weights_runs_with_jax_alone(full: Any, inputs: Any, tmp_path: Path) -> None:
    """Weights that are closed over lie in the program; it is lowered for several platforms at once."""
    program = export.export(jax.jit(full.get_image_features), platforms=["cpu", "cuda", "tpu"])(pictures(inputs))
    (tmp_path / "image.stablehlo").write_bytes(program.serialize())
    np.save(tmp_path / "pixels.npy", inputs["pixel_values"])
    code = """
        import sys, numpy as np
        from jax import export
        program = export.deserialize(bytearray(open("image.stablehlo", "rb").read()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        np.save("features.npy", program.call(np.load("pixels.npy")))
        assert not [name for name in sys.modules if name.startswith(("clip_", "flax"))]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=True, timeout=900)
    assert close(np.load(tmp_path / "features.npy"), full.get_image_features(inputs["pixel_values"]))


@needs_flatbuffers
def test_gradients_of_an_exported_program(full: Any, inputs: Any) -> None:
    run = jax.jit(lambda params, pixels: full.get_image_features(pixels, params=params))
    program = export.deserialize(export.export(run)(full.params, pictures(inputs)).serialize(vjp_order=1))
    pixels = inputs["pixel_values"]
    got = jax.grad(lambda params: (program.call(params, pixels) ** 2).sum())(full.params)
    want = jax.grad(lambda params: (run(params, pixels) ** 2).sum())(full.params)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=1e-4, atol=1e-4)), got, want)))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(got)) > 0


# -- flax.nnx ---------------------------------------------------------------------------------------------------------


def test_nnx_bridge(full: Any, inputs: Any) -> None:
    ids, pixels = jnp.asarray(inputs["input_ids"]), jnp.transpose(inputs["pixel_values"], (0, 2, 3, 1))
    model = nnx.bridge.ToNNX(full.module, rngs=nnx.Rngs(0))
    nnx.bridge.lazy_init(model, ids[:1], pixels[:1])
    nnx.update(model, full.params)
    want = full(inputs["input_ids"], inputs["pixel_values"])
    got = model(ids, pixels)
    assert type(got) is type(want) and close(got, want)
    features = model(pixels, method="get_image_features")
    assert close(features, full.get_image_features(inputs["pixel_values"]))

    gradient = nnx.grad(lambda model: (model(ids[:2], pixels).logits_per_text ** 2).mean())(model)
    plain = jax.grad(
        lambda params: (full.module.apply({"params": params}, ids[:2], pixels).logits_per_text ** 2).mean()
    )(full.params)
    ours = nnx.to_pure_dict(nnx.state(gradient, nnx.Param))
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=1e-3, atol=1e-3)), ours, plain)))
    back = nnx.to_pure_dict(nnx.state(model, nnx.Param))  # and the parameters out of it again
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), back, full.params)))


# -- buffers, ensembles, orbax ----------------------------------------------------------------------------------------


def test_donated_parameters(text: Any, inputs: Any) -> None:
    """A step that gives its parameters away: no second copy, and the model's own are untouched."""
    ids = jnp.asarray(inputs["input_ids"])

    def step(params: Any, ids: Any) -> Any:
        gradient = jax.grad(lambda p: (text(ids, params=p).pooler_output ** 2).sum())(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    want = jax.jit(step)(text.params, ids)
    given = jax.tree.map(jnp.copy, text.params)
    got = jax.jit(step, donate_argnums=0)(given, ids)
    assert close(got, want)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(text.params))
    with pytest.raises(RuntimeError, match="deleted"):
        text(ids, params=given)


def test_an_ensemble_of_stacked_parameters(full: Any, inputs: Any) -> None:
    members = [full.params, FlaxCLIPModel(full.config, seed=1).params, FlaxCLIPModel(full.config, seed=2).params]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]

    @jax.jit
    def every(params: Any) -> Any:
        return jax.vmap(lambda member: full(ids, pixels, params=member))(params)

    got = every(stacked)
    assert type(got) is clip_flax.FlaxCLIPOutput and got.logits_per_image.shape == (3, len(pixels), len(ids))
    for i, member in enumerate(members):
        want = full(ids, pixels, params=member)
        assert close(got.logits_per_image[i], want.logits_per_image) and close(got.text_embeds[i], want.text_embeds)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_orbax(text: Any, inputs: Any, tmp_path: Path, dtype: str) -> None:
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax is not installed")
    params = text.params if dtype == "float32" else text.to_bf16(text.params)
    with orbax.StandardCheckpointer() as files:
        files.save(tmp_path / "params", params)
        files.wait_until_finished()
        model = FlaxCLIPTextModel(text.config, _do_init=False)
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), model.params_shape_tree)
        restored = files.restore(tmp_path / "params", wanted)
    assert all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()) and a.dtype == b.dtype, restored, params))
    )
    ids = inputs["input_ids"]
    assert np.array_equal(model(ids, params=restored).pooler_output, text(ids, params=params).pooler_output)


@needs_flatbuffers
def test_vision_class_exports_alone(inputs: Any) -> None:
    model = FlaxCLIPVisionModelWithProjection.from_pretrained(CHECKPOINT)
    run = jax.jit(lambda params, pixels: model(pixels, params=params).image_embeds)
    program = export.deserialize(export.export(run)(model.params, pictures(inputs)).serialize())
    assert close(program.call(model.params, inputs["pixel_values"][:1]), model(inputs["pixel_values"][:1]).image_embeds)
