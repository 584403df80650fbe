"""What holds parameters and compiles a module's calls: v4.37's base classes of the public ones.

B batch, S sequence, P projection, C channels, h and w pixels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clip_core.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from clip_core.inputs import (
    Flags,
    check_id_range,
    check_ids,
    check_integers,
    check_mask,
    check_patch_range,
    check_patches,
    check_pixels,
    check_position_range,
    check_positions,
    resolve_flags,
)

from .bridge import FlaxPreTrainedModel, as_array, as_dtype, can_look


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
        module = self.module_class(config=config, dtype=as_dtype(dtype), **kwargs)
        super().__init__(config, module, input_shape, seed, dtype, _do_init, jit)

    def _example(self, input_shape: Any) -> dict[str, Any]:
        return {"input_ids": jax.ShapeDtypeStruct(input_shape, jnp.int32)}

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
        inputs = text_inputs(self.config, input_ids, attention_mask, position_ids)
        return self._run(inputs, params, dropout_rng, train, **flag_options(flags))


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
        module = self.module_class(config=config, dtype=as_dtype(dtype), **kwargs)
        super().__init__(config, module, input_shape, seed, dtype, _do_init, jit)

    def _default_input_shape(self) -> Any:
        return pixel_shape(self.config)

    def _example(self, input_shape: Any) -> dict[str, Any]:
        return {"pixel_values": jax.ShapeDtypeStruct(input_shape, jnp.float32)}

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
        inputs = vision_inputs(self.config, pixel_values, interpolate_pos_encoding)
        options = {**flag_options(flags), "interpolate_pos_encoding": interpolate_pos_encoding}
        return self._run(inputs, params, dropout_rng, train, **options)


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
        module = self.module_class(config=config, dtype=as_dtype(dtype), **kwargs)
        super().__init__(config, module, input_shape, seed, dtype, _do_init, jit)

    def _default_input_shape(self) -> Any:
        return (1, 1), pixel_shape(self.config.vision_config)

    def _example(self, input_shape: Any) -> dict[str, Any]:
        ids, pixels = input_shape
        return {
            "input_ids": jax.ShapeDtypeStruct(ids, jnp.int32),
            "pixel_values": jax.ShapeDtypeStruct(pixels, jnp.float32),
        }

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
        inputs = text_inputs(self.config.text_config, input_ids, attention_mask, position_ids)
        return self._run(inputs, params, dropout_rng, train, method="get_text_features")

    def get_image_features(
        self,
        pixel_values: Any,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> jax.Array:
        """Image embeddings [B, P], not normalised."""
        inputs = vision_inputs(self.config.vision_config, pixel_values, interpolate_pos_encoding)
        options = {"method": "get_image_features", "interpolate_pos_encoding": interpolate_pos_encoding}
        return self._run(inputs, params, dropout_rng, train, **options)

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
            **vision_inputs(self.config.vision_config, pixel_values, interpolate_pos_encoding),
            **text_inputs(self.config.text_config, input_ids, attention_mask, position_ids),
        }
        options = {**flag_options(flags), "interpolate_pos_encoding": interpolate_pos_encoding}
        return self._run(inputs, params, dropout_rng, train, **options)


def text_inputs(config: CLIPTextConfig, input_ids: Any, attention_mask: Any, position_ids: Any) -> dict[str, Any]:
    """Checked keyword arguments of a module: arrays, lists or None in, arrays or None out."""
    input_ids, attention_mask, position_ids = (as_array(x) for x in (input_ids, attention_mask, position_ids))
    check_text(config, input_ids, attention_mask, position_ids)
    return {
        "input_ids": input_ids.astype(np.int32),
        "attention_mask": attention_mask,
        "position_ids": None if position_ids is None else position_ids.astype(np.int32),
    }


def vision_inputs(config: CLIPVisionConfig, pixel_values: Any, interpolate: bool) -> dict[str, Any]:
    """As `text_inputs`; pixels stay [B, C, h, w] here."""
    pixel_values = as_array(pixel_values)
    check_pixels(config, None if pixel_values is None else pixel_values.shape, interpolate)
    return {"pixel_values": pixel_values}


def pixel_shape(config: CLIPVisionConfig) -> tuple[int, ...]:
    return 1, config.image_size, config.image_size, config.num_channels


def flag_options(flags: Flags) -> dict[str, bool]:
    return {
        "output_attentions": flags.attentions,
        "output_hidden_states": flags.hidden_states,
        "return_dict": flags.return_dict,
    }


def check_text(config: CLIPTextConfig, input_ids: Any, attention_mask: Any, position_ids: Any) -> None:
    """Shapes always; values only where looking costs no device synchronisation and nothing is being traced."""
    check_ids(config, None if input_ids is None else input_ids.shape)
    check_integers("input_ids", input_ids.dtype.name)
    rows = input_ids.reshape(-1, input_ids.shape[-1]).shape
    if attention_mask is not None:
        check_mask(attention_mask.shape, rows)
    if can_look(input_ids):
        check_id_range(config, *extremes(input_ids))
    if position_ids is not None:
        check_integers("position_ids", position_ids.dtype.name)
        check_positions(position_ids.shape, rows)
        if can_look(position_ids):
            check_position_range(config, *extremes(position_ids))


def check_chosen(patches: Any, batch: int, count: int) -> None:
    """As `check_text`, of the patches that are looked at."""
    check_integers("patches", patches.dtype.name)
    check_patches(patches.shape, batch)
    if can_look(patches):
        check_patch_range(count, *extremes(patches))


def check_nhwc(config: CLIPVisionConfig, pixel_values: Any, interpolate: bool) -> None:
    """The core's check on a module's [B, h, w, C]; its message speaks of [B, C, h, w]."""
    shape = None if pixel_values is None else pixel_values.shape
    if shape is not None and len(shape) == 4:
        shape = (shape[0], shape[3], shape[1], shape[2])
    check_pixels(config, shape, interpolate)


def extremes(x: Any) -> tuple[int, int]:
    array = np.asarray(x)
    return int(array.min()), int(array.max())
