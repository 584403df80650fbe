"""Connects the modules to the core: weights in and out, initialisation, and the methods of v4.37's base class."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from clip_core import outputs
from clip_core.absent import absent_attribute
from clip_core.checkpoint import containers
from clip_core.checkpoint.dialects import FLAX, translate
from clip_core.checkpoint.ops import OPS
from clip_core.checkpoint.tensor import FLOATS, dtype_name
from clip_core.checkpoint.tensor import Tensor as LazyTensor
from clip_core.config import PretrainedConfig
from clip_core.errors import CheckpointError
from clip_core.pretrained import Loaded, Pretrained, checked_config
from clip_core.weights import Difference, compare, is_count, weight_table

from . import own_parts, shortcuts
from .inputs import by_position, with_defaults


def _flatten_with_keys(output: outputs.ModelOutput) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    values, names = outputs.flatten(output)
    return [(jax.tree_util.DictKey(name), value) for name, value in zip(names, values, strict=True)], names


@outputs.for_each_class_in_use
def _register(cls: Any) -> None:
    try:
        jax.tree_util.register_pytree_with_keys(
            cls, _flatten_with_keys, lambda names, values: outputs.unflatten(cls, names, values), outputs.flatten
        )
    except ValueError:  # a user's subclass, already registered by flax.struct.dataclass or its author
        return
    # Serialisation of `jax.export` programs that return an output, with the names of its fields.
    if hasattr(jax_export, "register_pytree_node_serialization"):  # JAX 0.4.36
        jax_export.register_pytree_node_serialization(
            cls,
            serialized_name=f"{cls.__module__}.{cls.__qualname__}",
            serialize_auxdata=lambda names: ",".join(names).encode(),
            deserialize_auxdata=lambda names: tuple(names.decode().split(",")) if names else (),
        )


def to_jax(tensor: LazyTensor, dtype: str | None) -> np.ndarray:
    """A lazy tensor's values, rounded once to a given `dtype`, for JAX (bfloat16 as ml_dtypes' type)."""
    tensor = tensor.astype(dtype) if dtype is not None and tensor.dtype in FLOATS else tensor
    array = tensor.numpy()
    return array.view(ml_dtypes.bfloat16) if tensor.dtype == "bfloat16" else array


def from_jax(array: Any) -> LazyTensor:
    """The inverse of `to_jax`; gathers sharded arrays."""
    return LazyTensor.from_numpy(np.asarray(array))


def as_dtype(dtype: Any) -> Any:
    """'bfloat16', 'bf16', np.float32, ... -> jnp.bfloat16, jnp.float32, ..."""
    return getattr(jnp, dtype_name(dtype))


class FlaxPreTrainedModel(Pretrained):
    """A Linen module with parameters; loads, saves and initialises itself by the core's rules.

    Args:
        config: of the class's `config_class`.
        module: the Linen module that computes.
        input_shape: of the example inputs for `init_weights`.
        seed: of the initial parameters.
        dtype: the computation's: jnp.float32, jnp.bfloat16, ... or a name. Parameters are float32 in any case.
        _do_init: False leaves the parameters to the caller, who passes `params=` to every call.
        jit: compile calls, once per input shape and set of flags. False runs operations eagerly. The attribute can be
            changed at any time. A compiled call keeps the config values of its compilation.

    Subclasses with their own module override `init_weights` and `__call__`, as in v4.37.
    """

    config_class: Any = PretrainedConfig
    module_class: Any = None
    weight_scope: Any = None
    base_model_prefix = ""
    main_input_name = "input_ids"
    _missing_keys: frozenset[Any] = frozenset()  # added to given params by `init_weights` of v4.37's users
    _class_prefix = "Flax"
    _own_dialects = ("hf", "flax")
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
        config = checked_config(type(self), config)
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
        # A ResNet's counts of batches, by which nothing is computed: JAX has no derivatives by integers, and no int64.
        self._counts: dict[str, LazyTensor] = {}
        if _do_init:
            self._params = unfreeze(self.init_weights(self.key, self.input_shape))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """For another module class, the weights are known only from the built module."""
        super().__init_subclass__(**kwargs)
        own, known = vars(cls).get("module_class"), super(cls, cls).module_class
        if own is not None and known is not None and not issubclass(own, known) and "weight_scope" not in vars(cls):
            cls.weight_scope = None

    # -- parameters ---------------------------------------------------------------------------------------------------

    def init_weights(self, rng: jax.Array, input_shape: Any, params: Any = None) -> dict[str, Any]:
        """Freshly drawn parameters, by v4.37's rule (`clip_core.init`); the model's own are not changed.

        With `params`, returns them, with missing ones drawn. Works under `jax.jit` and `jax.eval_shape`.
        """
        inputs = self._arguments(self._example(input_shape))
        if shortcuts.is_own(self.module):  # only draws, without a forward pass
            shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in by_position(inputs)]
            drawn = self.module.lazy_init(rng, *shapes)["params"]
        else:
            keys = dict(zip(("params", "dropout"), jax.random.split(rng), strict=True))
            drawn = self.module.init(keys, *by_position(inputs))["params"]
        if params is None:
            return drawn
        return unflatten_dict({**flatten_dict(drawn), **flatten_dict(unfreeze(params))})

    def _example(self, input_shape: Any) -> dict[str, Any]:
        """Example arguments of the module by name, of the input shape."""
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
        # New dicts, because the caller may edit the old ones; on the device, where every call needs them.
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
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params_shape_tree if params is None else params))

    def to_bf16(self, params: Any, mask: Any = None) -> Any:
        """A new tree with floating-point parameters, or those that are True in the tree `mask`, as bfloat16."""
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
        """Call the module on checked inputs as v4.37 does: arrays, `deterministic` and flags by position."""
        variables = {"params": params or self.params}
        rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
        settings = (not train, *flags), method, tuple(options.items())
        run = self._compiled if self.jit and shortcuts.allowed(self.module) else self._apply
        return run(variables, self._arguments(inputs), rngs, *settings)

    def _arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The module's arguments; a user's own module also gets v4.37's default mask and positions."""
        return inputs if shortcuts.is_own(self.module) else with_defaults(inputs)

    def _limits(self, config: Any) -> Any:
        """The config to check inputs against; None for a user's own module, whose tables may differ."""
        return config if shortcuts.is_own(self.module) else None

    def _apply(
        self, variables: Any, inputs: dict[str, Any], rngs: Any, flags: tuple[bool, ...], method: Any, options: Any
    ) -> Any:
        if "pixel_values" in inputs:  # callers pass [B, C, h, w], modules take [B, h, w, C]
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
    ) -> Self:
        """Load a model: see `clip_core.pretrained.Pretrained.from_pretrained`. Differences in Flax, as in v4.37:

        Args:
            dtype: the computation's, as for the constructor; it never changes the parameters.
            torch_dtype: the parameters'. Default: as in the file; "auto": the config's.
            _do_init: False returns (model, params), with the parameters in main memory; weights missing in the file
                are drawn, with a warning, as with `strict=False`.
            *model_args, seed, input_shape, jit, gradient_checkpointing: for the constructor.
        """
        kwargs["compute_dtype"] = dtype
        kwargs["keep_types"] = kwargs.get("torch_dtype") is None
        if kwargs.get("_do_init") is False:
            kwargs.setdefault("strict", False)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def _build_arguments(cls) -> tuple[str, ...]:
        return ("compute_dtype", "keep_types", "_do_init", "seed", "input_shape", "jit", "gradient_checkpointing")

    @classmethod
    def _from_weights(cls, loaded: Loaded, *model_args: Any, keep_types: bool = False, **kwargs: Any) -> Any:
        model, do_init = cls._hollow(loaded.config, *model_args, **kwargs)
        shapes = {path: tuple(leaf.shape) for path, leaf in _dotted(model.params_shape_tree).items()}
        published = {path for path, _ in model._paths().values()}
        # A user's own module may lack parts of CLIP.
        tensors = {path: found for path, found in translate(loaded.tensors, FLAX).items() if path in shapes}
        difference = Difference([], [], [(p, t.shape, shapes[p]) for p, t in tensors.items() if t.shape != shapes[p]])
        if any(difference):
            raise CheckpointError(f"{cls.__name__}: its module changes what the config says:\n{difference.report()}")
        tensors |= own_parts.load(loaded, {path: shape for path, shape in shapes.items() if path not in published})
        counts = {name: tensor.numpy() for name, tensor in loaded.tensors.items() if is_count(name)}
        model._counts = {name: LazyTensor.from_numpy(count) for name, count in counts.items()}
        return model._filled(tensors, None if keep_types else loaded.dtype, do_init)

    def _paths(self) -> dict[str, tuple[str, str]]:
        """Canonical name -> (path, operation) of CLIP's weights."""
        table = weight_table(self.config, self.weight_scope) if self.weight_scope else {}
        return {name: FLAX.foreign(name, row) for name, row in table.items()}

    @classmethod
    def _lazy(cls, name: str, value: Any) -> LazyTensor:
        return from_jax(value)

    @classmethod
    def _hollow(cls, config: Any, *model_args: Any, _do_init: bool = True, **kwargs: Any) -> tuple[Any, bool]:
        """(a model without parameters, whether it is to have parameters)."""
        if "compute_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("compute_dtype")
        return cls(config, *model_args, _do_init=False, **kwargs), _do_init

    def _filled(self, tensors: Mapping[str, LazyTensor], dtype: str | None, do_init: bool) -> Any:
        """The model with these parameters, or (model, params). Missing ones are drawn.

        dtype: of the floating-point ones; None keeps each one's.
        """
        with jax.default_device(None if do_init else jax.local_devices(backend="cpu")[0]):
            # The largest first: reading copies, and the largest table is then the only one in memory twice.
            largest_first = sorted(tensors.items(), key=lambda item: -item[1].nbytes)
            flat = {path: jnp.array(to_jax(tensor, dtype)) for path, tensor in largest_first}
            if set(flat) != set(_dotted(self.params_shape_tree)):
                drawn = self.init_weights(self.key, self.input_shape)
                flat = {**_dotted(drawn if dtype is None else _cast(drawn, as_dtype(dtype))), **flat}
        params = unflatten_dict({path: flat[path] for path in _dotted(self.params_shape_tree)}, sep=".")
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
            params: written instead of the model's own.
            safe_serialization: flax_model.msgpack in Flax's layout (False, v4.37's default), or model.safetensors in
                PyTorch's layout, which every library reads.
        """
        super().save_pretrained(
            save_directory,
            state_dict=_Saving(self.params if params is None else params, safe_serialization),
            push_to_hub=push_to_hub,
            max_shard_size=max_shard_size,
            token=token,
            safe_serialization=safe_serialization,
            **kwargs,
        )

    def _get_weights(self, weights: Any = None) -> dict[str, LazyTensor]:
        """CLIP's weights in canonical names and layouts; a user's own weights in the written layout."""
        if not isinstance(weights, _Saving):
            weights = _Saving(self.params if weights is None else weights, True)
        params, in_pytorch = weights
        tensors = {path: from_jax(leaf) for path, leaf in _dotted(params).items()}
        wanted = _dotted(self.params_shape_tree)
        missing, unexpected = [p for p in wanted if p not in tensors], [p for p in tensors if p not in wanted]
        if unexpected or len(missing) == len(wanted):
            report = Difference(missing, unexpected, []).report()
            raise CheckpointError(
                f"params: not those of this {type(self).__name__} (- missing, + unexpected):\n{report}"
            )
        if missing:
            warnings.warn(f"params: saved without {', '.join(missing)}", stacklevel=4)
        paths = self._paths().items()
        found = {name: OPS[op].inverse(tensors.pop(path))[0] for name, (path, op) in paths if path in tensors}
        found |= {name: self._counts.get(name, _NO_BATCHES) for name, _ in paths if is_count(name)}
        return found | (dict(own_parts.published(*item) for item in tensors.items()) if in_pytorch else tensors)

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

    @classmethod
    def load_flax_weights(cls, resolved_archive_file: Any) -> dict[str, Any]:
        """A weight file's arrays as a nested dict, in the file's names and layouts."""
        return cls.load_flax_sharded_weights([resolved_archive_file])

    @classmethod
    def load_flax_sharded_weights(cls, shard_files: Iterable[Any]) -> dict[str, Any]:
        """As `load_flax_weights`, for several files that belong together."""
        tensors = [item for file in shard_files for item in containers.read(Path(file)).tensors.items()]
        return unflatten_dict({name: jnp.array(to_jax(tensor, None)) for name, tensor in tensors}, sep=".")

    def __getattr__(self, name: str) -> Any:
        raise absent_attribute(self, name, "flax_model")

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass. The parameters' tree does not change."""
        self._module = self.module.clone(gradient_checkpointing=True)
        self.__dict__.pop("_compiled", None)


class _Saving(NamedTuple):
    """Arguments of `save_pretrained` for `_get_weights`: parameters, and whether to use PyTorch's layout."""

    params: Any
    in_pytorch: bool


_NO_BATCHES = LazyTensor.from_numpy(np.zeros((), np.int64))


def _dotted(tree: Any) -> dict[str, Any]:
    return flatten_dict(unfreeze(tree), sep=".")


def _cast(params: Any, dtype: Any, mask: Any = None) -> Any:
    def cast(leaf: Any, chosen: bool = True) -> Any:
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if chosen and floating else leaf

    if mask is None:
        return jax.tree.map(cast, params)
    return jax.tree.map(cast, unfreeze(params), unfreeze(mask))
