"""The contract of transformers v4.37's Flax classes: inputs of all kinds, and attributes that programs use."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.linen.attention import dot_product_attention_weights

import clip_flax
from clip_core.errors import InputError
from clip_core.outputs import BaseModelOutput, ModelOutput
from clip_flax import CLIPTextConfig, CLIPVisionConfig, FlaxCLIPModel, FlaxCLIPTextModel
from conformance.compare import ACROSS, relative_error

from .conftest import CHECKPOINT

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "attention_dropout": 0.4}
TEXT = CLIPTextConfig(**SIZE, vocab_size=100, max_position_embeddings=12)
VISION = CLIPVisionConfig(**SIZE, image_size=16, patch_size=8)
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1]])


class Reference(nn.Module):
    """v4.37's attention, by Flax's own function."""

    config: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any, deterministic: bool) -> tuple[jax.Array, jax.Array]:
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        q, k, v = (nn.Dense(width, name=f"{n}_proj")(x).reshape(*x.shape[:2], heads, -1) for n in "qkv")
        visible = jnp.ones((1, 1, x.shape[1], x.shape[1]), bool)
        if isinstance(self.config, CLIPTextConfig):
            visible = jnp.tril(visible)
        if mask is not None:
            visible = visible & (mask > 0)[:, None, None, :]
        weights = dot_product_attention_weights(
            q,
            k,
            bias=jnp.where(visible, 0.0, jnp.finfo(jnp.float32).min),
            dropout_rng=None if deterministic else self.make_rng("dropout"),
            dropout_rate=self.config.attention_dropout,
            deterministic=deterministic,
        )
        context = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        return nn.Dense(width, name="out_proj")(context), weights


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mask", [None, MASK, MASK * 255], ids=["none", "ones", "255"])
@pytest.mark.parametrize("config", [TEXT, VISION], ids=["text", "vision"])
def test_attention_is_v437s(config: Any, mask: Any, train: bool) -> None:
    """Arguments, causality, what a mask shows, and dropout to the draw."""
    x = jax.random.normal(jax.random.PRNGKey(1), (2, 6, 16))
    plain, ours = Reference(config), clip_flax.FlaxCLIPAttention(config)
    variables = plain.init(jax.random.PRNGKey(0), x, None, True)
    rngs = {"dropout": jax.random.PRNGKey(3)} if train else {}
    want = plain.apply(variables, x, mask, not train, rngs=rngs)
    given = {"hidden_states": x, "attention_mask": mask, "deterministic": not train}
    got = ours.apply(variables, **given, output_attentions=True, rngs=rngs)
    assert len(got) == 2
    assert max(relative_error(a, np.asarray(b)) for a, b in zip(got, want, strict=True)) <= ACROSS
    assert len(ours.apply(variables, **given, rngs=rngs)) == 1


def test_a_layer_used_alone_is_causal() -> None:
    x = jax.random.normal(jax.random.PRNGKey(1), (2, 6, 16))
    layer = clip_flax.FlaxCLIPEncoderLayer(TEXT)
    variables = layer.init(jax.random.PRNGKey(0), x, None)
    (out,) = layer.apply(variables, hidden_states=x, attention_mask=MASK, deterministic=True, output_attentions=False)
    (cut,) = layer.apply(variables, x[:, :3], MASK[:, :3])
    assert relative_error(out[:, :3], np.asarray(cut)) <= ACROSS
    assert len(layer.apply(variables, x, MASK, True, True)) == 2


@pytest.mark.parametrize("jit", [True, False])
def test_training_features_draw_as_the_whole_pass_does(jit: bool) -> None:
    """The last layer computed for one token takes its row of the same mask."""
    config = clip_flax.CLIPConfig.from_text_vision_configs(TEXT, VISION, projection_dim=8)
    model = FlaxCLIPModel(config, jit=jit)
    ids, pixels = np.array([[5, 6, 99, 1], [7, 99, 1, 1]]), np.ones((2, 3, 16, 16), np.float32)
    run = {"train": True, "dropout_rng": jax.random.PRNGKey(2)}
    out = model(ids, pixels, **run)
    for got, tower, projection in (
        (model.get_text_features(ids, **run), out.text_model_output, "text_projection"),
        (model.get_image_features(pixels, **run), out.vision_model_output, "visual_projection"),
    ):
        want = tower.pooler_output @ model.params[projection]["kernel"]
        assert relative_error(got, np.asarray(want)) <= ACROSS


@pytest.mark.parametrize("jit", [True, False])
def test_masks_count_what_they_show(full: Any, inputs: Any, jit: bool) -> None:
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT, jit=jit)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    want = np.asarray(full.get_text_features(ids, mask))
    for other in (mask * 2, mask * 255, mask.astype(bool), mask.astype(float), mask.astype(np.uint8), mask * 1.5):
        assert relative_error(model.get_text_features(ids, other), want) <= ACROSS
    assert relative_error(model.get_text_features(ids, mask * 0.5 + 0.5), want) <= ACROSS  # cut to 0 and 1


def test_whole_numbers_of_other_types_are_ids(full: Any, inputs: Any) -> None:
    ids = inputs["input_ids"]
    want = np.asarray(full.get_text_features(ids))
    for dtype in (np.float32, np.float64, np.uint8, np.int64, np.uint64):
        assert np.array_equal(full.get_text_features(ids.astype(dtype)), want)
    assert np.array_equal(full.get_text_features(jnp.asarray(ids, jnp.bfloat16)), want)
    for wrong in (np.nan, np.inf, 1.5):
        with pytest.raises(InputError, match="input_ids: wanted integers, found float64"):
            full.get_text_features(np.full((1, 2), wrong))
    with pytest.raises(InputError, match="position_ids: wanted integers, found float64"):
        full.get_text_features(ids, None, np.full(ids.shape, 0.5))


def test_ids_outside_the_vocabulary_are_nan_in_compiled_code(full: Any) -> None:
    with pytest.raises(InputError, match="vocab_size"):
        full.get_text_features(np.array([[100, 1]]))
    got = jax.jit(lambda ids: full.get_text_features(ids))(np.array([[100, 1], [2, 99]]))
    assert np.isnan(got[0]).all() and np.isfinite(got[1]).all()


@pytest.mark.parametrize("jit", [True, False])
def test_empty_batches(full: Any, inputs: Any, jit: bool) -> None:
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT, jit=jit)
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    assert model.get_text_features(ids[:0]).shape == model.get_text_features(ids[:0], ids[:0]).shape == (0, 8)
    assert model.get_image_features(pixels[:0]).shape == (0, 8)
    assert model.get_image_features(pixels[:0], interpolate_pos_encoding=True).shape == (0, 8)
    assert model(ids[:0], pixels, ids[:0], output_attentions=True).logits_per_image.shape == (2, 0)
    assert model(ids, pixels[:0]).logits_per_image.shape == (0, 3)
    assert model.get_text_features(ids[:0], None, ids[:0]).shape == (0, 8)


@pytest.mark.parametrize("jit", [True, False])
def test_ranks_are_never_promoted(inputs: Any, jit: bool) -> None:
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT, jit=jit)
    ids, pixels, mask = inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"]
    places = np.arange(12)
    with jax.numpy_rank_promotion("raise"):
        model(ids, pixels, mask, output_attentions=True)
        model(ids, np.zeros((1, 3, 24, 40)), interpolate_pos_encoding=True)
        for positions in (places, places[None], np.broadcast_to(places, ids.shape)):
            model.get_text_features(ids, mask, positions)
        jax.grad(lambda p: model(ids[:2], pixels, mask[:2], params=p).logits_per_text.sum())(model.params)
        jax.grad(lambda p: model.get_image_features(pixels, params=p).sum())(model.params)


@pytest.mark.parametrize("name", ["silu", "swish"])
def test_silu(name: str, inputs: Any) -> None:
    model = FlaxCLIPTextModel.from_pretrained(CHECKPOINT, hidden_act=name)
    given = FlaxCLIPTextModel.from_pretrained(CHECKPOINT, hidden_act=lambda x: x / (1 + jnp.exp(-x)))
    assert relative_error(model(inputs["input_ids"])[0], np.asarray(given(inputs["input_ids"])[0])) <= ACROSS


# -- short cuts -------------------------------------------------------------------------------------------------------


def test_an_interceptor_sees_every_call_in_full_and_leaves_nothing_behind(inputs: Any) -> None:
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT)
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    plain = model.get_text_features(ids), model.get_image_features(pixels)  # compiled
    shapes = []

    def double(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        if isinstance(context.module, clip_flax.FlaxCLIPEncoderLayer) and context.method_name == "__call__":
            shapes.append(out[0].shape)
            return (out[0] * 2, *out[1:])
        return out

    with nn.intercept_methods(double):
        changed = model.get_text_features(ids), model.get_image_features(pixels)
        whole = model(ids, pixels)
    assert shapes == ([(3, 12, 16)] * 2 + [(2, 5, 24)] * 2) + ([(2, 5, 24)] * 2 + [(3, 12, 16)] * 2)
    for got, was, tower, name in zip(
        changed, plain, (whole.text_model_output, whole.vision_model_output), ("text", "visual"), strict=True
    ):
        assert not np.allclose(got, was)
        want = tower.pooler_output @ model.params[f"{name}_projection"]["kernel"]
        assert relative_error(got, np.asarray(want)) <= ACROSS
    assert np.array_equal(model.get_text_features(ids), plain[0])


def test_standard_layers_are_intercepted_by_their_flax_classes(inputs: Any) -> None:
    seen = set()

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        seen.update(cls for cls in (nn.Dense, nn.LayerNorm, nn.Conv, nn.Embed) if isinstance(context.module, cls))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        FlaxCLIPModel.from_pretrained(CHECKPOINT).get_image_features(inputs["pixel_values"])
    assert seen >= {nn.Dense, nn.LayerNorm, nn.Conv}


def test_captured_intermediates_are_whole(full: Any, inputs: Any) -> None:
    _, state = full.module.apply(
        {"params": full.params}, inputs["input_ids"], method="get_text_features", capture_intermediates=True
    )
    layers = state["intermediates"]["text_model"]["encoder"]["layers"]
    assert [layers[i]["__call__"][0][0].shape for i in "01"] == [(3, 12, 16)] * 2


def test_a_replaced_method_is_called_also_after_compiling(inputs: Any, monkeypatch: Any) -> None:
    model, ids = FlaxCLIPModel.from_pretrained(CHECKPOINT), inputs["input_ids"]
    before = model.get_text_features(ids)
    kept = clip_flax.FlaxCLIPMLP.__call__
    with monkeypatch.context() as patch:
        patch.setattr(clip_flax.FlaxCLIPMLP, "__call__", lambda self, x: kept(self, x).mean(1, keepdims=True) + 0 * x)
        changed = model.get_text_features(ids)
        want = model(ids, inputs["pixel_values"]).text_model_output.pooler_output
        assert relative_error(changed, np.asarray(want @ model.params["text_projection"]["kernel"])) <= ACROSS
    assert not np.allclose(changed, before)
    assert np.array_equal(model.get_text_features(ids), before)


class ShiftedTower(clip_flax.FlaxCLIPTextTransformer):
    def __call__(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        out = super().__call__(input_ids, *args, **kwargs)
        return out.replace(pooler_output=out.pooler_output + 1)


class ShiftedModule(clip_flax.FlaxCLIPModule):
    def setup(self) -> None:
        self.text_model = ShiftedTower(self.config.text_config, self.dtype)
        self.vision_model = clip_flax.FlaxCLIPVisionTransformer(self.config.vision_config)
        self.text_projection = nn.Dense(self.config.projection_dim, use_bias=False)
        self.visual_projection = nn.Dense(self.config.projection_dim, use_bias=False)
        self.logit_scale = self.param("logit_scale", nn.initializers.ones, ())


class FlaxShifted(FlaxCLIPModel):
    module_class = ShiftedModule


class V437Module(nn.Module):
    """The four parts that v4.37's wrapper asks for, and no methods."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.text_model = clip_flax.FlaxCLIPTextTransformer(self.config.text_config)
        self.vision_model = clip_flax.FlaxCLIPVisionTransformer(self.config.vision_config)
        self.text_projection = nn.Dense(self.config.projection_dim, use_bias=False)
        self.visual_projection = nn.Dense(self.config.projection_dim, use_bias=False)
        self.logit_scale = self.param("logit_scale", nn.initializers.ones, ())

    def __call__(
        self, input_ids: Any, pixel_values: Any, mask: Any, positions: Any, deterministic: bool = True, *flags: Any
    ) -> Any:
        assert mask.shape == positions.shape == input_ids.shape  # never None in v4.37
        text = self.text_model(input_ids, mask, positions, deterministic)[1]
        return self.text_projection(text) @ self.visual_projection(self.vision_model(pixel_values)[1]).T


