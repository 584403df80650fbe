"""v4.37's base classes of the public ones, which have the parameters and compile a module's calls.

B batch, S sequence, P projection, C channels, h and w pixels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clip_core.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.inputs import resolve_flags
from clip_core.pretrained import checked_config

from .bridge import FlaxPreTrainedModel, as_dtype
from .inputs import text_inputs, vision_inputs
from .pooling import image_features, text_features


class FlaxCLIPTextPreTrainedModel(FlaxPreTrainedModel):
    """Base of the text classes' wrappers. See `FlaxPreTrainedModel` for the parameters; `input_shape` is [B, S]."""

    config_class = CLIPTextConfig
    main_input_name = "input_ids"

    def __init__(
        self,
        config: CLIPTextConfig,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        jit: bool = True,
        **kwargs: Any,
    ) -> None:
        config = checked_config(type(self), config)
        module = self.module_class(config=config, dtype=as_dtype(dtype), **kwargs)
        super().__init__(config, module, input_shape, seed, dtype, _do_init, jit)

    def _example(self, input_shape: Any) -> dict[str, Any]:
        return {"input_ids": np.zeros(input_shape, np.int32)}

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids, attention_mask (1 keeps, 0 hides), position_ids: [B, S] integers."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        inputs = text_inputs(self._limits(self.config), input_ids, attention_mask, position_ids)
        return self._run(inputs, params, dropout_rng, train, flags)


class FlaxCLIPVisionPreTrainedModel(FlaxPreTrainedModel):
    """Base of the vision classes' wrappers. `input_shape` is [B, h, w, C]; None: one image of the config's size."""

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"

    def __init__(
        self,
        config: CLIPVisionConfig,
        input_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        jit: bool = True,
        **kwargs: Any,
    ) -> None:
        config = checked_config(type(self), config)
        module = self.module_class(config=config, dtype=as_dtype(dtype), **kwargs)
        super().__init__(config, module, input_shape, seed, dtype, _do_init, jit)

    @property
    def _tower_config(self) -> Any:
        """The vision tower's config."""
        return self.config

    def _default_input_shape(self) -> Any:
        return pixel_shape(self._tower_config)

    def _example(self, input_shape: Any) -> dict[str, Any]:
        return {"pixel_values": np.zeros(input_shape, np.float32)}

    def __call__(
        self,
        pixel_values: Any,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """pixel_values: [B, C, image_size, image_size], or any size with `interpolate_pos_encoding`."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        inputs = vision_inputs(self._limits(self._tower_config), pixel_values, interpolate_pos_encoding)
        return self._run(inputs, params, dropout_rng, train, flags, **interpolation(interpolate_pos_encoding))


class FlaxCLIPPreTrainedModel(FlaxPreTrainedModel):
    """Base of the full model's wrapper. `input_shape` is ([B, S], [B, h, w, C]); None: one token and one image."""

    config_class = CLIPConfig
    main_input_name = "input_ids"

    def __init__(
        self,
        config: CLIPConfig,
        input_shape: tuple[Any, ...] | None = None,
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        jit: bool = True,
        **kwargs: Any,
    ) -> None:
        config = checked_config(type(self), config)
        module = self.module_class(config=config, dtype=as_dtype(dtype), **kwargs)
        super().__init__(config, module, input_shape, seed, dtype, _do_init, jit)

    def _default_input_shape(self) -> Any:
        return (1, 1), pixel_shape(self.config.vision_config)

    def _example(self, input_shape: Any) -> dict[str, Any]:
        ids, pixels = input_shape
        return {"input_ids": np.zeros(ids, np.int32), "pixel_values": np.zeros(pixels, np.float32)}

    def get_text_features(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Text embeddings [B, P], not normalised."""
        inputs = text_inputs(self._limits(self.config.text_config), input_ids, attention_mask, position_ids)
        return self._run(inputs, params, dropout_rng, train, method=self._method("get_text_features"))

    def get_image_features(
        self,
        pixel_values: Any,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> jax.Array:
        """Image embeddings [B, P], not normalised."""
        inputs = vision_inputs(self._limits(self.config.vision_config), pixel_values, interpolate_pos_encoding)
        options = {"method": self._method("get_image_features"), **interpolation(interpolate_pos_encoding)}
        return self._run(inputs, params, dropout_rng, train, **options)

    def _method(self, name: str) -> Any:
        """The module's own method, or v4.37's function for any module with towers and projections of these names."""
        generic = {"get_text_features": text_features, "get_image_features": image_features}
        return name if hasattr(type(self.module), name) else generic[name]

    def __call__(
        self,
        input_ids: Any,
        pixel_values: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """Texts [B_t, S] and pixels [B_i, C, h, w] -> FlaxCLIPOutput."""
        flags = resolve_flags(self.config, output_attentions, output_hidden_states, return_dict)
        inputs = {
            **vision_inputs(self._limits(self.config.vision_config), pixel_values, interpolate_pos_encoding),
            **text_inputs(self._limits(self.config.text_config), input_ids, attention_mask, position_ids),
        }
        return self._run(inputs, params, dropout_rng, train, flags, **interpolation(interpolate_pos_encoding))


def pixel_shape(config: CLIPVisionConfig) -> tuple[int, ...]:
    return 1, config.image_size, config.image_size, config.num_channels


def interpolation(wanted: bool) -> dict[str, bool]:
    """The option as a keyword only if it is set, because v4.37's and users' modules don't have it."""
    return {"interpolate_pos_encoding": True} if wanted else {}
