"""Connects the layers to the core: weights in and out, initialisation, and the methods of v4.37's base class."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import optree
import tensorflow as tf

from clip_core import outputs
from clip_core.absent import absent_attribute
from clip_core.checkpoint.tensor import Tensor as LazyTensor
from clip_core.errors import InputError
from clip_core.files import replace_file
from clip_core.init import initial_values
from clip_core.pretrained import Loaded, Pretrained, checked_config, load_checked
from clip_core.weights import in_scope, weight_table

from . import export
from .inputs import is_lite_trace, named_inputs, unchanged
from .layers import Layer, build_children, dtype_of, forget_layers
from .methods import TFMethods
from .names import canonical_shape, fill, keras_name, named_variables, rename_keras
from .shortcuts import walk

# Keras' trees do not handle subclasses of dict; tf.nest handles any mapping that it can fill.
for _cls in outputs.OUTPUT_CLASSES:
    optree.register_pytree_node(
        _cls,
        lambda output: (*outputs.flatten(output), tuple(output)),
        lambda names, values, cls=_cls: outputs.unflatten(cls, names, values),
        namespace="keras",
    )

_keras_names: ContextVar[bool] = ContextVar("keras_names", default=False)

_drawing: ContextVar[bool] = ContextVar("drawing", default=True)


@contextmanager
def without_drawing() -> Iterator[None]:
    """Models made in the block keep zero weights, to be replaced by a file's."""
    token = _drawing.set(False)
    try:
        yield
    finally:
        _drawing.reset(token)


# Parts of `clip_core.weights` in a main layer, and the sizes that are attributes of v4.37's.
PARTS = ("text_model", "vision_model", "text_projection", "visual_projection", "logit_scale")
PARTS += ("projection_dim", "text_embed_dim", "vision_embed_dim")

# v4.37's names for a model's own loss in `compile`
OWN_LOSS = (None, "auto", "auto_with_warning", "passthrough")


def register(cls: type) -> None:
    """Register a class of this package with Keras, for .keras files, and by its bare name for .h5 files. Users register
    their own subclasses."""
    if cls.__module__.partition(".")[0] == __package__:
        keras.saving.register_keras_serializable("clip_tf")(cls)
        keras.saving.get_custom_objects().setdefault(cls.__name__, cls)


class Tower(Layer):
    """A tower: a layer made from a config, inside a model or by itself."""

    config_class: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config.validate()
        self.config = config

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        return cls(cls.config_class.from_dict(config["config"]), **{k: v for k, v in config.items() if k != "config"})


class MainLayer(Tower):
    """The layer with a public class's parts, which computes its outputs: `model.clip`, `model.layers[0]`.

    Its methods accept the same styles of input as the model's.
    """

    is_main_layer = True  # not part of weights' names

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(**named_inputs(type(self).call, type(self).__name__, args, kwargs))


def by_main_layer(method: Callable[..., Any]) -> Callable[..., Any]:
    """A model's method that calls its main layer's method of the same name and parameters."""

    @tf.autograph.experimental.do_not_convert
    @wraps(method)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        layer = getattr(self, self.base_model_prefix)
        return (layer if method.__name__ == "call" else getattr(layer, method.__name__))(*args, **kwargs)

    return forward