class FlaxV437(clip_flax.FlaxCLIPPreTrainedModel):
    module_class = V437Module


def test_a_replaced_tower_is_used_everywhere(full: Any, inputs: Any) -> None:
    model = FlaxShifted.from_pretrained(CHECKPOINT)
    ids = inputs["input_ids"]
    shift = full.params["text_projection"]["kernel"].sum(0, keepdims=True)
    assert relative_error(model.get_text_features(ids), np.asarray(full.get_text_features(ids) + shift)) <= ACROSS


def test_modules_written_for_v437_are_called_as_there(full: Any, inputs: Any) -> None:
    model = FlaxV437.from_pretrained(CHECKPOINT)
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    texts, images = model.get_text_features(ids), model.get_image_features(pixels)
    assert relative_error(texts, np.asarray(full.get_text_features(ids))) <= ACROSS
    assert relative_error(model(ids, pixels), np.asarray(texts @ images.T)) <= ACROSS


def written_for_v437(kind: Any) -> Any:
    """A subclass of a part that knows the parameters of v4.37 alone, and computes something else."""

    class Part(kind):
        def __call__(  # type: ignore[override]
            self,
            hidden_states: Any,
            attention_mask: Any = None,
            deterministic: bool = True,
            output_attentions: Any = False,
        ) -> Any:
            out = super().__call__(hidden_states, attention_mask, deterministic, output_attentions)
            return (out[0] + jnp.arange(out[0].shape[-1])[None, None], *out[1:])

    return Part


