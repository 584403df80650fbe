"""CLIPTextConfig, CLIPVisionConfig, CLIPConfig: v4.37's parameters, defaults and files, without transformers.

Source of the rules: transformers 4.37.2's CLIP configuration. Difference, on purpose: a sub-config may be given as an
object as well as a dict. What all configs share is in `config_base.py`.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping
from typing import Any

from .config_base import ACTIVATIONS, PretrainedConfig
from .errors import ConfigError

__all__ = ["ACTIVATIONS", "CLIPConfig", "CLIPTextConfig", "CLIPVisionConfig", "PretrainedConfig"]


class _TowerConfig(PretrainedConfig):
    """What the text and the vision tower's configs have in common."""

    _key_in_full_model = ""

    def validate(self) -> None:
        super().validate()
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"{type(self).__name__}: num_attention_heads: wanted a divisor of hidden_size "
                f"{self.hidden_size}, found {self.num_attention_heads}"
            )
        self._check_pruned_heads()

    def check_values(self) -> None:
        super().check_values()
        if not callable(self.hidden_act) and self.hidden_act not in ACTIVATIONS:
            raise ConfigError(
                f"{type(self).__name__}: hidden_act: wanted one of {', '.join(ACTIVATIONS)} or a callable, "
                f"found {self.hidden_act!r}"
            )
        self._check_range("attention_dropout", 0.0, 1.0)
        self._check_range("layer_norm_eps", 0.0, 1.0)

    def _check_pruned_heads(self) -> None:
        heads = range(self.num_attention_heads)
        for layer, pruned in self.pruned_heads.items():
            fits = isinstance(pruned, list | tuple | set) and all(head in heads for head in pruned)
            if not fits or len(set(pruned)) == len(heads):
                raise ConfigError(
                    f"{type(self).__name__}: pruned_heads: wanted lists of heads from 0 to {len(heads) - 1} that leave "
                    f"one at least, found {pruned!r} for layer {layer}"
                )

    @classmethod
    def _own_part(cls, config_dict: dict[str, Any]) -> dict[str, Any]:
        if config_dict.get("model_type") != "clip" and cls._key_in_full_model not in config_dict:
            return config_dict
        part = config_dict.get(cls._key_in_full_model)
        if not isinstance(part, Mapping):
            raise ConfigError(
                f"{cls.__name__}: wanted {cls._key_in_full_model!r} in the full model's config, "
                f"found {', '.join(sorted(config_dict)) or 'nothing'}"
            )
        return dict(part)


