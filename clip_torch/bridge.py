"""What ties the modules to the core: weights in and out, initialisation, and the methods of v4.37's base class."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.overrides import TorchFunctionMode

from clip_core import outputs
from clip_core.checkpoint.tensor import Tensor as LazyTensor
from clip_core.init import initial_values
from clip_core.pretrained import Loaded, Pretrained

ATTENTIONS = ("sdpa", "eager")

for _cls in outputs.OUTPUT_CLASSES:
    pytree.register_pytree_node(
        _cls,
        outputs.flatten,
        lambda values, names, cls=_cls: outputs.unflatten(cls, names, values),
        serialized_type_name=f"clip_core.outputs.{_cls.__name__}",
        to_dumpable_context=list,
        from_dumpable_context=tuple,
    )


class _Undrawn(TorchFunctionMode):
    """Builds a model for the meta device without drawing weights, which is no use there.

    Drawing and counting there would also make torch import its compiler and sympy: half a second, 70 MB.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (torch.Tensor.normal_, torch.Tensor.fill_):
            return args[0] if args else kwargs["tensor"]
        if func is torch.arange:  # position ids
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


def to_torch(tensor: LazyTensor, dtype: torch.dtype, mapped: bool = False) -> torch.Tensor:
    """A lazy tensor's numbers, rounded once to `dtype`, in memory that the result owns.

    `mapped`: over the file itself where its dtype allows that.
    """
    name = str(dtype).removeprefix("torch.")
    if mapped and tensor.map is not None and tensor.dtype == name:
        array = tensor.map()
    else:
        array = tensor.astype(name).numpy() if "float" in tensor.dtype else tensor.numpy()
    if not array.flags.writeable:
        array = array.copy()
    if name == "bfloat16":  # the core carries bfloat16 as bit patterns
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def from_torch(tensor: torch.Tensor) -> LazyTensor:
    """The inverse of `to_torch`, without a copy for tensors in main memory."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return LazyTensor.from_numpy(tensor.view(torch.int16).numpy().view(np.uint16), "bfloat16")
    return LazyTensor.from_numpy(tensor.numpy())


class PreTrainedModel(Pretrained, nn.Module):
    """An nn.Module that loads, saves and initialises itself by the core's rules."""

    # Pretrained comes first: in a class of two packages (adapter.py) its methods go before the other's.

    main_input_name = "input_ids"
    supports_gradient_checkpointing = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            wanted, found = self.config_class.__name__, type(config).__name__
            raise TypeError(f"{type(self).__name__}: config: wanted a {wanted}, found {found}")
        config.validate()
        self.config = config
        for sub in (config, *(getattr(config, name) for name in config._sub_configs)):
            if sub._attn_implementation is None:
                sub._attn_implementation = config._attn_implementation or "sdpa"
            if sub._attn_implementation not in ATTENTIONS:
                found = sub._attn_implementation
                raise ValueError(f"attn_implementation: wanted one of {', '.join(ATTENTIONS)}, found {found!r}")

    def post_init(self) -> None:
        """Called last by every public class: draws the weights."""
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, names: Iterable[str] | None = None) -> None:
        """Draw all weights, or those named, by v4.37's rule (`clip_core.init`), from torch's global generator."""
        parameters = dict(self.named_parameters())
        values = initial_values(self.config, self.weight_scope)
        for name in parameters if names is None else names:
            kind, value = values[name]
            if kind == "constant":
                parameters[name].fill_(value)
            else:
                parameters[name].normal_(mean=0.0, std=value)

    # -- the core's hooks ---------------------------------------------------------------------------------------------

    @classmethod
    def _build_arguments(cls) -> tuple[str, ...]:
        return ("device_map", "attn_implementation", "mmap")

    @classmethod
    def _from_weights(cls, loaded: Loaded, *model_args: Any, **kwargs: Any) -> Any:
        if attention := kwargs.get("attn_implementation"):
            for config in (loaded.config, *(getattr(loaded.config, n) for n in loaded.config._sub_configs)):
                config._attn_implementation = attention
        with torch.device("meta"), _Undrawn():  # nothing is allocated before the file's weights take their places
            model = cls(loaded.config, *model_args)
        dtype = getattr(torch, loaded.dtype)
        for name, parameter in model.named_parameters():
            if name in loaded.tensors:
                value = to_torch(loaded.tensors[name], dtype, mapped=kwargs.get("mmap", False))
            else:
                value = torch.empty(parameter.shape, dtype=dtype)
            _replace(model, name, nn.Parameter(value, requires_grad=parameter.requires_grad))
        for name, buffer in model.named_buffers():  # position_ids are the only buffers
            _replace(model, name, torch.arange(buffer.shape[-1])[None])
        model.init_weights(loaded.fresh)
        device = _single_device(kwargs.get("device_map"))
        return (model if device is None else model.to(device)).eval()

    def _get_weights(self, weights: Mapping[str, Any] | None = None) -> dict[str, LazyTensor]:
        weights = weights or self.state_dict()
        for name, value in weights.items():
            if not isinstance(value, torch.Tensor) or value.is_quantized:
                raise ValueError(
                    f"{name}: wanted a floating-point weight, found {type(value).__name__}: a quantized model has no "
                    "layout that other programs read; save it before it is quantized, or its state_dict by torch.save"
                )
        return {name: from_torch(value) for name, value in weights.items()}

    # -- v4.37's base class -------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of the floating-point parameters."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def base_model(self) -> nn.Module:
        return getattr(self, self.base_model_prefix, self)

    @property
    def name_or_path(self) -> str:
        return self.config.name_or_path

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Token ids for tracing tools."""
        return {"input_ids": torch.tensor([[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]])}

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model holds; optionally only trained ones, or without nn.Embedding tables."""
        tables = {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, nn.Embedding)}
        return sum(
            parameter.numel()
            for name, parameter in self.named_parameters()
            if (parameter.requires_grad or not only_trainable) and not (exclude_embeddings and name in tables)
        )

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute each layer in the backward pass; keywords go to torch.utils.checkpoint (use_reentrant=False)."""
        self._set_gradient_checkpointing(True, gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        self._set_gradient_checkpointing(False, None)

    def _set_gradient_checkpointing(self, enabled: bool, kwargs: dict[str, Any] | None) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = enabled
                module.checkpoint_kwargs = {"use_reentrant": False, **(kwargs or {})}

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def set_attn_implementation(self, name: str) -> None:
        """ "sdpa" or "eager", from the next call on."""
        if name not in ATTENTIONS:
            raise ValueError(f"attn_implementation: wanted one of {', '.join(ATTENTIONS)}, found {name!r}")
        for config in (self.config, *(getattr(self.config, sub) for sub in self.config._sub_configs)):
            config._attn_implementation = name

    def enable_input_require_grads(self) -> None:
        """Make the embeddings' output require gradients (adapters on frozen models need it)."""
        embeddings = self.get_input_embeddings()
        self._require_grads_hook = embeddings.register_forward_hook(lambda m, args, out: out.requires_grad_(True))

    def disable_input_require_grads(self) -> None:
        self._require_grads_hook.remove()

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding; for a vision model the patch embedding, as in v4.37."""
        if hasattr(self, "text_model"):
            return self.text_model.embeddings.token_embedding
        return self.vision_model.embeddings.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self._text_tower("set_input_embeddings").embeddings.token_embedding = value

    def get_output_embeddings(self) -> None:
        """None: CLIP has no output embeddings."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Grow or shrink the vocabulary; kept rows stay, new ones are drawn by the initialisation rule.

        Args:
            new_num_tokens: rows wanted; None keeps the number (or only rounds it).
            pad_to_multiple_of: rounds the number up.
        """
        tower = self._text_tower("resize_token_embeddings")
        old = tower.embeddings.token_embedding
        rows = old.num_embeddings if new_num_tokens is None else int(new_num_tokens)
        if pad_to_multiple_of is not None:
            rows = -(-rows // pad_to_multiple_of) * pad_to_multiple_of
        if rows < 1:
            raise ValueError(f"new_num_tokens: wanted at least 1, found {rows}")
        if rows == old.num_embeddings:
            return old
        new = nn.Embedding(rows, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
        with torch.no_grad():
            new.weight.normal_(mean=0.0, std=0.02 * self.config.initializer_factor)
            kept = min(rows, old.num_embeddings)
            new.weight[:kept] = old.weight[:kept]
        new.weight.requires_grad_(old.weight.requires_grad)
        tower.embeddings.token_embedding = new
        tower.config.vocab_size = rows
        return new

    def _text_tower(self, what: str) -> nn.Module:
        if not hasattr(self, "text_model"):
            raise ValueError(f"{type(self).__name__}.{what}: this model has no token embedding")
        return self.text_model

    @torch.no_grad()
    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]], tower: str | None = None) -> None:
        """Remove attention heads: {layer: [heads]}. A full model also needs `tower` = "text" or "vision".

        The config remembers them (`pruned_heads`), so a saved model loads with its shorter projections.
        """
        name = f"{tower}_model" if tower else next(iter(self._towers())) if len(self._towers()) == 1 else None
        if name not in self._towers():
            raise ValueError(f"tower: wanted one of {', '.join(self._towers())}, without '_model', found {tower!r}")
        transformer = getattr(self, name)
        pruned = copy.deepcopy(transformer.config.pruned_heads)
        for layer, heads in heads_to_prune.items():
            attention = transformer.encoder.layers[layer].self_attn
            _prune(attention, set(heads), set(pruned.get(layer, ())), transformer.config)
            pruned[layer] = sorted(set(pruned.get(layer, ())) | set(heads))
        transformer.config.pruned_heads = pruned

    def _towers(self) -> list[str]:
        return [name for name in ("text_model", "vision_model") if hasattr(self, name)]


def _prune(attention: nn.Module, heads: set[int], already: set[int], config: Any) -> None:
    total, width = config.num_attention_heads, attention.head_dim
    if not heads <= set(range(total)):
        raise ValueError(f"heads_to_prune: wanted heads from 0 to {total - 1}, found {sorted(heads)}")
    if len(heads | already) == total:
        raise ValueError("heads_to_prune: at least one head of a layer must stay")
    present = [head for head in range(total) if head not in already]
    index = torch.cat([torch.arange(i * width, (i + 1) * width) for i, h in enumerate(present) if h not in heads])
    for name in ("q_proj", "k_proj", "v_proj"):
        _keep(getattr(attention, name), index, 0)
    _keep(attention.out_proj, index, 1)
    attention.num_heads = len(index) // width


def _keep(linear: nn.Linear, index: torch.Tensor, axis: int) -> None:
    """Keep some of a linear layer's outputs (axis 0) or inputs (axis 1)."""
    index = index.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.index_select(axis, index), linear.weight.requires_grad)
    if axis == 0:
        linear.bias = nn.Parameter(linear.bias[index], linear.bias.requires_grad)
        linear.out_features = len(index)
    else:
        linear.in_features = len(index)


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


def is_customised(tower: nn.Module, norm: str) -> bool:
    """Whether someone wants a tower called as a whole: it is another one or compiled, or what the short way to its
    pooled state leaves out (the encoder, its last layer, the norm behind it) has hooks or a forward of its own."""
    if not hasattr(type(tower), "pooled"):
        return True
    last = [part for layer in list(tower.encoder.layers)[-1:] for part in layer.modules()]
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        or part._compiled_call_impl is not None or "forward" in part.__dict__
        for part in (tower, tower.encoder, getattr(tower, norm), *last)
    )  # fmt: skip