@pytest.mark.parametrize("name", ["FlaxCLIPEncoderLayer", "FlaxCLIPAttention"])
def test_parts_written_for_v437_take_the_places_of_ours(name: str, inputs: Any, monkeypatch: Any) -> None:
    model = FlaxCLIPModel.from_pretrained(CHECKPOINT)
    ids, before = inputs["input_ids"], model.get_text_features(inputs["input_ids"])
    monkeypatch.setattr(clip_flax.modeling, name, written_for_v437(getattr(clip_flax.modeling, name)))
    changed = model.get_text_features(ids)
    assert not np.allclose(changed, before)
    want = model(ids, inputs["pixel_values"]).text_model_output.pooler_output
    assert relative_error(changed, np.asarray(want @ model.params["text_projection"]["kernel"])) <= ACROSS


def test_embeddings_and_encoders_written_for_v437(inputs: Any, monkeypatch: Any) -> None:
    """They are made of a config and a dtype, and called with pixels, or with states, a mask and flags."""

    class Embeddings(nn.Module):
        config: Any
        dtype: Any = jnp.float32

        @nn.compact
        def __call__(self, pixel_values: Any) -> Any:
            return nn.Dense(self.config.hidden_size)(pixel_values.mean((1, 2)))[:, None].repeat(3, 1)

    class Encoder(nn.Module):
        config: Any
        dtype: Any = jnp.float32

        @nn.compact
        def __call__(
            self, inputs_embeds: Any, attention_mask: Any = None, deterministic: bool = True,
            output_attentions: bool = False, output_hidden_states: bool = False, return_dict: bool = True,
        ) -> Any:  # fmt: skip
            return BaseModelOutput(last_hidden_state=2 * inputs_embeds)

    monkeypatch.setattr(clip_flax.modeling, "FlaxCLIPVisionEmbeddings", Embeddings)
    monkeypatch.setattr(clip_flax.modeling, "FlaxCLIPEncoder", Encoder)
    tower = clip_flax.FlaxCLIPVisionTransformer(VISION)
    out, _ = tower.init_with_output(jax.random.PRNGKey(0), jnp.ones((2, 16, 16, 3)))
    assert out.last_hidden_state.shape == (2, 3, 16)


# -- outputs ----------------------------------------------------------------------------------------------------------


@dataclass
class Extended(BaseModelOutput):
    extra: Any = None


class Undecorated(BaseModelOutput):
    pass


@flax.struct.dataclass
class Frozen(ModelOutput):
    logits: Any = None
    extra: Any = None


@pytest.mark.parametrize("cls", [Extended, Undecorated, Frozen])
def test_subclasses_of_outputs_are_pytrees(cls: Any) -> None:
    got = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf * 2, x))(cls(jnp.ones(2)))
    assert type(got) is cls and len(got) == 1 and np.array_equal(got[0], [2, 2])
    assert type(pickle.loads(pickle.dumps(got))) is cls