class CLIPTextConfig(_TowerConfig):
    """The text tower. Defaults are those of OpenAI's ViT-B/32.

    Args:
        vocab_size: rows of the token embedding. Default 49408.
        hidden_size, intermediate_size: widths of the residual stream and of the MLP. Defaults 512, 2048.
        projection_dim: width of the shared space (CLIPTextModelWithProjection). Default 512.
        num_hidden_layers, num_attention_heads: defaults 12, 8; heads must divide hidden_size.
        max_position_embeddings: longest input, in tokens. Default 77.
        hidden_act: "quick_gelu" (OpenAI), "gelu" (LAION), "gelu_new", "relu", "selu", "silu", or a callable.
        layer_norm_eps, attention_dropout, initializer_range, initializer_factor: 1e-5, 0.0, 0.02, 1.0.
        pad_token_id, bos_token_id, eos_token_id: 1, 49406, 49407. `eos_token_id == 2` marks files older than 4.31,
            which pool at argmax(input_ids).

    Files and models are checked: `validate` raises ConfigError.
    """

    model_type = "clip_text_model"
    _key_in_full_model = "text_config"
    _positive = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "num_attention_heads",
        "max_position_embeddings",
    )
    _at_least_zero = ("num_hidden_layers",)
    _finite = ("initializer_range", "initializer_factor")

    def __init__(
        self,
        vocab_size: int = 49408,
        hidden_size: int = 512,
        intermediate_size: int = 2048,
        projection_dim: int = 512,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 8,
        max_position_embeddings: int = 77,
        hidden_act: Any = "quick_gelu",
        layer_norm_eps: float = 1e-5,
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        initializer_factor: float = 1.0,
        pad_token_id: int | None = 1,
        bos_token_id: int | None = 49406,
        eos_token_id: int | None = 49407,
        **kwargs: Any,
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id, **kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.projection_dim = projection_dim
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.initializer_factor = initializer_factor

    def check_values(self) -> None:
        super().check_values()
        eos = self.eos_token_id
        if not isinstance(eos, numbers.Integral) or isinstance(eos, bool):
            raise ConfigError(f"CLIPTextConfig: eos_token_id: wanted an integer, found {eos!r}")


class CLIPVisionConfig(_TowerConfig):
    """The vision tower. Defaults are those of OpenAI's ViT-B/32.

    Args:
        hidden_size, intermediate_size, projection_dim: 768, 3072, 512.
        num_hidden_layers, num_attention_heads: 12, 12; heads must divide hidden_size.
        num_channels, image_size, patch_size: 3, 224, 32 (pixels; patches beyond a whole number are cut off).
        hidden_act, layer_norm_eps, attention_dropout, initializer_range, initializer_factor: as for the text tower.

    Files and models are checked: `validate` raises ConfigError.
    """

    model_type = "clip_vision_model"
    _key_in_full_model = "vision_config"
    _positive = (
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "num_attention_heads",
        "num_channels",
        "image_size",
        "patch_size",
    )
    _at_least_zero = ("num_hidden_layers",)
    _finite = ("initializer_range", "initializer_factor")

    def __init__(
        self,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        projection_dim: int = 512,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        num_channels: int = 3,
        image_size: int = 224,
        patch_size: int = 32,
        hidden_act: Any = "quick_gelu",
        layer_norm_eps: float = 1e-5,
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        initializer_factor: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.projection_dim = projection_dim
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_channels = num_channels
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.initializer_factor = initializer_factor

    def validate(self) -> None:
        super().validate()
        if self.patch_size > self.image_size:
            raise ConfigError(
                f"CLIPVisionConfig: patch_size: wanted at most image_size {self.image_size}, found {self.patch_size}"
            )


class CLIPConfig(PretrainedConfig):
    """The full model: two towers and the shared space.

    Args:
        text_config, vision_config: a dict, a config object, or None for the defaults.
        projection_dim: width of the shared space; wins over the sub-configs'. Default 512.
        logit_scale_init_value: initial log temperature. Default 2.6592, i.e. log(1 / 0.07).
        text_config_dict, vision_config_dict: forms found in old files. They are completed with the defaults and then
            override every value of `text_config` / `vision_config`; they are not saved (transformers #22035).

    Raises ConfigError for sub-configs that are none. Files and models are checked: `validate`.
    """

    model_type = "clip"
    _sub_configs = ("text_config", "vision_config")
    _positive = ("projection_dim",)
    _finite = ("logit_scale_init_value", "initializer_factor")

    def __init__(
        self,
        text_config: Any = None,
        vision_config: Any = None,
        projection_dim: int = 512,
        logit_scale_init_value: float = 2.6592,
        **kwargs: Any,
    ) -> None:
        text_override = kwargs.pop("text_config_dict", None)
        vision_override = kwargs.pop("vision_config_dict", None)
        super().__init__(**kwargs)
        self.text_config = _sub_config(CLIPTextConfig, text_config, text_override)
        self.vision_config = _sub_config(CLIPVisionConfig, vision_config, vision_override)
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        self.initializer_factor = 1.0

    @classmethod
    def from_text_vision_configs(cls, text_config: Any, vision_config: Any, **kwargs: Any) -> CLIPConfig:
        """A full config from the two towers' configs (copied); keywords as for the constructor."""
        return cls(text_config=text_config, vision_config=vision_config, **kwargs)

    def validate(self) -> None:
        super().validate()
        self.text_config.validate()
        self.vision_config.validate()

    def check_values(self) -> None:
        super().check_values()
        self.text_config.check_values()
        self.vision_config.check_values()


def _sub_config(cls: type[_TowerConfig], values: Any, override: Any) -> Any:
    if not isinstance(values, PretrainedConfig) or isinstance(values, cls):
        to_dict = getattr(values, "to_dict", None)  # ours, or another library's
        values = to_dict() if callable(to_dict) else values
    for name, given in ((cls._key_in_full_model, values), (f"{cls._key_in_full_model}_dict", override)):
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f"CLIPConfig: {name}: wanted a dict or a {cls.__name__}, found {given!r}")
    merged = dict(values or {})
    if override is not None:
        merged.update(cls(**override).to_dict())
    return cls(**copy.deepcopy(merged))
