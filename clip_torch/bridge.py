"""Connects the modules to the core: weights in and out, and initialisation."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.overrides import TorchFunctionMode

from clip_core import outputs
from clip_core.checkpoint.tensor import Tensor as LazyTensor
from clip_core.checkpoint.tensor import dtype_name
from clip_core.errors import CheckpointError
from clip_core.pretrained import Loaded, Pretrained, checked_config
from clip_core.weights import weight_table

from .methods import ATTENTIONS, Methods
from .peft_adapters import Adapters


@outputs.for_each_class
def _register(cls: Any) -> None:
    pytree.register_pytree_node(
        cls,
        outputs.flatten,
        lambda values, names: outputs.unflatten(cls, names, values),
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        to_dumpable_context=list,
        from_dumpable_context=tuple,
    )


class _Undrawn(TorchFunctionMode):
    """Builds a model on the meta device without drawing weights.

    Drawing and counting there would make torch import its compiler and sympy: half a second, 70 MB.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (torch.Tensor.normal_, torch.Tensor.fill_):
            return args[0] if args else kwargs["tensor"]
        if func is torch.arange:  # position ids
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


_filling: ContextVar[bool] = ContextVar("filling", default=False)


@contextmanager
def _undrawn_subclass() -> Iterator[None]:
    token = _filling.set(True)
    try:
        yield
    finally:
        _filling.reset(token)


def to_torch(tensor: LazyTensor, dtype: torch.dtype, mapped: bool = False) -> torch.Tensor:
    """A lazy tensor's values, rounded once to `dtype`, in memory that the result owns.

    `mapped`: over the file's mapping if its dtype allows that.
    """
    name = str(dtype).removeprefix("torch.") if "float" in tensor.dtype else tensor.dtype
    if mapped and tensor.map is not None and tensor.dtype == name:
        array = tensor.map()
    else:
        array = tensor.numpy() if name == tensor.dtype else tensor.astype(name).numpy()
    if not array.flags.writeable:
        array = array.copy()
    if name == "bfloat16":  # the core stores bfloat16 as bit patterns
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def from_torch(tensor: torch.Tensor) -> LazyTensor:
    """The inverse of `to_torch`, without a copy for tensors in main memory."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return LazyTensor.from_numpy(tensor.view(torch.int16).numpy().view(np.uint16), "bfloat16")
    return LazyTensor.from_numpy(tensor.numpy())


class PreTrainedModel(Pretrained, Adapters, Methods, nn.Module):
    """An nn.Module; loads, saves and initialises itself by the core's rules."""

    # Pretrained comes first, so that in a class of two packages (adapter.py) its methods precede the other's.

    weight_scope = None  # the public classes state theirs
    # Set by subclasses, as in v4.37: patterns of names not to warn about, and names not to save.
    _keys_to_ignore_on_load_missing: list[str] | None = None
    _keys_to_ignore_on_load_unexpected: list[str] | None = None
    _keys_to_ignore_on_save: list[str] | None = None
    _tied_weights_keys: list[str] | None = None
    _keep_in_fp32_modules: list[str] | None = None
    _supports_sdpa = False  # v4.37's value for CLIP, about its own dispatch; ours supports both
    _supports_flash_attn_2 = False
    _has_own_parts = False  # beside the table of `weight_scope`; as in every subclass with a constructor of its own

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        super().__init__()
        config = checked_config(type(self), config)
        config.validate()
        self.config = config
        for sub in (config, *(getattr(config, name) for name in config._sub_configs)):
            if sub._attn_implementation is None:
                sub._attn_implementation = config._attn_implementation or "sdpa"
            if sub._attn_implementation not in ATTENTIONS:
                found = sub._attn_implementation
                raise ValueError(f"attn_implementation: wanted one of {', '.join(ATTENTIONS)}, found {found!r}")

    def post_init(self) -> None:
        """Draw the weights; called last by every public class, and by subclasses that add parts."""
        self.init_weights()
        if getattr(self.config, "gradient_checkpointing", False):  # an old config key, which isn't kept
            self.gradient_checkpointing_enable()
            del self.config.gradient_checkpointing

    @torch.no_grad()
    def init_weights(self) -> None:
        """`_init_weights` for every module, children first, from torch's global generator; then ties.

        Nothing while a subclass is made for a file's weights, as in v4.37: what the file lacks is drawn afterwards.
        """
        if _filling.get():
            return
        self.apply(self._init_weights)
        self.tie_weights()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a module's own weights. Subclasses extend it for parts of their own."""

    def _initialize_weights(self, module: nn.Module) -> None:
        self._init_weights(module)

    def _draw(self, names: Iterable[str]) -> None:
        """`_init_weights` for the modules of these weights, as v4.37 does before it loads the others."""
        inside = {name[:end] for name in names for end, sign in enumerate(name) if sign == "."} | {""}
        with torch.no_grad():
            for path, module in reversed(list(self.named_modules())):
                if path in inside:
                    self._init_weights(module)

    # -- the core's hooks ---------------------------------------------------------------------------------------------

    @classmethod
    def _build_arguments(cls) -> tuple[str, ...]:
        return ("device_map", "attn_implementation", "mmap")

    @classmethod
    def _from_weights(cls, loaded: Loaded, *model_args: Any, **kwargs: Any) -> Any:
        if attention := kwargs.get("attn_implementation"):
            for config in (loaded.config, *(getattr(loaded.config, n) for n in loaded.config._sub_configs)):
                config._attn_implementation = attention
        made = _hollow if _is_ours(cls.__init__) and not cls._has_own_parts else _whole
        model = made(cls, loaded, model_args, kwargs.get("mmap", False))
        device = _single_device(kwargs.get("device_map"))
        return (model if device is None else model.to(device)).eval()

    @classmethod
    def _from_config(
        cls, config: Any, torch_dtype: Any = None, attn_implementation: str | None = None, **kwargs: Any
    ) -> Any:
        """A model with fresh weights; the config is copied.

        torch_dtype: of the weights, a name or a dtype. attn_implementation: "sdpa" or "eager".
        """
        config = copy.deepcopy(config)
        if attn_implementation is not None:
            for part in (config, *(getattr(config, name) for name in config._sub_configs)):
                part._attn_implementation = attn_implementation
        kwargs.pop("use_flash_attention_2", None)
        model = cls(config, **kwargs)
        return model if torch_dtype is None else model.to(getattr(torch, dtype_name(torch_dtype)))

    def _saved_as_adapter(self, folder: Path) -> bool:
        if self._hf_peft_config_loaded:
            self._save_adapter(folder)
        return self._hf_peft_config_loaded

    def _get_weights(self, weights: Mapping[str, Any] | None = None) -> dict[str, LazyTensor]:
        weights = weights or self.state_dict()
        ignored = self._keys_to_ignore_on_save or ()
        return {name: self._lazy(name, value) for name, value in weights.items() if name not in ignored}

    @classmethod
    def _lazy(cls, name: str, value: Any) -> LazyTensor:
        if isinstance(value, np.ndarray):
            return LazyTensor.from_numpy(value)
        if not isinstance(value, torch.Tensor) or value.is_quantized:
            raise ValueError(
                f"{name}: wanted a floating-point weight, found {type(value).__name__}: a quantized model has no "
                "layout that other programs read; save it before it is quantized, or its state_dict by torch.save"
            )
        return from_torch(value)


