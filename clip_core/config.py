"""CLIPTextConfig, CLIPVisionConfig, CLIPConfig: v4.37's parameters, defaults and files, without transformers.

Source of the rules: transformers 4.37.2's CLIP configuration. Difference, on purpose: a sub-config may be given as an
object as well as a dict. What all configs share is in `config_base.py`.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from .config_base import ACTIVATIONS, PretrainedConfig
from .errors import ConfigError

__all__ = [
    "ACTIVATIONS",
    "CLIPConfig",
    "CLIPResNetVisionConfig",
    "CLIPTextConfig",
    "CLIPVisionConfig",
    "PretrainedConfig",
]


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
        if config_dict.get("model_type") not in ("clip", "clip_resnet") and cls._key_in_full_model not in config_dict:
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
    _positive: tuple[str, ...] = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "num_attention_heads",
        "max_position_embeddings",
    )
    _at_least_zero: tuple[str, ...] = ("num_hidden_layers",)
    _finite: tuple[str, ...] = ("initializer_range", "initializer_factor")

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
    _other_types: tuple[str, ...] = ("clip_resnet_vision_model",)
    _key_in_full_model = "vision_config"
    _positive: tuple[str, ...] = (
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "num_attention_heads",
        "num_channels",
        "image_size",
        "patch_size",
    )
    _at_least_zero: tuple[str, ...] = ("num_hidden_layers",)
    _finite: tuple[str, ...] = ("initializer_range", "initializer_factor")

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

    @classmethod
    def _class_of(cls, values: Mapping[str, Any]) -> type[Any]:
        resnet = cls is CLIPVisionConfig and values.get("model_type") == CLIPResNetVisionConfig.model_type
        return CLIPResNetVisionConfig if resnet else cls


class CLIPResNetVisionConfig(CLIPVisionConfig):
    """The vision tower of OpenAI's RN50, RN101, RN50x4, x16 and x64. Defaults are those of RN50.

    A ResNet with a stem of three convolutions, average pools in the place of strides, and attention that pools and
    projects.

    transformers has no such model, so `model_type` is this package's own. Nothing here is in v4.37.

    Args:
        layers: blocks of the four stages. Default (3, 4, 6, 3).
        width: of the first stage; the last one gives 32 times as many channels, `hidden_size`. Default 64.
        num_attention_heads: of the attention that pools; must divide `hidden_size`. Default 32. OpenAI's have one for
            every 64 channels.
        projection_dim: width of the tower's output, which is that of the shared space. Default 1024.
        num_channels, image_size: 3, 224 pixels.
        batch_norm_eps, batch_norm_momentum: 1e-5, 0.1: the weight of a new batch in the running statistics.
        initializer_factor: of fresh weights' standard deviations. Default 1.0.

    `hidden_size`, `num_hidden_layers` (blocks) and `patch_size` (32: pixels on a side for one place of the grid) follow
    from these and can't be set.
    """

    model_type = "clip_resnet_vision_model"
    _other_types: tuple[str, ...] = ()
    _positive: tuple[str, ...] = ("width", "num_attention_heads", "projection_dim", "num_channels", "image_size")
    _at_least_zero: tuple[str, ...] = ()
    _finite: tuple[str, ...] = ("initializer_factor",)
    patch_size = 32  # type: ignore[assignment]

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_attention_heads: int = 32,
        projection_dim: int = 1024,
        num_channels: int = 3,
        image_size: int = 224,
        batch_norm_eps: float = 1e-5,
        batch_norm_momentum: float = 0.1,
        initializer_factor: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if derived := {"hidden_size", "num_hidden_layers", "patch_size"} & set(kwargs):
            raise ConfigError(
                f"CLIPResNetVisionConfig: {sorted(derived)[0]}: follows from layers and width, and can't be given"
            )
        super(CLIPVisionConfig, self).__init__(**kwargs)
        self.layers = list(layers) if isinstance(layers, list | tuple) else layers
        self.width = width
        self.num_attention_heads = num_attention_heads
        self.projection_dim = projection_dim
        self.num_channels = num_channels
        self.image_size = image_size
        self.batch_norm_eps = batch_norm_eps
        self.batch_norm_momentum = batch_norm_momentum
        self.initializer_factor = initializer_factor
        self.check_values()

    @property
    def hidden_size(self) -> int:  # type: ignore[override]
        return 32 * self.width

    @property
    def num_hidden_layers(self) -> int:  # type: ignore[override]
        return sum(self.layers)

    def check_values(self) -> None:
        PretrainedConfig.check_values(self)
        layers = self.layers
        whole = isinstance(layers, list) and len(layers) == 4 and all(type(n) is int and 0 < n < 1000 for n in layers)
        if not whole:
            raise ConfigError(f"CLIPResNetVisionConfig: layers: wanted four integers from 1, found {layers!r}")
        self._check_range("batch_norm_eps", 0.0, 1.0)
        self._check_range("batch_norm_momentum", 0.0, 1.0)

    def validate(self) -> None:
        self.check_values()
        name = type(self).__name__
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"{name}: num_attention_heads: wanted a divisor of 32 * width, {self.hidden_size}, found "
                f"{self.num_attention_heads}"
            )
        if self.width % 2:
            raise ConfigError(f"{name}: width: wanted an even number, found {self.width}")
        grid = (self.image_size + 1) // 2 // 16  # a convolution of stride 2, then four average pools of 2
        if grid != self.image_size // 32 or grid == 0:
            raise ConfigError(
                f"{name}: image_size: wanted about a multiple of 32, at least 32, found {self.image_size}: its pools "
                f"would leave a grid of {grid} places, and there are positions for {self.image_size // 32}"
            )
        if self.pruned_heads:
            raise ConfigError(f"{name}: pruned_heads: a ResNet has no heads to prune, found {self.pruned_heads!r}")


class CLIPConfig(PretrainedConfig):
    """The full model: two towers and the shared space.

    Args:
        text_config, vision_config: a dict, a config object, or None for the defaults. A vision_config whose model_type
            is "clip_resnet_vision_model" is a CLIPResNetVisionConfig; the whole's `model_type` is "clip_resnet" then.
        projection_dim: width of the shared space; wins over the sub-configs'. Default 512.
        logit_scale_init_value: initial log temperature. Default 2.6592, i.e. log(1 / 0.07).
        text_config_dict, vision_config_dict: forms found in old files. They are completed with the defaults and then
            override every value of `text_config` / `vision_config`; they are not saved (transformers #22035).

    Raises ConfigError for sub-configs that are none. Files and models are checked: `validate`.
    """

    model_type = "clip"
    _other_types: tuple[str, ...] = ("clip_resnet",)
    _sub_configs = ("text_config", "vision_config")
    _positive: tuple[str, ...] = ("projection_dim",)
    _finite: tuple[str, ...] = ("logit_scale_init_value", "initializer_factor")

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
        if isinstance(self.vision_config, CLIPResNetVisionConfig):
            self.model_type = "clip_resnet"  # no other program takes it for a CLIP that it knows
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
        merged.update(cls._class_of(override)(**override).to_dict())
    return cls._class_of(merged)(**copy.deepcopy(merged))