class TFPreTrainedModel(TFMethods, keras.Model, Pretrained):
    """A keras.Model; loads, saves and initialises itself by the core's rules.

    Args:
        config: a config of the class's `config_class`.
        *inputs: ignored (v4.37's signature).
        name, dtype, trainable: Keras'. `dtype` is a dtype policy or its name, e.g. "mixed_bfloat16"; default the
            global one.

    Calls take inputs as keywords, as a list or tuple in the first argument, or as a mapping in the first argument;
    arrays, tensors and lists of numbers; and keras.Input tensors, for use in a Functional model.
    """

    _class_prefix = "TF"
    _native_format = "tf"
    _native_file = "tf_model.h5"
    weight_scope = None  # the public classes state theirs
    main_layer_class: Any = None  # what a public class makes as `self.clip`
    main_input_name = "input_ids"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        config = checked_config(type(self), config)
        config.validate()
        self.config = config
        if self.main_layer_class is not None:
            with dtype_of(self):
                self.clip = self.main_layer_class(config)
            self.post_init()

    def post_init(self) -> None:
        """Build the layers and draw the weights; to be called last by classes that make their own layers."""
        self.build_in_name_scope()
        if _drawing.get():
            self.init_weights()
        if getattr(self.config, "gradient_checkpointing", False):
            self.gradient_checkpointing_enable()

    def build_in_name_scope(self) -> None:
        """Make the weights of all layers with known sizes; other layers make theirs at the first call."""
        with keras.name_scope(self.name):
            build_children(self)
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """As `build_in_name_scope`: sizes come from the config, not from inputs."""
        self.build_in_name_scope()

    def __setattr__(self, name: str, value: Any) -> None:
        """Parts of the main layer are also replaced there; see `__getattr__`."""
        main = vars(self).get(self.base_model_prefix)
        if isinstance(main, MainLayer) and name in PARTS and hasattr(main, name) and name not in vars(self):
            setattr(main, name, value)
            return
        forget_layers(self, vars(self).get(name))
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """The main layer's parts are also attributes of the model: `model.text_model`, `model.logit_scale`."""
        main = vars(self).get(self.base_model_prefix)
        if name in PARTS and main is not None:
            return getattr(main, name)
        raise absent_attribute(self, name, "tf_model")

    def init_weights(self, names: Iterable[str] | None = None) -> None:
        """Draw all or the named weights by v4.37's rule (`clip_core.init`), seeded by `keras.utils.set_random_seed`."""
        values = initial_values(self.config, self.weight_scope) if self.weight_scope else {}
        seed = keras.random.SeedGenerator()  # Keras' global generator may be older than the seed
        for name, (variable, _) in self._variables_by_name().items():
            if name in values and (names is None or name in names):
                kind, value = values[name]
                if kind == "constant":
                    variable.assign(tf.fill(variable.shape, tf.cast(value, variable.dtype)))
                else:
                    variable.assign(keras.random.normal(variable.shape, stddev=value, dtype="float32", seed=seed))

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = super().__call__(**named_inputs(type(self).call, type(self).__name__, args, kwargs))
        return self.serving_output(output) if args and is_lite_trace(args[0]) else output

    # -- the core's hooks ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Self:
        """Load a model from a folder, a single checkpoint file, a bundled name or a hub name.

        As `clip_core.pretrained.Pretrained.from_pretrained`, with Keras' reading of `dtype`: "float32" (default),
        "float16" and "bfloat16" are the weights' and the computation's type, "auto" the file's, and a mixed policy such
        as "mixed_bfloat16" (or a keras.DTypePolicy) keeps float32 weights. The global policy is used if its weights
        have the wanted type: under `mixed_float16` a model loaded without `dtype` is a mixed one.
        """
        for key in ("dtype", "torch_dtype"):
            value = kwargs.get(key)
            if isinstance(value, keras.DTypePolicy) or isinstance(value, str) and value.startswith("mixed_"):
                policy = keras.dtype_policies.get(value)
                kwargs.update({key: policy.variable_dtype, "_policy": policy})
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def _build_arguments(cls) -> tuple[str, ...]:
        return ("_policy", "name")

    @classmethod
    def _from_weights(cls, loaded: Loaded, *model_args: Any, **kwargs: Any) -> Any:
        policy = kwargs.pop("_policy", None) or keras.config.dtype_policy()
        if policy.variable_dtype != loaded.dtype:
            policy = keras.DTypePolicy(loaded.dtype)
        # A class with its own parts draws them itself; weights missing in the file keep these values.
        with without_drawing() if cls.weight_scope else nullcontext():
            model = cls(loaded.config, *model_args, dtype=policy, **kwargs)
        model._make_all_weights()
        model._fill(loaded)
        return model

    def _fill(self, loaded: Loaded) -> None:
        """Assign a file's values; missing ones are drawn, or stay as the class made them."""
        variables = self._variables_by_name()
        table = weight_table(self.config, self.weight_scope) if self.weight_scope else {}
        tensors = {name: loaded.tensors[name] for name in variables if name in loaded.tensors}
        beside = {name: entry for name, entry in variables.items() if name not in table}
        if loaded.own is not None:
            rename_keras(loaded.own.entries, beside)
        shapes = {name: canonical_shape(*entry) for name, entry in beside.items()}
        tensors |= loaded.take_own(shapes)[0]
        for name, tensor in tensors.items():
            variable, permutation = variables[name]
            tensor = tensor.astype(variable.dtype) if "float" in variable.dtype else tensor
            fill(variable, tensor.permute(*permutation) if permutation else tensor)
        self.init_weights(loaded.fresh)

    def _make_all_weights(self) -> None:
        """Make the weights of a subclass's layers with unknown sizes by a call, as in v4.37."""
        if all(layer.built for layer in walk(self)):
            return
        try:
            self(self.dummy_inputs, training=False)
        except Exception as error:
            wanted = ", ".join(layer.name for layer in walk(self) if not layer.built)
            raise TypeError(
                f"{type(self).__name__}: a call with `dummy_inputs` was to make the weights of {wanted}, and failed: "
                "build them in the constructor, or override `dummy_inputs`"
            ) from error

    @classmethod
    def _lazy(cls, name: str, value: Any) -> LazyTensor:
        return LazyTensor.from_numpy(np.asarray(keras.ops.convert_to_numpy(value)))

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        """A model with fresh weights; the config is copied. **kwargs: the constructor's."""
        return cls(copy.deepcopy(config), **kwargs)

    def _get_weights(self, weights: Mapping[str, Any] | None = None) -> dict[str, LazyTensor]:
        if weights is not None:
            return {name: LazyTensor.from_numpy(np.asarray(value)) for name, value in weights.items()}
        self._make_all_weights()
        table = weight_table(self.config, self.weight_scope) if self.weight_scope else None
        out = {}
        for name, (variable, permutation) in self._variables_by_name().items():
            tensor = LazyTensor.from_numpy(keras.ops.convert_to_numpy(variable))
            known = in_scope(name, "full") if table is None else name in table
            if not known and _keras_names.get():  # an h5 file has a user's own part in Keras' form
                out[keras_name(name, variable)] = tensor
            else:
                out[name] = tensor.permute(*np.argsort(permutation)) if permutation else tensor
        return out

    def _variables_by_name(self) -> dict[str, tuple[Any, tuple[int, ...] | None]]:
        """Name -> (variable, permutation from the published axes to its own): the table's in its order, then those of
        parts that a subclass added or replaced."""
        found = named_variables(self)
        table = weight_table(self.config, self.weight_scope) if self.weight_scope else {}
        return {
            name: found[name] for name in (*(n for n in table if n in found), *(n for n in found if n not in table))
        }

    # -- saving, the Keras ways ---------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Keras' own entries (name, trainable, dtype) and the model's config under "config"."""
        return {**super().get_config(), "config": self.config.to_dict()}

    def get_build_config(self) -> None:
        """None: a model has its weights as soon as it exists."""

    @property
    def _build_shapes_dict(self) -> dict[str, Any]:
        """Needed by tf.lite.TFLiteConverter.from_keras_model; Keras writes it after `build`."""
        specs = self.input_signature.items()
        return {"input_shape": {name: tuple(export.fixed(self, spec).shape) for name, spec in specs}}

    @_build_shapes_dict.setter
    def _build_shapes_dict(self, value: Any) -> None:
        pass

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None, **kwargs: Any) -> Any:
        """A model from `get_config`'s dict; as in v4.37 also from a config object, or its dict."""
        if isinstance(config, cls.config_class):
            return cls(config, **kwargs)
        if "config" not in config:
            return cls(cls.config_class.from_dict(config), **kwargs)
        options = {key: value for key, value in config.items() if key != "config"}
        return cls(cls.config_class.from_dict(config["config"]), **options, **kwargs)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        saved_model: bool = False,
        version: int = 1,
        push_to_hub: bool = False,
        signatures: Any = None,
        max_shard_size: int | str = "10GB",
        create_pr: bool = False,
        safe_serialization: bool = False,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write weights and config.json into a folder (made if needed), replacing old files in one step.

        Args:
            saved_model: also write a SavedModel into `saved_model/<version>`, with `signatures` or those of `export`.
            max_shard_size: bytes, or e.g. "500MB"; larger models are split into shards with an index.
            safe_serialization: model.safetensors, in the layout of all libraries, or (False, v4.37's default)
                tf_model.h5.
            is_main_process, state_dict, variant: as in PyTorch.
            push_to_hub, create_pr, token: as in PyTorch.
        """
        token_ = _keras_names.set(not safe_serialization)
        try:
            super().save_pretrained(
                save_directory,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
                push_to_hub=push_to_hub,
                create_pr=create_pr,
                token=token,
                **kwargs,
            )
        finally:
            _keras_names.reset(token_)
        if saved_model and kwargs.get("is_main_process", True):
            folder = str(Path(save_directory) / "saved_model" / str(version))
            if signatures is None:
                self.export(folder, verbose=False)
            else:
                tf.saved_model.save(self, folder, signatures=signatures)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, by_name: bool = False, **kwargs: Any) -> None:
        """Load Keras' files, and the .h5 files of v4.37's models (tf_model.h5, and those of its `save_weights`).

        All of CLIP's own weights are required, unless `skip_mismatch` keeps those of another shape or name; of other
        layers, those in both are loaded, and a warning names the rest. `by_name` has no effect: v4.37 matches layers by
        name with it, and by order without.
        """
        name = str(filepath)
        if name.endswith(".weights.h5") or not name.endswith((".h5", ".hdf5")):
            super().load_weights(
                filepath, skip_mismatch=skip_mismatch, **({"by_name": by_name} if by_name else {}), **kwargs
            )
            return
        arguments = {"config": self.config, "strict": not skip_mismatch, "ignore_mismatched_sizes": skip_mismatch}
        self._make_all_weights()
        loaded = load_checked(type(self), filepath, arguments)
        self._fill(loaded._replace(fresh=[]))
        if loaded.own is not None:
            loaded.own.settle()

    def save_weights(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Write Keras' .weights.h5, or, for any other name ending in .h5, v4.37's file."""
        name = str(filepath)
        if name.endswith(".weights.h5") or not name.endswith(".h5"):
            super().save_weights(filepath, overwrite=overwrite, **kwargs)
            return
        if not overwrite and Path(filepath).exists():
            raise FileExistsError(f"filepath: exists already: {filepath}")
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=None)
            with replace_file(filepath) as path:
                shutil.copyfile(Path(folder) / self._native_file, path)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Mapping[str, tf.TensorSpec] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a file or folder that runs without this package.

        Args:
            filepath: a folder for "tf_saved_model", a name that ends in .tflite for "litert".
            format: "tf_saved_model" (signatures: see `clip_tf.export.endpoints`), "litert", or another of Keras'.
            verbose: True prints the signatures.
            input_signature: name -> TensorSpec, in place of the `input_signature` property.
            **kwargs: for "litert", see `clip_tf.export.export_litert`; otherwise Keras'.
        """
        if format == "tf_saved_model":
            export.export_saved_model(self, filepath, input_signature, verbose=bool(verbose), **kwargs)
        elif format == "litert":
            export.export_litert(self, filepath, input_signature, **kwargs)
        else:
            super().export(filepath, format, verbose, input_signature, **kwargs)

    # -- training -----------------------------------------------------------------------------------------------------

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, loss_weights: Any = None, **kwargs: Any
    ) -> None:
        """Keras' `compile`, with v4.37's order of parameters; without a loss the model's own is used, if it has one."""
        super().compile(optimizer, loss, metrics=metrics or None, loss_weights=loss_weights, **kwargs)
        if not metrics and not kwargs.get("weighted_metrics"):
            self._compile_metrics = None  # Keras keeps the metrics of an earlier `compile`

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """For a loaded model; Keras requires it of classes with their own `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def own_loss(self, y_pred: Any) -> tf.Tensor | None:
        """The model's own loss, from its output; None if it has none."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The model's own loss if `compile` got none, otherwise the given one on the matching outputs.

        Labels are matched to outputs as in v4.37: a dict by name, a list in order, a single array to the first output
        other than the loss.
        """
        if isinstance(self.loss, str | None) and self.loss in OWN_LOSS:
            loss = self.own_loss(y_pred)
            if loss is not None:
                total = loss + sum(tf.cast(tf.reduce_sum(extra), loss.dtype) for extra in self.losses)
                return total / tf.distribute.get_strategy().num_replicas_in_sync  # replicas' gradients are summed
        y, y_pred = match_labels(y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Update the given metrics, on the loss's outputs; without labels none is updated."""
        if y is None:
            return self.get_metrics_result()
        y, y_pred = match_labels(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _towers(self) -> list[Any]:
        own = [getattr(self, name, None) for name in ("text_model", "vision_model")]
        if any(own):
            return [tower for tower in own if tower is not None]
        return [layer for layer in walk(self) if isinstance(layer, Tower) and not isinstance(layer, MainLayer)]


@unchanged
def match_labels(y: Any, y_pred: Any) -> tuple[Any, Any]:
    """(the labels, the matching outputs)."""
    if y is None or not isinstance(y_pred, outputs.ModelOutput):
        return y, y_pred
    fields = [value for name, value in y_pred.items() if name != "loss"]
    if isinstance(y, Mapping):
        if unknown := [name for name in y if name not in y_pred]:
            raise InputError(f"labels: wanted some of {', '.join(y_pred)}, found {unknown[0]!r}")
        return dict(y), {name: y_pred[name] for name in y}
    if isinstance(y, list | tuple):
        return y, type(y)(fields[: len(y)])
    return y, fields[0]
