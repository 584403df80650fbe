"""from_pretrained and save_pretrained, once for all backends.

A backend's base class mixes in `Pretrained` and supplies three hooks over canonical names: `_from_weights` builds a
model from lazy tensors, `_get_weights` returns a model's tensors, `_lazy` wraps an array. Everything else happens
here: finding files, the config and its overrides, the strict two-sided check, dtypes, and writing. Weights that a
user's subclass adds are matched in `own_parts`.
"""

from __future__ import annotations

import copy
import gc
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from .config import CLIPConfig, PretrainedConfig
from .errors import CheckpointError, ConfigError
from .hub import (
    ACCEPTED_ARGUMENTS,
    HUB_ARGUMENTS,
    PushToHub,
    resolve_folder,
    upload_arguments,
    upload_message,
)
from .hub import push_to_hub as upload_files
from .own_parts import OwnParts
from .weights import Difference, compare, in_scope, is_resnet, weight_table

# The class for each scope, which errors suggest if a checkpoint has less or more than the class at hand.
_CLASS_OF_SCOPE = {
    "full": "CLIPModel",
    "text": "CLIPTextModel",
    "text_projection": "CLIPTextModelWithProjection",
    "vision": "CLIPVisionModel",
    "vision_projection": "CLIPVisionModelWithProjection",
}


_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.")
# Accepted if they are falsy.
_UNQUANTISED = ("load_in_8bit", "load_in_4bit", "quantization_config")


class Loaded(NamedTuple):
    """A checked checkpoint, from which a backend builds its model."""

    config: Any
    tensors: dict[str, Any]  # canonical name -> checkpoint.Tensor, only names of the model's table
    fresh: list[str]  # names to initialise instead of load (only with strict=False or ignore_mismatched_sizes)
    difference: Difference
    dtype: str  # of the floating-point weights: "float32", "float16", "bfloat16", "float64"
    own: OwnParts | None = None  # the file's other entries, for a subclass's own weights

    def take_own(self, wanted: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], list[str]]:
        """(name -> lazy tensor, names to leave as initialised) of a model's weights outside the table: see
        `OwnParts.take`. `tensors` and `fresh` are for those inside it."""
        return ({}, list(wanted)) if self.own is None else self.own.take(wanted)


