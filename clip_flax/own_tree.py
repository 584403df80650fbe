"""Files of `FlaxPreTrainedModel`'s subclasses that compute with a module of their own, a safety checker say.

The core's checkpoints know CLIP's weights and no others. Such a subclass has its tree in flax_model.msgpack as it is,
name by name; other layouts and shards are not read.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from clip_core.checkpoint.msgpack_file import read, write
from clip_core.checkpoint.tensor import Tensor, dtype_name
from clip_core.config import PretrainedConfig
from clip_core.errors import CheckpointError
from clip_core.files import json_bytes, replace_folder
from clip_core.hub import ACCEPTED_ARGUMENTS, HUB_ARGUMENTS, resolve_file
from clip_core.weights import compare

FILE = "flax_model.msgpack"


def load(cls: Any, name_or_path: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Tensor], str, dict[str, Any]]:
    """(config, path in the tree -> tensor, dtype of the parameters, keywords for the constructor)."""
    kwargs = {key: value for key, value in kwargs.items() if key not in ACCEPTED_ARGUMENTS}
    where = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
    build = {key: kwargs.pop(key) for key in cls._build_arguments() if key in kwargs}
    dtype = dtype_name(kwargs.pop("torch_dtype", "float32"))
    config = kwargs.pop("config", None)
    if not isinstance(config, PretrainedConfig):
        config = cls.config_class.from_pretrained(config or name_or_path, **where, **kwargs)
    tensors, _ = read(resolve_file(name_or_path, FILE, **where, files=(FILE,)))
    return config, tensors, dtype, build


def check(name_or_path: Any, cls: Any, tensors: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    difference = compare(tensors, wanted)
    if any(difference):
        raise CheckpointError(
            f"{name_or_path}: the weights are not those of {cls.__name__} (- missing, + unexpected):\n"
            f"{difference.report()}"
        )


def save(model: Any, folder: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Config and weights, in one step."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__.removeprefix("Flax")]
    with replace_folder(folder) as stage:
        write(stage.path / FILE, tensors)
        (stage.path / "config.json").write_bytes(json_bytes(config.to_diff_dict()))
