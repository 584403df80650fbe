"""MaxDiffusion's uses of these classes, with only the import changed.

The patterns are those of its checkpointer, pipelines, trainers and safety checker for Stable Diffusion.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from clip_flax import (
    CLIPConfig,
    CLIPTextConfig,
    FlaxCLIPTextModel,
    FlaxCLIPTextModelWithProjection,
    FlaxCLIPTextPreTrainedModel,
    FlaxCLIPVisionModel,
    FlaxCLIPVisionModule,
    FlaxPreTrainedModel,
)

from .conftest import CHECKPOINT


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: Any) -> Path:
    """A folder with text_encoder and text_encoder_2, as a diffusers pipeline has them."""
    folder = tmp_path_factory.mktemp("pipeline")
    hf = CHECKPOINT.parent / "hf"
    for name, cls in (("text_encoder", FlaxCLIPTextModel), ("text_encoder_2", FlaxCLIPTextModelWithProjection)):
        cls.from_pretrained(hf, from_pt=True).save_pretrained(folder / name, safe_serialization=True)
    return folder


def test_loading_and_encoding_prompts(pipeline: Path, inputs: Any) -> None:
    text_encoder = FlaxCLIPTextModel.from_pretrained(
        str(pipeline), revision=None, subfolder="text_encoder", from_pt=True, dtype="bfloat16"
    )
    text_encoder_2 = FlaxCLIPTextModelWithProjection.from_pretrained(
        str(pipeline), subfolder="text_encoder_2", from_pt=True, dtype=jnp.float32
    )
    params = {"text_encoder": text_encoder.params, "text_encoder_2": text_encoder_2.params}
    params = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), params)
    assert text_encoder.dtype == jnp.bfloat16 and isinstance(text_encoder, FlaxCLIPTextPreTrainedModel)

    @jax.jit
    def get_embeddings(prompt_ids: Any, params: Any) -> Any:
        first = text_encoder(prompt_ids, params=params["text_encoder"], output_hidden_states=True, train=False)
        second = text_encoder_2(prompt_ids, params=params["text_encoder_2"], output_hidden_states=True)
        embeds = jnp.concatenate([first["hidden_states"][-2], second.hidden_states[-2]], axis=-1)
        return first[0], first.pooler_output, embeds, second["text_embeds"]

    last, pooled, embeds, text_embeds = get_embeddings(inputs["input_ids"], params)
    assert (last.shape, pooled.shape, embeds.shape, text_embeds.shape) == ((3, 12, 16), (3, 16), (3, 12, 32), (3, 8))
    assert all(bool(jnp.isfinite(x.astype(jnp.float32)).all()) for x in (last, pooled, embeds, text_embeds))


def test_restoring_a_state_into_a_model_without_parameters(pipeline: Path, inputs: Any) -> None:
    """The checkpointer keeps a JSON config and a state; the model is made from the first, abstractly initialised."""
    trained = FlaxCLIPTextModel.from_pretrained(pipeline, subfolder="text_encoder")
    stored = json.loads(trained.config.to_json_string())
    config = CLIPTextConfig(**stored)
    assert (config.max_position_embeddings, config.hidden_size, config.projection_dim) == (12, 16, 8)
    text_encoder = FlaxCLIPTextModel(config, seed=3, dtype="bfloat16", _do_init=False)
    weights_init_fn = functools.partial(
        text_encoder.init_weights, rng=jax.random.PRNGKey(0), input_shape=(8, config.max_position_embeddings)
    )
    abstract = jax.eval_shape(weights_init_fn)
    assert set(flatten_dict(abstract)) == set(flatten_dict(trained.params))
    initialised = jax.jit(weights_init_fn)()
    assert jax.tree.map(jnp.shape, initialised) == jax.tree.map(jnp.shape, trained.params)
    out = text_encoder(inputs["input_ids"], params=trained.params, train=False)
    assert out.pooler_output.dtype == jnp.bfloat16


def test_training_the_text_encoder(pipeline: Path, inputs: Any) -> None:
    text_encoder = FlaxCLIPTextModel.from_pretrained(pipeline, subfolder="text_encoder")

    def loss(params: Any, key: Any) -> Any:
        return jnp.square(text_encoder(inputs["input_ids"], params=params, dropout_rng=key, train=True)[0]).mean()

    gradient = jax.jit(jax.grad(loss))(text_encoder.params, jax.random.PRNGKey(0))
    text_encoder.params = jax.tree.map(lambda p, g: p - 0.1 * g, text_encoder.params, gradient)
    assert float(loss(text_encoder.params, jax.random.PRNGKey(0))) > 0


class SafetyCheckerModule(nn.Module):
    config: CLIPConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.vision_model = FlaxCLIPVisionModule(self.config.vision_config)
        self.visual_projection = nn.Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype)
        self.concept_embeds = self.param("concept_embeds", nn.initializers.ones, (17, self.config.projection_dim))

    def __call__(self, clip_input: Any) -> Any:
        image_embeds = self.visual_projection(self.vision_model(clip_input)[1])
        return image_embeds @ self.concept_embeds.T


class FlaxSafetyChecker(FlaxPreTrainedModel):
    config_class = CLIPConfig
    main_input_name = "clip_input"
    module_class = SafetyCheckerModule

    def __init__(
        self,
        config: CLIPConfig,
        input_shape: Any = None,
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        **kwargs: Any,
    ) -> None:
        if input_shape is None:
            input_shape = (1, config.vision_config.image_size, config.vision_config.image_size, 3)
        module = self.module_class(config=config, dtype=dtype, **kwargs)
        super().__init__(config, module, input_shape=input_shape, seed=seed, dtype=dtype, _do_init=_do_init)

    def init_weights(self, rng: Any, input_shape: Any, params: Any = None) -> Any:
        params_rng, dropout_rng = jax.random.split(rng)
        rngs = {"params": params_rng, "dropout": dropout_rng}
        return self.module.init(rngs, jax.random.normal(rng, input_shape))["params"]

    def __call__(self, clip_input: Any, params: Any = None) -> Any:
        clip_input = jnp.transpose(clip_input, (0, 2, 3, 1))
        return self.module.apply({"params": params or self.params}, jnp.array(clip_input, jnp.float32), rngs={})


def test_a_subclass_with_a_module_of_its_own(full: Any, inputs: Any, tmp_path: Path) -> None:
    checker = FlaxSafetyChecker(full.config)
    assert set(checker.params) == {"vision_model", "visual_projection", "concept_embeds"}
    params = {
        **checker.params,
        "vision_model": {"vision_model": full.params["vision_model"]},
        "visual_projection": full.params["visual_projection"],
    }
    checker.params = params
    want = full.get_image_features(inputs["pixel_values"]) @ jnp.ones((8, 17))
    assert np.allclose(checker(inputs["pixel_values"]), want, atol=1e-4)
    assert np.allclose(checker(inputs["pixel_values"], params=params), want, atol=1e-4)

    checker.save_pretrained(tmp_path)
    again = FlaxSafetyChecker.from_pretrained(tmp_path, dtype="float32")
    assert np.array_equal(again(inputs["pixel_values"]), checker(inputs["pixel_values"]))
    _, loose = FlaxSafetyChecker.from_pretrained(tmp_path, _do_init=False)
    assert jax.tree.map(jnp.shape, loose) == jax.tree.map(jnp.shape, params)
    full.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="- concept_embeds"):
        FlaxSafetyChecker.from_pretrained(tmp_path)


def test_the_image_encoder(inputs: Any) -> None:
    image_encoder = FlaxCLIPVisionModel.from_pretrained(CHECKPOINT, dtype=jnp.float32)
    out = image_encoder(pixel_values=inputs["pixel_values"], output_hidden_states=True, train=False)
    assert out.hidden_states[-2].shape == (2, 5, 24)