class Pretrained(PushToHub):
    """Mixed into each backend's base class. Class attributes describe the class."""

    config_class: type[PretrainedConfig] = CLIPConfig
    weight_scope: str | None = "full"  # None: a user's own class, whose weights are known only from its instances
    base_model_prefix = "clip"
    _class_prefix = ""  # "TF", "Flax": only for messages and the `architectures` entry
    _native_format = "hf-bin"  # what save_pretrained(safe_serialization=False) writes: a target of `checkpoint.save`
    _own_dialects: tuple[str, ...] = ("hf",)  # dialects in which a subclass's own weights keep their names
    _native_file: str | None = None  # preferred in a folder with several files, unless from_pt=True, as in v4.37

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Self:
        """Load a model from a folder, a single checkpoint file, a bundled name or a hub name.

        Reads every format of `clip_core.checkpoint`, whichever framework wrote it.

        Args:
            config: a config object, or the folder, file or name of one; default: the checkpoint's own.
            subfolder, revision, cache_dir, local_files_only, token: where to look (see `clip_core.hub`).
            variant: e.g. "fp16" for `model.fp16.safetensors`.
            component: which part of a file with several, e.g. "text_encoder_2" of an SDXL checkpoint.
            dtype, torch_dtype: "auto" (as saved), a name or a framework's dtype object; default float32, also for
                checkpoints saved in float16.
            ignore_mismatched_sizes: initialise weights of another shape freshly, with a warning. Default False.
            strict: False initialises missing weights freshly and skips unknown ones, with a warning. Default True. It
                concerns CLIP's own weights: those that a subclass adds are loaded if the file has them, and a warning
                names missing ones and further entries of the file.
            mmap: PyTorch only. True leaves weights of the wanted dtype in their file: pages are read on use and copied
                on write, and loading is faster and takes less memory. The file may be replaced (as all saves here do);
                truncating it in place kills this process. Default False.
            state_dict: canonical name -> array to load in place of a file's weights; the name may then be None when a
                `config` is given.
            num_hidden_layers (or a given `config` or sub-config): with fewer layers than the file has, the upper layers
                are left out.
            output_loading_info: also return {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}.
            **kwargs: values that override single config fields.

        Raises FileNotFoundError if there is nothing to load, CheckpointError (a ValueError) if the files are damaged or
        hold another model, listing every difference, and ConfigError for an impossible config.
        """
        output_loading_info = kwargs.pop("output_loading_info", False)
        build_kwargs = {key: kwargs.pop(key) for key in cls._build_arguments() if key in kwargs}
        with _collector_paused():
            loaded = load_checked(cls, pretrained_model_name_or_path, kwargs)
            model = cls._from_weights(loaded, *model_args, **build_kwargs)
        own = loaded.own.settle() if loaded.own else Difference([], [], [])
        if not output_loading_info:
            return model
        both = (loaded.difference, own)
        info = {
            "missing_keys": [name for part in both for name in part.missing],
            "unexpected_keys": [name for part in both for name in part.unexpected],
            "mismatched_keys": [entry for part in both for entry in part.mismatched],
            "error_msgs": [],
        }
        return model, info  # type: ignore[return-value]  # with output_loading_info=True

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, Any] | None = None,
        save_function: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        token: str | bool | None = None,
        save_peft_format: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write weights and config.json into a folder (made if needed), replacing old files in one step.

        Args:
            is_main_process: False writes nothing (for jobs in which every process calls this method).
            state_dict: canonical name -> array to write instead of the model's own weights.
            save_function: ignored here (v4.37's signature).
            save_peft_format: of a model with adapters (`clip_torch`) write only the active one, as peft does.
            push_to_hub: also upload the folder, as `repo_id` (default: the folder's name). Default False. With it
                commit_message, commit_description, private, token, create_pr, revision: see `push_to_hub`.
            max_shard_size: bytes, or e.g. "500MB"; larger models are split into shards with an index.
            safe_serialization: safetensors (True) or pytorch_model.bin (False).
            variant: e.g. "fp16" for `model.fp16.safetensors`.

        A crash leaves the old files or the new ones, whole. The files are transformers' and load there.
        """
        upload = upload_arguments({**kwargs, "token": token}, save_directory)
        if not is_main_process:
            return
        from . import checkpoint

        folder = Path(save_directory)
        if folder.is_file():
            raise FileExistsError(f"save_directory: wanted a folder, found a file: {folder}")
        if not (save_peft_format and self._saved_as_adapter(folder)):
            config = copy.deepcopy(self.config)  # type: ignore[attr-defined]
            config.architectures = [type(self).__name__.removeprefix(self._class_prefix)]
            tensors = self._get_weights(state_dict)
            config.torch_dtype = _main_dtype(tensors)
            checkpoint.save(
                folder,
                tensors,
                config.to_diff_dict(),
                to="hf" if safe_serialization else self._native_format,
                shard_size=max_shard_size,
                variant=variant,
                own=True,
            )
        if push_to_hub:
            upload_files(folder, **{"commit_message": upload_message(self), **upload})

    def _saved_as_adapter(self, folder: Path) -> bool:
        """Whether the model has an adapter, which is then written in the place of the model."""
        return False

    # -- hooks --------------------------------------------------------------------------------------------------------

    @classmethod
    def _build_arguments(cls) -> tuple[str, ...]:
        """Keywords of from_pretrained for `_from_weights`, not for the config."""
        return ()

    @classmethod
    def _from_weights(cls, loaded: Loaded, *model_args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError  # implemented by each backend

    def _get_weights(self, weights: Mapping[str, Any] | None = None) -> dict[str, Any]:
        raise NotImplementedError  # implemented by each backend

    @classmethod
    def _lazy(cls, name: str, value: Any) -> Any:
        """A backend's array, or a NumPy one, of `state_dict=` as a lazy tensor in the published layout."""
        raise NotImplementedError  # implemented by each backend


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector: a load makes thousands of objects that stay, and no cycles.

    The collector would walk all objects of PyTorch's import, which takes longer than mapping a file's weights.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_checked(cls: type[Pretrained], name_or_path: Any, kwargs: dict[str, Any]) -> Loaded:
    """Find, read and check a checkpoint for a model class. `kwargs`: from_pretrained's, less the build's."""
    if kwargs.get("load_in_8bit") or kwargs.get("load_in_4bit") or kwargs.get("quantization_config") is not None:
        raise ValueError("load_in_8bit: weights are not quantised while they are loaded: quantise the loaded model")
    prefer = None if kwargs.get("from_pt") else cls._native_file
    kwargs = {key: value for key, value in kwargs.items() if key not in (*ACCEPTED_ARGUMENTS, *_UNQUANTISED)}
    where = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
    variant, component = kwargs.pop("variant", None), kwargs.pop("component", None)
    given_config, state_dict = kwargs.pop("config", None), kwargs.pop("state_dict", None)
    torch_dtype = kwargs.pop("torch_dtype", None)
    dtype = kwargs.pop("dtype", torch_dtype)
    strict = kwargs.pop("strict", True)
    ignore_sizes = kwargs.pop("ignore_mismatched_sizes", False)

    if given_config is not None:
        given_config = own_config(cls.config_class, given_config)
    if state_dict is not None:
        source, read = _read_given(cls, state_dict, name_or_path, given_config, where)
    else:
        source, read = _read_files(cls, name_or_path, given_config, where, variant, component, prefer)
    for note in read.notes:  # assumptions, e.g. an activation that no file states
        logging.getLogger("triclip").warning("%s: %s", source, note)
    config = _resolve_config(cls, given_config, read, kwargs, source)
    if name_or_path is not None:
        config.name_or_path = str(name_or_path)

    scope = cls.weight_scope
    beside = _beside_the_table(read, scope, cls._own_dialects)
    own = OwnParts(cls, source, *beside, strict=strict, ignore_sizes=ignore_sizes)
    if scope is None:
        return Loaded(config, {}, [], Difference([], [], []), _wanted_dtype(dtype, config, read.entries), own)
    # Entries of the other tower are ignored deliberately; names outside CLIP go to `own`.
    tensors = {name: tensor for name, tensor in read.tensors.items() if in_scope(name, scope)}
    if given_config is None and "projection_dim" not in kwargs:
        _take_projection_from_shapes(config, tensors, scope)
    if given_config is not None or "num_hidden_layers" in kwargs or set(kwargs) & set(config._sub_configs):
        tensors = _within_depth(config, tensors, source)
    table = weight_table(config, scope)
    difference = compare(tensors, table)
    fresh = _settle(cls, difference, source, strict, ignore_sizes)
    wanted = {name: tensors[name] for name in table if name in tensors and name not in fresh}
    return Loaded(config, wanted, fresh, difference, _wanted_dtype(dtype, config, wanted), own)


def _read_files(
    cls: type[Pretrained], name_or_path: Any, config: Any, where: dict, variant: Any, component: Any, prefer: Any
) -> tuple[str, Any]:
    """(path, opened checkpoint) of a folder, file or name."""
    from . import checkpoint
    from .checkpoint.stated import CLIP_TYPES, check_kind

    path = resolve_folder(name_or_path, weights=True, variant=variant, **where)
    given = _as_dict(config, where)
    if cls.config_class.model_type in CLIP_TYPES:
        check_kind(given or {}, f"config={config!r}" if isinstance(config, str) else "config")
    elif given is None:
        given = _as_dict(path, {})  # a user's config class, whose model_type the checkpoint doesn't know
    scope, own = cls.weight_scope, cls.weight_scope is None
    options = {"prefer": prefer, "own": own, "beside": (*cls._own_dialects, "hf-flat")}
    read = checkpoint.load(path, variant=variant, component=component, scope=scope, config=given, **options)
    return str(path), read


def _read_given(
    cls: type[Pretrained], state_dict: Mapping[str, Any], name_or_path: Any, config: Any, where: dict
) -> tuple[str, Any]:
    """As `_read_files`, for weights of the caller: `state_dict=`, with the config of `config=` or of the name."""
    from .checkpoint import of_tensors

    if config is None and name_or_path is None:
        raise TypeError(f"{cls.__name__}.from_pretrained: state_dict: without a name or path it needs config=")
    values = _as_dict(name_or_path if config is None else config, where)
    tensors = {name: cls._lazy(name, value) for name, value in state_dict.items()}
    return "state_dict", of_tensors(tensors, values, scope=cls.weight_scope, own=cls.weight_scope is None)


def _beside_the_table(read: Any, scope: str | None, dialects: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """(the entries that may belong to a subclass's own weights, the prefix of the file's CLIP)."""
    plain = read.dialect in dialects  # in others a file's names are translated
    entries, prefix = (read.entries, read.prefix) if plain else (read.tensors, "")
    if read.dialect == "tf" and read.prefix.endswith("clip/"):  # other layers stand beside the main layer
        entries = {**entries, **{name: t for name, t in read.entries.items() if not name.startswith(read.prefix)}}
    elif read.dialect == "tf" and scope is None:  # a CLIP inside another layer
        entries = read.entries
    if scope is None:
        return dict(entries), prefix
    taken = {name for name in entries if in_scope(name.removeprefix(prefix), "full") and name.startswith(prefix)}
    return {name: tensor for name, tensor in entries.items() if name not in taken}, prefix


def _within_depth(config: Any, tensors: dict[str, Any], source: str) -> dict[str, Any]:
    """Without the layers above the number asked for: "clip skip" by config."""
    depth = {tower: getattr(config, f"{tower}_config", config).num_hidden_layers for tower in ("text", "vision")}
    above = {name for name in tensors if (match := _LAYER.match(name)) is not None and int(match[2]) >= depth[match[1]]}
    if above:
        logging.getLogger("triclip").info("%s: layers above num_hidden_layers are left out", source)
    return {name: tensor for name, tensor in tensors.items() if name not in above}


def own_config(wanted: type[PretrainedConfig], config: Any) -> Any:
    """A config object as this package's class: another library's is converted by its fields.

    Raises TypeError for the config of another part, naming what to pass instead.
    """
    if isinstance(config, PretrainedConfig | str | os.PathLike | Mapping) or not hasattr(config, "to_dict"):
        return config
    values = config.to_dict()
    kind, own = values.get("model_type", ""), wanted.model_type
    if kind and own and kind != own:
        part = {"clip_text_model": "text_config", "clip_vision_model": "vision_config"}.get(own, "")
        hint = f": pass its {part}" if part and kind == "clip" else ""
        raise TypeError(f"config: wanted a {wanted.__name__} ({own}), found a {type(config).__name__} ({kind}){hint}")
    # Missing in dicts, because it is chosen when a model is built.
    attention = getattr(config, "_attn_implementation", None)
    return wanted.from_dict(values, **({"attn_implementation": attention} if attention in ("eager", "sdpa") else {}))


def checked_config(cls: Any, config: Any) -> Any:
    """The config given to a model class's constructor, as this package's class. Raises TypeError with a hint."""
    config = own_config(cls.config_class, config)
    fits = isinstance(config, cls.config_class if cls.weight_scope else PretrainedConfig)
    if fits:
        return config
    wanted, found = cls.config_class.__name__, type(config).__name__
    part = next((n for n in getattr(config, "_sub_configs", ()) if type(getattr(config, n)) is cls.config_class), None)
    hint = f": pass its {part}" if part else ""
    if isinstance(config, str | os.PathLike):
        hint = f": {cls.__name__}.from_pretrained(...) takes names and paths"
    raise TypeError(f"{cls.__name__}: config: wanted a {wanted}, found {found}{hint}")


def _as_dict(config: Any, where: dict[str, Any]) -> dict[str, Any] | None:
    if config is None or isinstance(config, PretrainedConfig):
        return None if config is None else config.to_dict()
    return PretrainedConfig.get_config_dict(config, **where)[0]


def _resolve_config(cls: type[Pretrained], given: Any, read: Any, overrides: dict[str, Any], path: str) -> Any:
    """The config object: the caller's, or the checkpoint's with overrides."""
    if isinstance(given, PretrainedConfig):
        if overrides:
            raise TypeError(
                f"{cls.__name__}.from_pretrained: unknown argument {sorted(overrides)[0]!r} "
                "(config values can't be overridden when a config object is given)"
            )
        return copy.deepcopy(given)
    if read.config is None:
        raise FileNotFoundError(f"{path}: no config.json, and none can be inferred from the weights: pass config=")
    values = read.config
    if cls.weight_scope is not None and cls.config_class._sub_configs:  # a full model's config
        _refuse_tower(cls, values, read, path)
    try:
        config, unused = cls.config_class.from_dict(
            cls.config_class._own_part(values), return_unused_kwargs=True, **overrides
        )
        config.validate()
    except ConfigError as error:
        raise ConfigError(f"{read.config_path or path}: {error}") from None
    if unused:
        raise TypeError(f"{cls.__name__}.from_pretrained: unknown argument {sorted(unused)[0]!r}")
    return config


def _refuse_tower(cls: type[Pretrained], values: Mapping[str, Any], read: Any, path: str) -> None:
    kind = values.get("model_type")
    if kind in ("clip_text_model", "clip_vision_model", "clip_resnet_vision_model"):
        scope = "text" if kind == "clip_text_model" else "vision"
        if any(name.startswith(("text_projection", "visual_projection")) for name in read.tensors):
            scope += "_projection"
        raise CheckpointError(
            f"{path}: wanted a full CLIP model for {cls.__name__}, found one tower ({kind}): "
            f"load it with {cls._class_prefix}{_CLASS_OF_SCOPE[scope]}"
        )
    if kind not in (None, "clip") and "text_config" not in values:
        raise CheckpointError(f"{path}: wanted a CLIP model, found model_type {kind!r}")


def _take_projection_from_shapes(config: Any, tensors: Mapping[str, Any], scope: str) -> None:
    """Take projection_dim from the weights: a tower's config often states a stale one (SD2 and others)."""
    name = {"text_projection": "text_projection.weight", "vision_projection": "visual_projection.weight"}.get(scope, "")
    if scope.startswith("vision") and is_resnet(config):
        name = "vision_model.attnpool.c_proj.weight"
    if name in tensors and len(tensors[name].shape) == 2:
        config.projection_dim = int(tensors[name].shape[0])


def _settle(cls: type[Pretrained], difference: Difference, source: str, strict: bool, ignore_sizes: bool) -> list[str]:
    """Raise, or warn and return the names to initialise freshly."""
    missing, unexpected, mismatched = difference
    refused = Difference(missing if strict else [], unexpected if strict else [], [] if ignore_sizes else mismatched)
    if any(refused):
        raise CheckpointError(
            f"{source}: the weights are not those of {cls.__name__} with this config "
            f"(- missing, + unexpected):\n{refused.report()}"
        )
    if any(difference):
        warnings.warn(
            f"{source}: {cls.__name__} was loaded with differences; missing and mismatched weights are "
            f"initialised freshly:\n{difference.report()}",
            stacklevel=4,
        )
    return missing + [name for name, _, _ in mismatched]


def _wanted_dtype(dtype: Any, config: Any, tensors: Mapping[str, Any]) -> str:
    from .checkpoint.tensor import dtype_name

    if dtype is None:
        return "float32"
    if isinstance(dtype, str) and dtype == "auto":
        return dtype_name(config.torch_dtype or _main_dtype(tensors) or "float32")
    name = dtype_name(dtype)
    if name == "int8":
        raise ValueError("dtype: int8 is computed by the backend torch: Clip.from_pretrained(name, dtype='int8')")
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype: wanted float16, bfloat16, float32, float64 or 'auto', found {dtype!r}")
    return name


def _main_dtype(tensors: Mapping[str, Any]) -> str | None:
    """The dtype of the first floating-point weight that is not a scalar; None when there is none."""
    for tensor in tensors.values():
        if "float" in tensor.dtype and tensor.shape:
            return tensor.dtype
    return None
