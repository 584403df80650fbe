"""What all configs share: v4.37's common fields, reading and writing config.json, checks of single values.

Source of the rules: transformers 4.37.2's documented PretrainedConfig. Differences, on purpose: values that no model
can have raise ConfigError, and `torch_dtype` stays a string (no framework here).
"""

from __future__ import annotations

import copy
import json
import logging
import math
import numbers
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from .absent import absent_attribute
from .errors import ConfigError
from .files import write_text
from .hub import PushToHub, is_hub_name, upload_arguments, upload_message
from .hub import push_to_hub as upload_files
from .reading import read_json_object

CONFIG_NAME = "config.json"
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "selu", "silu", "swish")

# Fields that every v4.37 config has, kept so that old files load and save as in v4.37. The models read only
# return_dict, output_hidden_states, output_attentions, torchscript and pruned_heads.
COMMON_DEFAULTS: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "torch_dtype": None,
    "use_bfloat16": False,
    "tf_legacy_loss": False,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "architectures": None,
    "finetuning_task": None,
    "tokenizer_class": None,
    "prefix": None,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "task_specific_params": None,
    "problem_type": None,
    # Generation settings: meaningless for CLIP, but present in older config.json files.
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}

# Far above any real model; a value beyond it is a damaged or hostile file, stopped before anything is allocated.
_LARGEST = {"num_hidden_layers": 4096, "num_attention_heads": 65536}
_LARGEST_SIZE = 2**28


