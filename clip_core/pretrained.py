"""from_pretrained and save_pretrained, once for all backends.

A backend's base class mixes in `Pretrained` and supplies two hooks over canonical names: `_from_weights` builds a model
from lazy tensors, `_get_weights` gives a model's tensors back. Everything else happens here: finding files, the
config and its overrides, the strict two-sided check, dtypes, and writing.
"""

from __future__ import annotations

import copy
import gc
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .config import CLIPConfig, PretrainedConfig
from .errors import CheckpointError, ConfigError
from .hub import ACCEPTED_ARGUMENTS, HUB_ARGUMENTS, resolve_folder
from .weights import Difference, compare, in_scope, weight_table

# A tower's own class can't provide these to a full model; naming the class to use instead makes the error useful.
_CLASS_OF_SCOPE = {
    "full": "CLIPModel",
    "text": "CLIPTextModel",
    "text_projection": "CLIPTextModelWithProjection",
    "vision": "CLIPVisionModel",
    "vision_projection": "CLIPVisionModelWithProjection",
}


class Loaded(NamedTuple):
    """A checked checkpoint: what a backend needs to build its model."""

    config: Any
    tensors: dict[str, Any]  # canonical name -> checkpoint.Tensor, only names of the model's table
    fresh: list[str]  # names to initialise instead of load (only with strict=False or ignore_mismatched_sizes)
    difference: Difference
    dtype: str  # of the floating-point weights: "float32", "float16", "bfloat16", "float64"


