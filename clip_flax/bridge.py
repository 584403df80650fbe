"""What ties the modules to the core: weights in and out, initialisation, and the methods of v4.37's base class."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from clip_core import outputs
from clip_core.checkpoint.dialects import FLAX, translate
from clip_core.checkpoint.ops import OPS
from clip_core.checkpoint.tensor import FLOATS, dtype_name
from clip_core.checkpoint.tensor import Tensor as LazyTensor
from clip_core.config import PretrainedConfig
from clip_core.errors import CheckpointError
from clip_core.pretrained import Loaded, Pretrained
from clip_core.weights import Difference, compare, weight_table

from . import own_tree, shortcuts
from .inputs import by_position, with_defaults


def _flatten_with_keys(output: outputs.ModelOutput) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    values, names = outputs.flatten(output)
    return [(jax.tree_util.DictKey(name), value) for name, value in zip(names, values, strict=True)], names


for _cls in outputs.OUTPUT_CLASSES:
    jax.tree_util.register_pytree_with_keys(
        _cls,
        _flatten_with_keys,
        lambda names, values, cls=_cls: outputs.unflatten(cls, names, values),
        outputs.flatten,
    )
    # Programs of `jax.export` that return one are written as bytes with the names of its fields.
    if hasattr(jax_export, "register_pytree_node_serialization"):  # JAX 0.4.36
        jax_export.register_pytree_node_serialization(
            _cls,
            serialized_name=f"clip_core.outputs.{_cls.__name__}",
            serialize_auxdata=lambda names: ",".join(names).encode(),
            deserialize_auxdata=lambda names: tuple(names.decode().split(",")) if names else (),
        )


def to_jax(tensor: LazyTensor, dtype: str) -> np.ndarray:
    """A lazy tensor's numbers, rounded once to `dtype`, as JAX takes them (bfloat16 as ml_dtypes' type)."""
    tensor = tensor.astype(dtype) if tensor.dtype in FLOATS else tensor
    array = tensor.numpy()
    return array.view(ml_dtypes.bfloat16) if tensor.dtype == "bfloat16" else array


def from_jax(array: Any) -> LazyTensor:
    """The inverse of `to_jax`; gathers an array that is spread over devices."""
    return LazyTensor.from_numpy(np.asarray(array))


def as_dtype(dtype: Any) -> Any:
    """'bfloat16', 'bf16', np.float32, ... -> jnp.bfloat16, jnp.float32, ..."""
    return getattr(jnp, dtype_name(dtype))


class FlaxPreTrainedModel(Pretrained):
    """A Linen module with parameters, which loads, saves and initialises itself by the core's rules.

    Args:
        config: of the class's `config_class`.
        module: the Linen module that computes.
        input_shape: of the example that `init_weights` runs the module on.
        seed: of the parameters' first draw.
        dtype: the computation's: jnp.float32, jnp.bfloat16, ... or a name. Parameters are float32 whatever it is.
        _do_init: False leaves the parameters to the caller, who passes `params=` to every call.
        jit: compile calls, once per input shape and set of flags. False runs every operation by itself. The attribute
            `jit` can be changed at any time. What a compiled call read from the config stays as it was then.

    Subclasses that compute with a module of their own override `init_weights` and `__call__`, as in v4.37.
    """

    config_class: Any = PretrainedConfig
    module_class: Any = None
    weight_scope: Any = None
    base_model_prefix = ""
    main_input_name = "input_ids"
    _class_prefix = "Flax"
    _native_format = "flax"
    _native_file = "flax_model.msgpack"

    def __init__(
        self,
        config: Any,
        module: nn.Module,
        input_shape: Any = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        jit: bool = True,
    ) -> None:
        if not isinstance(config, self.config_class):
            wanted, found = self.config_class.__name__, type(config).__name__
            raise TypeError(f"{type(self).__name__}: config: wanted a {wanted}, found {found}")
        config.validate()
        if module is None:
            raise ValueError(f"{type(self).__name__}: module: wanted a Linen module, found None")
        self._config = config
        self._module = module
        self.dtype = as_dtype(dtype)
        self.seed = seed
        self.key = jax.random.PRNGKey(seed)
        self.input_shape = self._default_input_shape() if input_shape is None else input_shape
        self.jit = jit
        self._is_initialized = _do_init
        if _do_init:
            self._params = unfreeze(self.init_weights(self.key, self.input_shape))

    # -- parameters ---------------------------------------------------------------------------------------------------

    def init_weights(self, rng: jax.Array, input_shape: Any, params: Any = None) -> dict[str, Any]:
        """Freshly drawn parameters, by v4.37's rule (`clip_core.init`); the model's own are left alone.

        With `params`, those are returned, completed with drawn ones where they lack some. Works under `jax.jit` and
        `jax.eval_shape`.
        """
        inputs = self._arguments(self._example(input_shape))
        if shortcuts.is_own(self.module):  # draws, and computes nothing else
            shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in by_position(inputs)]
            drawn = self.module.lazy_init(rng, *shapes)["params"]
        else:
            keys = dict(zip(("params", "dropout"), jax.random.split(rng), strict=True))
            drawn = self.module.init(keys, *by_position(inputs))["params"]
        if params is None:
            return drawn
        return unflatten_dict({**flatten_dict(drawn), **flatten_dict(unfreeze(params))})

    def _example(self, input_shape: Any) -> dict[str, Any]:
        """Arguments of the module by name, of that shape."""
        raise NotImplementedError(f"{type(self).__name__} has its own module, so it needs its own init_weights")

    def _default_input_shape(self) -> Any:
        raise ValueError(f"{type(self).__name__}: input_shape: wanted a shape, found None")

    @property
    def params(self) -> dict[str, Any]:
        """The nested dict of parameters. Setting it checks names and shapes, both ways."""
        if not self._is_initialized:
            raise ValueError(
                f"{type(self).__name__} was made with _do_init=False and holds no parameters: get them from "
                "init_weights or from_pretrained(..., _do_init=False), and pass params= to every call"
            )
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        if not self._is_initialized:
            raise ValueError(
                f"{type(self).__name__} was made with _do_init=False and keeps no parameters: "
                "pass params= to every call"
            )
        self._params = self._checked(params)

    def _checked(self, params: Any) -> dict[str, Any]:
        if not isinstance(params, Mapping):
            raise TypeError(f"params: wanted a nested dict of arrays, found {type(params).__name__}")
        # New dicts, since the caller may go on editing the old ones; on the device, since every call needs them there.
        params = jax.tree.map(lambda leaf: leaf if hasattr(leaf, "sharding") else jnp.array(leaf), unfreeze(params))
        difference = compare(_dotted(params), _dotted(self.params_shape_tree))
        if any(difference):
            raise CheckpointError(
                f"params: not those of this {type(self).__name__} (- missing, + unexpected):\n{difference.report()}"
            )
        return params

    @functools.cached_property
    def params_shape_tree(self) -> dict[str, Any]:
        """The parameters' tree with jax.ShapeDtypeStruct leaves."""
        return unfreeze(jax.eval_shape(lambda rng: self.init_weights(rng, self.input_shape), self.key))

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The parameters' paths."""
        return set(flatten_dict(self.params_shape_tree))

    def num_params(self, params: Any = None) -> int:
        """How many numbers the parameters hold."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params_shape_tree if params is None else params))

    def to_bf16(self, params: Any, mask: Any = None) -> Any:
        """The floating-point parameters as bfloat16, or those where the tree of bools `mask` says True. A new tree."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Any, mask: Any = None) -> Any:
        """As `to_bf16`, to float16."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Any, mask: Any = None) -> Any:
        """As `to_bf16`, to float32."""
        return _cast(params, jnp.float32, mask)

    # -- calls --------------------------------------------------------------------------------------------------------

    def _run(
        self,
        inputs: dict[str, Any],
        params: Any,
        dropout_rng: Any,
        train: bool,
        flags: tuple[bool, ...] = (),
        method: Any = None,
        **options: Any,
    ) -> Any:
        """The module on checked inputs, called as v4.37 does: arrays, `deterministic` and flags by position."""
        variables = {"params": params or self.params}
        rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
        settings = (not train, *flags), method, tuple(options.items())
        run = self._compiled if self.jit and shortcuts.allowed(self.module) else self._apply
        return run(variables, self._arguments(inputs), rngs, *settings)

    def _arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A module of one's own is given the mask and the positions that v4.37 makes."""
        return inputs if shortcuts.is_own(self.module) else with_defaults(inputs)

    def _apply(
        self, variables: Any, inputs: dict[str, Any], rngs: Any, flags: tuple[bool, ...], method: Any, options: Any
    ) -> Any:
        if "pixel_values" in inputs:  # callers have [B, C, h, w], modules take [B, h, w, C]
            inputs = {**inputs, "pixel_values": jnp.transpose(inputs["pixel_values"], (0, 2, 3, 1))}
        return self.module.apply(variables, *by_position(inputs), *flags, rngs=rngs, method=method, **dict(options))

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self._apply, static_argnums=(3, 4, 5))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_compiled"}  # can't be pickled

    # -- the core's hooks ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, dtype: Any = jnp.float32, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a model: see `clip_core.pretrained.Pretrained.from_pretrained`. What differs in Flax, as in v4.37:

        Args:
            dtype: the computation's, as for the constructor; it never changes the parameters.
            torch_dtype: the parameters'. Default float32, also for files saved in half precision; "auto": what the
                config says, or else the file.
            _do_init: False returns (model, params), with the parameters in main memory.
            *model_args, seed, input_shape, jit, gradient_checkpointing: for the constructor.
        """
        kwargs["compute_dtype"] = dtype
        if cls.weight_scope is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        config, tensors, param_dtype, build = own_tree.load(cls, pretrained_model_name_or_path, kwargs)
        model, do_init = cls._hollow(config, *model_args, **build)
        own_tree.check(pretrained_model_name_or_path, cls, tensors, _dotted(model.params_shape_tree))
        return model._filled(tensors, param_dtype, do_init)

    @classmethod
    def _build_arguments(cls) -> tuple[str, ...]:
        return ("compute_dtype", "_do_init", "seed", "input_shape", "jit", "gradient_checkpointing")

    @classmethod
    def _from_weights(cls, loaded: Loaded, *model_args: Any, **kwargs: Any) -> Any:
        model, do_init = cls._hollow(loaded.config, *model_args, **kwargs)
        return model._filled(translate(loaded.tensors, FLAX), loaded.dtype, do_init, bool(loaded.fresh))

    @classmethod
    def _hollow(cls, config: Any, *model_args: Any, _do_init: bool = True, **kwargs: Any) -> tuple[Any, bool]:
        """A model for which nothing was drawn, and whether it is to hold parameters."""
        if "compute_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("compute_dtype")
        return cls(config, *model_args, _do_init=False, **kwargs), _do_init

    def _filled(self, tensors: Mapping[str, LazyTensor], dtype: str, do_init: bool, complete: bool = False) -> Any:
        """The model with these parameters, or (model, params). `complete`: draw those that are not there."""
        with jax.default_device(None if do_init else jax.local_devices(backend="cpu")[0]):
            # The largest first: what is read is copied, and while the table is twice there, nothing else is.
            largest_first = sorted(tensors.items(), key=lambda item: -item[1].nbytes)
            flat = {tuple(path.split(".")): jnp.array(to_jax(tensor, dtype)) for path, tensor in largest_first}
            flat = {tuple(path.split(".")): flat[tuple(path.split("."))] for path in tensors}
            if complete:
                drawn = _cast(self.init_weights(self.key, self.input_shape), as_dtype(dtype))
                flat = {**flatten_dict(drawn), **flat}
        params = unflatten_dict(flat)
        if not do_init:
            return self, params
        self._is_initialized, self._params = True, params
        return self

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        params: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "10GB",
        token: str | bool | None = None,
        safe_serialization: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write weights and config.json: see `clip_core.pretrained.Pretrained.save_pretrained`.

        Args:
            params: to write instead of the model's own.
            safe_serialization: flax_model.msgpack in Flax's layout (False, v4.37's default), or model.safetensors in
                PyTorch's, which every library reads.
        """
        params = self.params if params is None else params
        if self.weight_scope is None:
            if safe_serialization or push_to_hub or kwargs:
                raise ValueError(f"{type(self).__name__} has a module of its own: it is saved as {own_tree.FILE} only")
            own_tree.save(self, save_directory, {path: from_jax(leaf) for path, leaf in _dotted(params).items()})
            return
        super().save_pretrained(
            save_directory,
            state_dict=params,
            push_to_hub=push_to_hub,
            max_shard_size=max_shard_size,
            token=token,
            safe_serialization=safe_serialization,
            **kwargs,
        )

    def _get_weights(self, weights: Mapping[str, Any] | None = None) -> dict[str, LazyTensor]:
        tensors = {name: from_jax(leaf) for name, leaf in _dotted(weights or self.params).items()}
        rows = [(name, *FLAX.foreign(name, row)) for name, row in weight_table(self.config, self.weight_scope).items()]
        wanted = {path: name for name, path, _ in rows}
        difference = Difference([p for p in wanted if p not in tensors], [p for p in tensors if p not in wanted], [])
        if any(difference):
            raise CheckpointError(
                f"params: not those of this {type(self).__name__} (- missing, + unexpected):\n{difference.report()}"
            )
        return {name: OPS[op].inverse(tensors[path])[0] for name, path, op in rows}

    # -- v4.37's base class -------------------------------------------------------------------------------------------

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        return cls(config, **kwargs)

    @property
    def framework(self) -> str:
        return "flax"

    @property
    def config(self) -> Any:
        return self._config

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def name_or_path(self) -> str:
        return self.config.name_or_path

    @classmethod
    def can_generate(cls) -> bool:
        return False

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass. The parameters' tree stays as it is."""
        self._module = self.module.clone(gradient_checkpointing=True)
        self.__dict__.pop("_compiled", None)


def _dotted(tree: Any) -> dict[str, Any]:
    return flatten_dict(unfreeze(tree), sep=".")


def _cast(params: Any, dtype: Any, mask: Any = None) -> Any:
    def cast(leaf: Any, chosen: bool = True) -> Any:
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if chosen and floating else leaf

    if mask is None:
        return jax.tree.map(cast, params)
    return jax.tree.map(cast, unfreeze(params), unfreeze(mask))