def _is_ours(thing: Any) -> bool:
    return thing.__module__.startswith(f"{__package__}.")


def _hollow(cls: Any, loaded: Loaded, model_args: tuple, mapped: bool) -> Any:
    """For a class of this package: a model without memory, before it gets the file's weights."""
    with torch.device("meta"), _Undrawn():
        model = cls(loaded.config, *model_args)
    dtype = getattr(torch, loaded.dtype)
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    for name, buffer in buffers.items():  # position_ids, of no file, and a ResNet's running statistics
        if name not in loaded.tensors and name not in loaded.fresh:
            _replace(model, name, torch.arange(buffer.shape[-1])[None])
    for name in loaded.fresh:
        kept = parameters.get(name, buffers.get(name))
        value = torch.empty(kept.shape, dtype=dtype if kept.is_floating_point() else kept.dtype)
        _replace(model, name, value if name in buffers else nn.Parameter(value, requires_grad=kept.requires_grad))
    if loaded.fresh:
        model._draw(loaded.fresh)
    for name, tensor in loaded.tensors.items():
        value = to_torch(tensor, dtype, mapped)
        grows = name in parameters and parameters[name].requires_grad
        _replace(model, name, value if name in buffers else nn.Parameter(value, requires_grad=grows))
    return model


@torch.no_grad()
def _whole(cls: Any, loaded: Loaded, model_args: tuple, mapped: bool) -> Any:
    """For a subclass with its own constructor: a complete model, whose values stay unless the file has others."""
    # A class with its own `_init_weights` draws as in v4.37, where constructors draw nothing.
    draws = any("_init_weights" in vars(base) for base in cls.__mro__ if not _is_ours(base))
    with torch.random.fork_rng(devices=[], enabled=draws), _undrawn_subclass():
        model = cls(loaded.config, *model_args)
    model.tie_weights()
    dtype = getattr(torch, loaded.dtype)
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    names = _once(state, {*loaded.tensors, *(loaded.own.entries if loaded.own else ())})
    table = weight_table(model.config, cls.weight_scope) if cls.weight_scope else {}
    found, fresh = loaded.take_own({name: tuple(state[name].shape) for name in names if name not in table})
    if fresh or loaded.fresh:
        model._draw([*fresh, *loaded.fresh])
    for name, tensor in {**loaded.tensors, **found}.items():
        if name not in state:  # a part of CLIP that the subclass lacks
            continue
        if tuple(state[name].shape) != tuple(tensor.shape):
            got, want = tuple(tensor.shape), tuple(state[name].shape)
            raise CheckpointError(
                f"{cls.__name__}: its constructor changes what the config says: {name}: got {got}, want {want}"
            )
        kept, wide = state[name].dtype, set(name.split(".")) & set(cls._keep_in_fp32_modules or ())
        value = to_torch(tensor, torch.float32 if wide else dtype if kept.is_floating_point else kept, mapped)
        state[name].data = value if kept.is_floating_point else value.to(kept)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if set(name.split(".")) & set(cls._keep_in_fp32_modules or ()):
            continue
        if value.is_floating_point() and value.dtype != dtype and value.dtype == torch.get_default_dtype():
            value.data = value.to(dtype)
    model.tie_weights()
    return model


def _once(state: Mapping[str, torch.Tensor], stored: set[str]) -> list[str]:
    """The names without ties: for each tensor the stored names, or else the first."""
    names: dict[int, list[str]] = {}
    for name, value in state.items():
        names.setdefault(id(value), []).append(name)
    return [name for same in names.values() for name in ([n for n in same if n in stored] or same[:1])]


def _replace(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, value)


def _single_device(device_map: Any) -> Any:
    """v4.37's `device_map` for one device: None, a device, "auto", or {"": device}."""
    if isinstance(device_map, Mapping):
        if set(device_map) != {""}:
            raise ValueError(f"device_map: wanted one device for the whole model, found {dict(device_map)!r}")
        device_map = device_map[""]
    if device_map in ("auto", "balanced", "sequential"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device_map