class Pretrained:
    """Mixed into each backend's base class. Class attributes say what the class is."""

    config_class: type[PretrainedConfig] = CLIPConfig
    weight_scope = "full"
    base_model_prefix = "clip"
    _class_prefix = ""  # "TF", "Flax": only for messages and the `architectures` entry
    _native_format = "hf-bin"  # what save_pretrained(safe_serialization=False) writes: a target of `checkpoint.save`
    _native_file: str | None = None  # read first where a folder has several, unless from_pt=True, as in v4.37

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model from a folder, a single checkpoint file, a bundled name or a hub name.

        Every format that `clip_core.checkpoint` reads is taken, whichever framework wrote it.

        Args:
            config: a config object, or the folder, file or name of one; default: the checkpoint's own.
            subfolder, revision, cache_dir, local_files_only, token: where to look (see `clip_core.hub`).
            variant: e.g. "fp16" for `model.fp16.safetensors`.
            component: which part of a file with several, e.g. "text_encoder_2" of an SDXL checkpoint.
            dtype, torch_dtype: "auto" (as saved), a name or a framework's dtype object; default float32, also for
                checkpoints saved in float16.
            ignore_mismatched_sizes: initialise weights of another shape freshly, with a warning. Default False.
            strict: False initialises missing weights freshly and skips unknown ones, with a warning. Default True.
            mmap: PyTorch only. True leaves weights of the wanted dtype in their file: they are read as they are used,
                written ones live in memory, and loading is faster and takes less. The file may be replaced (as all
                that save here do), but a process that cuts it short in its place ends this one. Default False.
            output_loading_info: also return {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}.
            **kwargs: values that override single config fields.

        Raises FileNotFoundError when there is nothing to load, CheckpointError (a ValueError) when the files are
        damaged or hold another model, listing every difference, and ConfigError on an impossible config.
        """
        output_loading_info = kwargs.pop("output_loading_info", False)
        build_kwargs = {key: kwargs.pop(key) for key in cls._build_arguments() if key in kwargs}
        with _collector_paused():
            loaded = load_checked(cls, pretrained_model_name_or_path, kwargs)
            model = cls._from_weights(loaded, *model_args, **build_kwargs)
        if not output_loading_info:
            return model
        missing, unexpected, mismatched = loaded.difference
        info = {
            "missing_keys": missing,
            "unexpected_keys": unexpected,
            "mismatched_keys": mismatched,
            "error_msgs": [],
        }
        return model, info

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, Any] | None = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write weights and config.json into a folder (made if needed), replacing what is there in one step.

        Args:
            is_main_process: False writes nothing (for jobs in which every process calls this).
            state_dict: canonical name -> array to write instead of the model's own weights.
            max_shard_size: bytes, or e.g. "500MB"; larger models are split into shards with an index.
            safe_serialization: safetensors (True) or pytorch_model.bin (False).
            variant: e.g. "fp16" for `model.fp16.safetensors`.

        A crash leaves the old files or the new ones, whole. The files are transformers' and load there.
        """
        unknown = set(kwargs) - {"save_function", "push_to_hub", "token", "save_peft_format"}
        if unknown:
            raise TypeError(f"save_pretrained: unknown argument {sorted(unknown)[0]!r}")
        if kwargs.get("push_to_hub"):
            raise ValueError("push_to_hub: triclip does not upload: use huggingface_hub.upload_folder on the folder")
        if not is_main_process:
            return
        from . import checkpoint

        folder = Path(save_directory)
        if folder.is_file():
            raise FileExistsError(f"save_directory: wanted a folder, found a file: {folder}")
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
        )

    # -- hooks --------------------------------------------------------------------------------------------------------

    @classmethod
    def _build_arguments(cls) -> tuple[str, ...]:
        """Keywords of from_pretrained that go to `_from_weights` rather than to the config."""
        return ()

    @classmethod
    def _from_weights(cls, loaded: Loaded, *model_args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError  # a backend's duty

    def _get_weights(self, weights: Mapping[str, Any] | None = None) -> dict[str, Any]:
        raise NotImplementedError  # a backend's duty


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A load makes thousands of objects that stay, and no rings of them that would hold memory.

    They would have Python look for garbage among all that PyTorch's import made: longer than mapping a file's weights.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_checked(cls: type[Pretrained], name_or_path: Any, kwargs: dict[str, Any]) -> Loaded:
    """Find, read and check a checkpoint for a model class. `kwargs` as given to from_pretrained, less the build's."""
    from . import checkpoint

    prefer = None if kwargs.get("from_pt") else cls._native_file
    kwargs = {key: value for key, value in kwargs.items() if key not in ACCEPTED_ARGUMENTS}
    where = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
    variant, component = kwargs.pop("variant", None), kwargs.pop("component", None)
    given_config = kwargs.pop("config", None)
    torch_dtype = kwargs.pop("torch_dtype", None)
    dtype = kwargs.pop("dtype", torch_dtype)
    strict = kwargs.pop("strict", True)
    ignore_sizes = kwargs.pop("ignore_mismatched_sizes", False)

    path = resolve_folder(name_or_path, weights=True, variant=variant, **where)
    if given_config is not None and not isinstance(given_config, str | os.PathLike):
        given_config = cls.config_class.of(given_config)  # also transformers' own, by its fields
    given = _as_dict(given_config, where)
    read = checkpoint.load(
        path, variant=variant, component=component, scope=cls.weight_scope, config=given, prefer=prefer
    )
    for note in read.notes:  # what had to be assumed, e.g. an activation that no file states
        logging.getLogger("triclip").warning("%s: %s", path, note)
    config = _resolve_config(cls, given_config, read, kwargs, str(path))
    if name_or_path is not None:
        config.name_or_path = str(name_or_path)

    tensors = {name: tensor for name, tensor in read.tensors.items() if in_scope(name, cls.weight_scope)}
    # Entries of the other tower are knowingly ignored; names of no CLIP part at all are unexpected.
    foreign = {n: t for n, t in read.tensors.items() if not in_scope(n, cls.weight_scope) and not in_scope(n, "full")}
    foreign = {n: t for n, t in foreign.items() if not n.startswith("classifier.")}  # CLIPForImageClassification
    if not any(key in kwargs for key in ("projection_dim",)) and given_config is None:
        _take_projection_from_shapes(config, tensors, cls.weight_scope)
    table = weight_table(config, cls.weight_scope)
    difference = compare({**tensors, **foreign}, table)
    fresh = _settle(cls, difference, str(path), strict, ignore_sizes)
    wanted = {name: tensors[name] for name in table if name in tensors and name not in fresh}
    return Loaded(config, wanted, fresh, difference, _wanted_dtype(dtype, config, wanted))


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
    if cls.weight_scope == "full":
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
    if kind in ("clip_text_model", "clip_vision_model"):
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
    """A tower's config often states a stale projection_dim; the weights decide (SD2 and others)."""
    name = {"text_projection": "text_projection.weight", "vision_projection": "visual_projection.weight"}.get(scope, "")
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
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype: wanted float16, bfloat16, float32, float64 or 'auto', found {dtype!r}")
    return name


def _main_dtype(tensors: Mapping[str, Any]) -> str | None:
    """The dtype of the first floating-point weight that is not a scalar; None when there is none."""
    for tensor in tensors.values():
        if "float" in tensor.dtype and tensor.shape:
            return tensor.dtype
    return None
