"""`import transformers` redirected to triclip.

Names of CLIP's contract come from clip_core and from the backends that a run sees; constants and small tools of the
test files are here; auto classes, other models and the Trainer are classes that can be imported and refuse to be used.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import logging
import random
import sys
import types
from collections import OrderedDict
from typing import Any

from . import CHECKPOINT, testing

_PACKAGES = {"torch": "clip_torch", "tf": "clip_tf", "flax": "clip_flax"}
# transformers' name -> (module, attribute) where ours is called otherwise
_RENAMED = {
    "PreTrainedTokenizerBase": ("clip_core.text.base", "TokenizerBase"),
    "SpecialTokensMixin": ("clip_core.text.vocabulary", "Vocabulary"),
    "PreTrainedTokenizer": ("clip_core", "CLIPTokenizer"),
    "PreTrainedTokenizerFast": ("clip_core", "CLIPTokenizerFast"),
    "ProcessorMixin": ("clip_core", "CLIPProcessor"),
    "PreTrainedModel": ("clip_torch.bridge", "PreTrainedModel"),
    "TFPreTrainedModel": ("clip_tf.bridge", "TFPreTrainedModel"),
    "ContextManagers": ("conformance.peer.testing", "ContextManagers"),
}
_CONSTANTS: dict[str, Any] = {
    "__version__": "4.37.2",
    "CONFIG_NAME": "config.json",
    "GENERATION_CONFIG_NAME": "generation_config.json",
    "IMAGE_PROCESSOR_NAME": "preprocessor_config.json",
    "WEIGHTS_NAME": "pytorch_model.bin",
    "SAFE_WEIGHTS_NAME": "model.safetensors",
    "TF2_WEIGHTS_NAME": "tf_model.h5",
    "FLAX_WEIGHTS_NAME": "flax_model.msgpack",
    "FLAX_WEIGHTS_INDEX_NAME": "flax_model.msgpack.index.json",
    "VOCAB_FILES_NAMES": {"vocab_file": "vocab.json", "merges_file": "merges.txt"},
    "torch_device": "cpu",
    "TOKEN": "",
    "USER": "",
    "_tf_gpu_memory_limit": None,
    "_init_weights": True,
    "_FX_SUPPORTED_MODELS_WITH_KV_CACHE": (),
}
# The auto classes' entries for CLIP, by which their tests leave base models out of some cases.
_MAPPINGS = {
    "MODEL_MAPPING_NAMES": {"clip": "CLIPModel", "clip_vision_model": "CLIPVisionModel"},
    "TF_MODEL_MAPPING": {"CLIPConfig": "TFCLIPModel"},
    "FLAX_MODEL_MAPPING": {"CLIPConfig": "FlaxCLIPModel"},
    "MODEL_MAPPING": {"CLIPConfig": "CLIPModel", "CLIPVisionConfig": "CLIPVisionModel"},
}


class _Refusing(type):
    """The class of stand-ins: importable, usable in `isinstance`, and nothing else."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"transformers.{cls.__name__} is no part of CLIP: triclip has nothing for it")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(f"transformers.{cls.__name__}.{name} is no part of CLIP: triclip has nothing for it")


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        value = _find(name)
        if isinstance(value, _Refusing) and name.islower():
            with contextlib.suppress(ImportError):
                return importlib.import_module(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        names = set(self.__dict__)
        for package in _packages():
            names |= set(package.__all__)
        return sorted(names)


def _packages() -> list[Any]:
    return [importlib.import_module(name) for name in ("clip_core", *(_PACKAGES[item] for item in testing.FRAMEWORKS))]


def _find(name: str) -> Any:
    """The value of a name, in whichever of transformers' modules it is asked for."""
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    if name in _TOOLS:
        return _TOOLS[name]
    if name in _RENAMED:
        module, attribute = _RENAMED[name]
        return getattr(importlib.import_module(module), attribute)
    if hasattr(testing, name):
        return getattr(testing, name)
    if name.startswith("is_") and name.endswith("_available"):
        return testing.available(name.removeprefix("is_").removesuffix("_available"))
    if name.startswith("require_"):
        return testing.require(name.removeprefix("require_"))
    if name == "slow":
        return lambda test: test
    if name in ("tooslow", "is_staging_test", "is_pt_tf_cross_test", "is_pt_flax_cross_test"):
        return testing.skipped
    if name.endswith("_PRETRAINED_MODEL_ARCHIVE_LIST"):
        return [CHECKPOINT]
    if "_MAPPING" in name or name.startswith("MAPPING"):
        return _mapping(name)
    for package in [*_packages(), *_modeling()]:
        if hasattr(package, name):
            return getattr(package, name)
    return _Refusing(name, (), {})


def _modeling() -> list[Any]:
    return [importlib.import_module(f"{_PACKAGES[item]}.modeling") for item in testing.FRAMEWORKS]


def _mapping(name: str) -> OrderedDict[Any, Any]:
    entries = _MAPPINGS.get(name, {})
    if name.endswith("_NAMES"):
        return OrderedDict(entries)
    return OrderedDict((_find(config), _find(model)) for config, model in entries.items())


def _get_values(mapping: Any) -> list[Any]:
    found: list[Any] = []
    for value in mapping.values():
        found += value if isinstance(value, (list, tuple)) else [value]
    return found


def _set_seed(seed: int) -> None:
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    if "torch" in testing.FRAMEWORKS:
        importlib.import_module("torch").manual_seed(seed)
    if "tf" in testing.FRAMEWORKS:
        importlib.import_module("tensorflow").random.set_seed(seed)


def _id_tensor_storage(tensor: Any) -> tuple[Any, ...]:
    storage = tensor.untyped_storage()
    return tensor.device, storage.data_ptr(), storage.nbytes()


@contextlib.contextmanager
def _no_init_weights(_enable: bool = True) -> Any:
    """Modules made in the block are not initialised."""
    init = importlib.import_module("torch.nn.init")
    kept = {
        name: f for name, f in vars(init).items() if name.endswith("_") and callable(f) and not name.startswith("_")
    }
    try:
        for name in kept if _enable else ():
            setattr(init, name, lambda tensor, *args, **kwargs: tensor)
        yield
    finally:
        for name, function in kept.items():
            setattr(init, name, function)


def _load_state_dict(checkpoint_file: Any) -> Any:
    if str(checkpoint_file).endswith(".safetensors"):
        return importlib.import_module("safetensors.torch").load_file(checkpoint_file)
    return importlib.import_module("torch").load(checkpoint_file, map_location="cpu", weights_only=True)


def _symbolic_trace(model: Any, input_names: list[str] | None = None) -> Any:
    from .tracing import symbolic_trace

    return symbolic_trace(model, input_names)


class _Logging(types.ModuleType):
    """transformers.utils.logging over the standard one; their loggers are ours."""

    DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

    @staticmethod
    def get_logger(name: str | None = None) -> logging.Logger:
        ours = name is None or name.startswith("transformers")
        return logging.getLogger("clip_core" if ours else name)

    @staticmethod
    def get_verbosity() -> int:
        return logging.getLogger("clip_core").getEffectiveLevel()

    @staticmethod
    def set_verbosity(level: int) -> None:
        logging.getLogger("clip_core").setLevel(level)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("set_verbosity_"):
            return lambda: self.set_verbosity(getattr(logging, name.removeprefix("set_verbosity_").upper()))
        raise AttributeError(name)


_TOOLS: dict[str, Any] = {
    "get_values": _get_values,
    "set_seed": _set_seed,
    "id_tensor_storage": _id_tensor_storage,
    "no_init_weights": _no_init_weights,
    "load_state_dict": _load_state_dict,
    "symbolic_trace": _symbolic_trace,
    "processor_class_from_name": lambda name: _find(name),
    "direct_transformers_import": lambda *_: importlib.import_module("transformers"),
    "is_torch_bf16_available_on_device": lambda device: True,
    "is_torch_fp16_available_on_device": lambda device: True,
    "logging": _Logging("transformers.utils.logging"),
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] != "transformers":
            return None
        last = name.rpartition(".")[2]
        if last != last.lower():  # a class, not a module
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        last = spec.name.rpartition(".")[2]
        if last == "logging":
            return _TOOLS["logging"]
        # A module's classes are told from its siblings' by `module.__name__`, so CLIP's own are the real ones.
        ours = {"modeling_clip": "torch", "modeling_tf_clip": "tf", "modeling_flax_clip": "flax"}
        return _Module(spec.name) if last not in ours else _alias(spec.name, ours[last])

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _alias(name: str, framework: str) -> types.ModuleType:
    module = _Module(name)
    for key, value in vars(importlib.import_module(f"{_PACKAGES[framework]}.modeling")).items():
        if not key.startswith("__"):
            setattr(module, key, value)
    return module


class _Forward(logging.Handler):
    """Forwards this package's log to transformers' logger, which their tests read."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger("transformers").handle(record)


def install() -> None:
    """From here on `import transformers` means triclip, also if transformers is installed."""
    logging.getLogger("clip_core").addHandler(_Forward())
    for name in [key for key in sys.modules if key.split(".")[0] == "transformers"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder())