class PretrainedConfig(PushToHub):
    """The fields and files that all three configs share. Unknown keywords become attributes and are saved.

    The constructor takes values as they are, since a config may be completed after it was made. What no model can have
    is refused where a file or a dict is read (`check_values`), what doesn't fit together by the models (`validate`).

    Args:
        return_dict: outputs as classes (True) or tuples. Default True.
        output_hidden_states, output_attentions: asked for on every call. Default False.
        torch_dtype (or `dtype`): name of the weights' type, as a string.
        **kwargs: any other v4.37 field, or any attribute of your own.
    """

    model_type = ""
    _other_types: tuple[str, ...] = ()  # of files that the class reads too
    is_composition = False
    attribute_map: dict[str, str] = {}  # aliases of fields, for subclasses
    _sub_configs: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(self.attribute_map.get(name, name), value)

    def __getattr__(self, name: str) -> Any:  # called only if normal lookup fails
        own = type(self).attribute_map.get(name)
        if own is None:
            raise absent_attribute(self, name, "config")
        return getattr(self, own)

    def __init__(self, **kwargs: Any) -> None:
        if "dtype" in kwargs:  # transformers >= 4.56 writes this name
            kwargs.setdefault("torch_dtype", kwargs["dtype"])
            del kwargs["dtype"]
        for key, default in COMMON_DEFAULTS.items():
            setattr(self, key, kwargs.pop(key, copy.deepcopy(default)))
        self.torch_dtype: Any = _dtype_name(self.torch_dtype)
        with suppress(ConfigError):  # as the others, it may be completed later
            self.pruned_heads: Any = self._integer_keys("pruned_heads", self.pruned_heads or {})
        num_labels = kwargs.pop("num_labels", None)
        id2label = kwargs.pop("id2label", None)
        self.label2id = kwargs.pop("label2id", None)
        self.id2label = None if id2label is None else self._integer_keys("id2label", id2label)
        if self.id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
        self._name_or_path = str(kwargs.pop("name_or_path", kwargs.pop("_name_or_path", "")))
        self._commit_hash = kwargs.pop("_commit_hash", None)
        self._attn_implementation = kwargs.pop("attn_implementation", kwargs.pop("_attn_implementation", None))
        self.transformers_version = kwargs.pop("transformers_version", None)
        kwargs.pop("model_type", None)  # a class attribute; a file must not override it
        for key, value in kwargs.items():
            setattr(self, key, value)

    @property
    def name_or_path(self) -> str:
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: Any) -> None:
        self._name_or_path = str(value)

    @property
    def use_return_dict(self) -> bool:
        """`return_dict`, except that `torchscript=True` always means tuples."""
        return self.return_dict and not self.torchscript

    @property
    def num_labels(self) -> int:
        return len(self.id2label or {})

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        self._check_integer("num_labels", count, lowest=0)
        if self.id2label is None or len(self.id2label) != count:
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}
            self.label2id = {label: i for i, label in self.id2label.items()}

    def _integer_keys(self, key: str, value: Any) -> dict[int, Any]:
        """A dict whose keys are integers; JSON files hold them as strings."""
        try:
            return {int(i): copy.copy(item) for i, item in value.items()}
        except (AttributeError, TypeError, ValueError):
            message = f"{type(self).__name__}: {key}: wanted a dict with integer keys, found {value!r}"
            raise ConfigError(message) from None

    # -- reading ------------------------------------------------------------------------------------------------------

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], dict]:
        """The raw dict of a folder's or hub name's config.json, and the keywords that were not used to find it.

        Also takes the path of a JSON file. Raises FileNotFoundError when there is none, ConfigError when it is no
        JSON object.
        """
        from .hub import ACCEPTED_ARGUMENTS, HUB_ARGUMENTS, resolve_file

        where = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
        path = resolve_file(pretrained_model_name_or_path, kwargs.pop("_configuration_file", CONFIG_NAME), **where)
        config_dict = read_json_object(path, ConfigError)
        return config_dict, {key: value for key, value in kwargs.items() if key not in ACCEPTED_ARGUMENTS}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load from a folder, a config.json or a hub name; other keywords override single values.

        `revision`, `cache_dir`, `local_files_only`, `token` and `subfolder` are as for models; `force_download` changes
        nothing, since the hub's cache is checked against the hub in any case. With
        `return_unused_kwargs=True` returns (config, unused keywords). A text or vision config also loads from a full
        model's config.json; `text_config_dict` / `vision_config_dict` are then ignored, as in v4.37.

        A config of another model gives a warning that names both, as in v4.37; models refuse it. Raises
        FileNotFoundError, and ConfigError naming the file.
        """
        where = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token, "revision": revision}
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **where, **kwargs)
        with _naming(pretrained_model_name_or_path):
            part = cls._own_part(config_dict)
            kind = part.get("model_type")
            if kind is not None and cls.model_type and kind not in (cls.model_type, *cls._other_types):
                logging.getLogger("triclip").warning(
                    "%s: you are using a model of type %s to instantiate a model of type %s. This is not supported "
                    "for all configurations of models and can yield errors.",
                    pretrained_model_name_or_path,
                    kind,
                    cls.model_type,
                )
            return cls.from_dict(part, **kwargs)

    @classmethod
    def _own_part(cls, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    @classmethod
    def _class_of(cls, values: Mapping[str, Any]) -> type[Any]:
        """The class that a dict's values are of: this one, or one that is loaded by its name."""
        return cls

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Build from a dict; keywords that name a field override it, the others are dropped or returned."""
        return_unused = kwargs.pop("return_unused_kwargs", False)
        values = copy.deepcopy(dict(config_dict))
        if "attn_implementation" in kwargs:
            values["attn_implementation"] = kwargs.pop("attn_implementation")
        config = cls._class_of(values)(**values)
        unused = {}
        for key, value in kwargs.items():
            name = "torch_dtype" if key == "dtype" else key
            if not hasattr(config, name):
                unused[key] = value
                continue
            current = getattr(config, name)
            if isinstance(current, PretrainedConfig) and isinstance(value, Mapping):
                value = type(current)(**value)
            setattr(config, name, _dtype_name(value) if name == "torch_dtype" else value)
            if name == "torch_dtype":
                unused[key] = value  # the caller that loads weights needs it too (v4.37)
        config.check_values()
        return (config, unused) if return_unused else config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Any:
        """Build from the JSON file at this path."""
        with _naming(json_file):
            values = read_json_object(Path(json_file), ConfigError)
            config = cls._class_of(values)(**values)
            config.check_values()
            return config

    # -- writing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values, sub-configs as dicts, without private fields except `_name_or_path`."""
        out: dict[str, Any] = {}
        for key, value in self.__dict__.items():
            if key == "transformers_version" and value is None:
                continue
            if key.startswith("_") and not (key == "_name_or_path" and value):
                continue
            if isinstance(value, PretrainedConfig):
                value = {k: v for k, v in value.to_dict().items() if k != "transformers_version"}
            elif key == "hidden_act" and callable(value):
                value = _activation_name(value)
            elif key == "torch_dtype":
                value = _dtype_name(value)
            elif isinstance(value, numbers.Number) and hasattr(value, "item"):
                value = value.item()  # NumPy numbers are not JSON
            out[key] = copy.deepcopy(value)
        out["model_type"] = self.model_type
        return out

    def to_diff_dict(self) -> dict[str, Any]:
        """`to_dict` without the shared fields that have their default; this is what config.json holds."""
        common, own = PretrainedConfig().to_dict(), type(self)().to_dict()
        diff: dict[str, Any] = {}
        for key, value in self.to_dict().items():
            if key in self._sub_configs and isinstance(getattr(self, key), PretrainedConfig):
                defaults = type(getattr(self, key))().to_dict()
                sub = {k: v for k, v in value.items() if k not in defaults or defaults[k] != v}
                diff[key] = {**_without_local_path(sub), "model_type": value["model_type"]}
            elif key not in common or value != common[key] or (key in own and value != own[key]):
                diff[key] = value
        return _without_local_path(diff)

    def to_json_string(self, use_diff: bool = True) -> str:
        """JSON, indented by 2, keys sorted, newline at the end."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        try:
            return json.dumps(values, indent=2, sort_keys=True) + "\n"
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{type(self).__name__}: a value can't be written as JSON: {error}") from error

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """Write `to_json_string`; a crash leaves the old file or the new one, whole."""
        write_text(Path(json_file_path), self.to_json_string(use_diff))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json into the folder, making it if needed.

        Args:
            push_to_hub: upload it too. **kwargs: where to, as for `push_to_hub`: repo_id (default the folder's
                name), commit_message, private, token, ...

        `_name_or_path` is not written if it is a local folder.
        """
        upload = upload_arguments(kwargs, save_directory)
        folder = Path(save_directory)
        if folder.is_file():
            raise FileExistsError(f"save_directory: wanted a folder, found a file: {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / CONFIG_NAME)
        if push_to_hub:
            upload_files(folder, files=[CONFIG_NAME], **{"commit_message": upload_message(self), **upload})

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several attributes."""
        for key, value in config_dict.items():
            setattr(self, key, value)

    def update_from_string(self, update_str: str) -> None:
        """Set attributes that exist from "hidden_size=10,layer_norm_eps=0.2,return_dict=false,hidden_act=gelu".

        Raises ConfigError (a ValueError) for a name that isn't there and for a value of another type.
        """
        for pair in update_str.split(","):
            key, found, text = pair.partition("=")
            if not found or not hasattr(self, key):
                raise ConfigError(f"{type(self).__name__}: wanted name=value with a field's name, found {pair!r}")
            setattr(self, key, _parsed(type(self).__name__, key, text, getattr(self, key)))

    def dict_torch_dtype_to_str(self, d: dict[str, Any]) -> None:
        """Turn every `torch_dtype` in a dict, and in the dicts in it, into a bare name: "float32"."""
        if d.get("torch_dtype") is not None:
            d["torch_dtype"] = _dtype_name(d["torch_dtype"])
        for value in d.values():
            if isinstance(value, dict):
                self.dict_torch_dtype_to_str(value)

    # -- checking -----------------------------------------------------------------------------------------------------

    _positive: tuple[str, ...] = ()
    _at_least_zero: tuple[str, ...] = ()
    _finite: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raise ConfigError on impossible values. Models call this before they allocate anything."""
        self.check_values()

    def check_values(self) -> None:
        """Raise ConfigError on values that are impossible by themselves."""
        for key in self._positive + self._at_least_zero:
            self._check_integer(key, getattr(self, key, None), lowest=1 if key in self._positive else 0)
        for key in self._finite:
            self._check_number(key, getattr(self, key, None))
        self.pruned_heads = self._integer_keys("pruned_heads", self.pruned_heads or {})

    def _check_integer(self, key: str, value: Any, lowest: int) -> None:
        highest = _LARGEST.get(key, _LARGEST_SIZE)
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)  # includes NumPy's integers
        if not whole or not lowest <= value <= highest:
            raise ConfigError(
                f"{type(self).__name__}: {key}: wanted an integer from {lowest} to {highest}, found {value!r}"
            )

    def _check_number(self, key: str, value: Any) -> None:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ConfigError(f"{type(self).__name__}: {key}: wanted a finite number, found {value!r}")

    def _check_range(self, key: str, lowest: float, highest: float) -> None:
        value = getattr(self, key)
        self._check_number(key, value)
        if not lowest <= value <= highest:
            raise ConfigError(f"{type(self).__name__}: {key}: wanted {lowest} to {highest}, found {value!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


@contextmanager
def _naming(source: Any) -> Iterator[None]:
    """Add the file or folder to the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        named = str(error) if str(source) in str(error) else f"{source}: {error}"
        raise ConfigError(named) from None


def _without_local_path(values: dict[str, Any]) -> dict[str, Any]:
    """Without `_name_or_path` if it is a local path: hub names may be published, local paths may not."""
    name = values.get("_name_or_path")
    if isinstance(name, str) and name and (not is_hub_name(name) or os.path.exists(name)):
        return {key: value for key, value in values.items() if key != "_name_or_path"}
    return values


def _parsed(owner: str, key: str, text: str, old: Any) -> Any:
    words = {"true": True, "1": True, "y": True, "yes": True, "false": False, "0": False, "n": False, "no": False}
    try:
        if isinstance(old, bool):
            return words[text.lower()]
        if isinstance(old, int | float):
            return type(old)(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{owner}: {key}: wanted {type(old).__name__}, found {text!r}") from None
    if not isinstance(old, str):
        raise ConfigError(f"{owner}: {key}: only bool, int, float and str can be set so, it is {type(old).__name__}")
    return text


def _dtype_name(value: Any) -> str | None:
    """A dtype as its bare name: "float16" for "torch.float16", torch.float16, np.float16, jnp.float16."""
    if value is None or isinstance(value, str):
        return value if value is None else value.rsplit(".", 1)[-1]
    name = getattr(value, "name", None) or getattr(value, "__name__", None) or str(value)
    return name.rsplit(".", 1)[-1]


def _activation_name(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"hidden_act: a callable can only be saved when its name is one of {', '.join(ACTIVATIONS)}, "
            f"found {function!r}"
        )
    return name
