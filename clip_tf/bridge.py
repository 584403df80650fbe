"""What ties the layers to the core: weights in and out, initialisation, and the methods of v4.37's base class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optree
import tensorflow as tf

from clip_core import outputs
from clip_core.checkpoint.tensor import Tensor as LazyTensor
from clip_core.errors import InputError
from clip_core.init import initial_values
from clip_core.pretrained import Loaded, Pretrained
from clip_core.weights import weight_table

from . import export
from .inputs import named_inputs, unchanged
from .layers import Embedding, Layer, build_children, forget_layers

# Keras' trees know no subclasses of dict; tf.nest takes any mapping that it can fill.
for _cls in outputs.OUTPUT_CLASSES:
    optree.register_pytree_node(
        _cls,
        lambda output: (*outputs.flatten(output), tuple(output)),
        lambda names, values, cls=_cls: outputs.unflatten(cls, names, values),
        namespace="keras",
    )

# (kind, leaf) of the weight table -> the layer's attribute, and the permutation from the canonical axes to its own.
LEAVES: dict[tuple[str, str], tuple[str, tuple[int, ...] | None]] = {
    ("linear", "weight"): ("kernel", (1, 0)),
    ("linear", "bias"): ("bias", None),
    ("conv", "weight"): ("kernel", (2, 3, 1, 0)),
    ("norm", "weight"): ("gamma", None),
    ("norm", "bias"): ("beta", None),
    ("embedding", "weight"): ("embeddings", None),
}

PIECE = 2 << 20  # bytes

_drawing: ContextVar[bool] = ContextVar("drawing", default=True)


@contextmanager
def without_drawing() -> Iterator[None]:
    """Models made inside keep zeros as weights, because a file's take their places."""
    token = _drawing.set(False)
    try:
        yield
    finally:
        _drawing.reset(token)


# What a main layer holds of the parts of `clip_core.weights`, and the sizes that v4.37's has as attributes.
PARTS = ("text_model", "vision_model", "text_projection", "visual_projection", "logit_scale")
PARTS += ("projection_dim", "text_embed_dim", "vision_embed_dim")

# v4.37's names for a model's own loss in `compile`
OWN_LOSS = (None, "auto", "auto_with_warning", "passthrough")


class Tower(Layer):
    """A tower: a layer that is made from a config, in a model or on its own."""

    config_class: Any = None

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
    """The layer that holds a public class's parts and computes its outputs: `model.clip`, `model.layers[0]`.

    Its methods take inputs in the styles of the model's.
    """

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(**named_inputs(type(self).call, type(self).__name__, args, kwargs))


def by_main_layer(method: Callable[..., Any]) -> Callable[..., Any]:
    """A model's method with the parameters of its main layer's method of that name, which does the work."""

    @tf.autograph.experimental.do_not_convert
    @wraps(method)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        layer = getattr(self, self.base_model_prefix)
        return (layer if method.__name__ == "call" else getattr(layer, method.__name__))(*args, **kwargs)

    return forward


class TFPreTrainedModel(keras.Model, Pretrained):
    """A keras.Model that loads, saves and initialises itself by the core's rules.

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
    main_input_name = "input_ids"

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if not isinstance(config, self.config_class):
            wanted, found = self.config_class.__name__, type(config).__name__
            raise TypeError(f"{type(self).__name__}: config: wanted a {wanted}, found {found}")
        config.validate()
        self.config = config

    def post_init(self) -> None:
        """Called last by every public class: builds the layers and draws the weights."""
        with keras.name_scope(self.name):
            build_children(self)
        self.built = True
        if _drawing.get():
            self.init_weights()

    def __setattr__(self, name: str, value: Any) -> None:
        """What the main layer holds is the main layer's, also when it is replaced; see `__getattr__`."""
        main = vars(self).get(self.base_model_prefix)
        if isinstance(main, MainLayer) and name in PARTS and hasattr(main, name) and name not in vars(self):
            setattr(main, name, value)
            return
        forget_layers(self, vars(self).get(name))
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """The main layer's parts are the model's too, `model.text_model` and `model.logit_scale`, as in PyTorch."""
        main = vars(self).get(self.base_model_prefix)
        if name in PARTS and main is not None:
            return getattr(main, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def init_weights(self, names: Iterable[str] | None = None) -> None:
        """Draw all weights, or those named, by v4.37's rule (`clip_core.init`), from `keras.utils.set_random_seed`."""
        values = initial_values(self.config, self.weight_scope)
        seed = keras.random.SeedGenerator()  # Keras' global one may be older than the seed that was set
        for name, (variable, _) in self._variables_by_name().items():
            if names is None or name in names:
                kind, value = values[name]
                if kind == "constant":
                    variable.assign(tf.fill(variable.shape, tf.cast(value, variable.dtype)))
                else:
                    variable.assign(keras.random.normal(variable.shape, stddev=value, dtype="float32", seed=seed))

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(**named_inputs(type(self).call, type(self).__name__, args, kwargs))

    # -- the core's hooks ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model from a folder, a single checkpoint file, a bundled name or a hub name.

        As `clip_core.pretrained.Pretrained.from_pretrained`, with Keras' reading of `dtype`: "float32" (default),
        "float16" and "bfloat16" are the weights' and the computation's type, "auto" the file's, and a mixed policy such
        as "mixed_bfloat16" (or a keras.DTypePolicy) keeps float32 weights. Where the global policy keeps weights of
        the wanted type, it is used: under `mixed_float16` a model that loads without `dtype` is a mixed one.
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
        with without_drawing():
            model = cls(loaded.config, *model_args, dtype=policy, **kwargs)
        for name, (variable, permutation) in model._variables_by_name().items():
            if name in loaded.tensors:
                tensor = loaded.tensors[name].astype(variable.dtype)
                fill(variable, tensor.permute(*permutation) if permutation else tensor)
        model.init_weights(loaded.fresh)
        return model

    def _get_weights(self, weights: Mapping[str, Any] | None = None) -> dict[str, LazyTensor]:
        if weights is not None:
            return {name: LazyTensor.from_numpy(np.asarray(value)) for name, value in weights.items()}
        out = {}
        for name, (variable, permutation) in self._variables_by_name().items():
            tensor = LazyTensor.from_numpy(keras.ops.convert_to_numpy(variable))
            out[name] = tensor.permute(*np.argsort(permutation)) if permutation else tensor
        return out

    def _variables_by_name(self) -> dict[str, tuple[Any, tuple[int, ...] | None]]:
        """Canonical name -> the variable, found along attributes, and the permutation to its axes."""
        out = {}
        for name, weight in weight_table(self.config, self.weight_scope).items():
            path, _, leaf = name.rpartition(".")
            permutation = None
            if weight.kind != "bare":
                leaf, permutation = LEAVES[weight.kind, weight.leaf]
            layer = self
            for step in path.split(".") if path else ():
                layer = layer[int(step)] if step.isdigit() else getattr(layer, step)
            out[name] = getattr(layer, leaf), permutation
        return out

    # -- saving, the Keras ways ---------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Keras' own entries (name, trainable, dtype) and the model's config under "config"."""
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None, **kwargs: Any) -> Any:
        """From `get_config`'s dict; as in v4.37 also from a config object, or its dict."""
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
        """Write weights and config.json into a folder (made if needed), replacing what is there in one step.

        Args:
            saved_model: also write a SavedModel into `saved_model/<version>`, with `signatures` or those of `export`.
            max_shard_size: bytes, or e.g. "500MB"; larger models are split into shards with an index.
            safe_serialization: model.safetensors, in the layout that every library reads, or (False, v4.37's default)
                tf_model.h5.
            is_main_process, state_dict, variant: as in PyTorch.
            push_to_hub, create_pr, token: accepted; uploading is refused.
        """
        super().save_pretrained(
            save_directory,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
            push_to_hub=push_to_hub,
            **kwargs,
        )
        if saved_model and kwargs.get("is_main_process", True):
            folder = str(Path(save_directory) / "saved_model" / str(version))
            if signatures is None:
                self.export(folder, verbose=False)
            else:
                tf.saved_model.save(self, folder, signatures=signatures)

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
            input_signature: name -> TensorSpec, in place of those of the `input_signature` property.
            **kwargs: for "litert", see `clip_tf.export.export_litert`; otherwise Keras'.
        """
        if format == "tf_saved_model":
            export.export_saved_model(self, filepath, input_signature, verbose=bool(verbose), **kwargs)
        elif format == "litert":
            export.export_litert(self, filepath, input_signature, **kwargs)
        else:
            super().export(filepath, format, verbose, input_signature, **kwargs)

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """Name -> TensorSpec of the inputs that serving takes; batch and sequence are free."""
        out = {}
        if hasattr(self, "text_model"):
            for name in ("input_ids", "attention_mask"):
                out[name] = tf.TensorSpec((None, None), tf.int32, name=name)
        if hasattr(self, "vision_model"):
            config = self.vision_model.config
            shape = (None, config.num_channels, config.image_size, config.image_size)
            out["pixel_values"] = tf.TensorSpec(shape, tf.float32, name="pixel_values")
        return out

    def serving(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What a server runs: named inputs to named tensors."""
        return self.serving_output(self(inputs, return_dict=True))

    def serving_output(self, output: Any) -> dict[str, tf.Tensor]:
        """An output's own tensors by name; hidden states and attentions are stacked, the towers' outputs left out."""
        return {
            name: tf.stack(value) if isinstance(value, tuple) else value
            for name, value in output.items()
            if not isinstance(value, outputs.ModelOutput)
        }

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """The smallest inputs that the model takes."""
        specs = self.input_signature.items()
        return {name: tf.ones([1, *(n or 2 for n in spec.shape[1:])], spec.dtype) for name, spec in specs}

    # -- training -----------------------------------------------------------------------------------------------------

    def own_loss(self, y_pred: Any) -> tf.Tensor | None:
        """The loss that the model brings along, from its output; None when it has none."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The model's own loss when `compile` was given none, otherwise the given one on the matching outputs.

        Labels meet outputs as in v4.37: a dict by name, a list in order, a single array the first output that is not
        the loss.
        """
        if isinstance(self.loss, str | None) and self.loss in OWN_LOSS:
            loss = self.own_loss(y_pred)
            if loss is not None:
                total = loss + sum(tf.cast(tf.reduce_sum(extra), loss.dtype) for extra in self.losses)
                return total / tf.distribute.get_strategy().num_replicas_in_sync  # replicas' gradients are added
        y, y_pred = match_labels(y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The given metrics, on the outputs that the loss is on; without labels none is updated."""
        if y is None:
            return self.get_metrics_result()
        y, y_pred = match_labels(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Compute each layer again in the backward pass instead of keeping its activations."""
        for tower in self._towers():
            tower.encoder.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        for tower in self._towers():
            tower.encoder.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(tower.encoder.gradient_checkpointing for tower in self._towers())

    # -- v4.37's base class -------------------------------------------------------------------------------------------

    @property
    def name_or_path(self) -> str:
        return self.config.name_or_path

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers the model holds; optionally only trained ones."""
        return sum(int(np.prod(v.shape)) for v in (self.trainable_weights if only_trainable else self.weights))

    def get_input_embeddings(self) -> keras.layers.Layer:
        """The token embedding; for a vision model its embeddings, as in v4.37."""
        if hasattr(self, "text_model"):
            return self.text_model.embeddings.token_embedding
        return self.vision_model.embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the token embedding by another layer, or its table by an array or variable [V, D]."""
        tower = self._text_tower("set_input_embeddings")
        if not isinstance(value, keras.layers.Layer):
            value = Embedding.of(tf.cast(tf.convert_to_tensor(value), tower.variable_dtype), tower)
        self._replace_embeddings(tower, value)

    def get_output_embeddings(self) -> None:
        """None: CLIP has no output embeddings."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> Embedding:
        """Grow or shrink the vocabulary; kept rows stay, new ones are drawn by the initialisation rule.

        A compiled model must be compiled again: its optimizer holds the old table.

        Args:
            new_num_tokens: rows wanted; None keeps the number (or only rounds it).
            pad_to_multiple_of: rounds the number up.
        """
        tower = self._text_tower("resize_token_embeddings")
        old = tower.embeddings.token_embedding
        rows = old.input_dim if new_num_tokens is None else int(new_num_tokens)
        if pad_to_multiple_of is not None:
            if pad_to_multiple_of < 1:
                raise ValueError(f"pad_to_multiple_of: wanted at least 1, found {pad_to_multiple_of}")
            rows = -(-rows // pad_to_multiple_of) * pad_to_multiple_of
        if rows < 1:
            raise ValueError(f"new_num_tokens: wanted at least 1, found {rows}")
        if rows == old.input_dim:
            return old
        kept = tf.convert_to_tensor(old.embeddings)[:rows]
        deviation = 0.02 * self.config.initializer_factor
        drawn = (rows - kept.shape[0], old.output_dim)
        new = keras.random.normal(drawn, stddev=deviation, dtype="float32", seed=keras.random.SeedGenerator())
        layer = Embedding.of(tf.concat([kept, tf.cast(new, kept.dtype)], axis=0), tower)
        layer.trainable = old.trainable
        self._replace_embeddings(tower, layer)
        return layer

    def _replace_embeddings(self, tower: Any, layer: keras.layers.Layer) -> None:
        tower.embeddings.token_embedding = layer
        if isinstance(rows := getattr(layer, "input_dim", None), int):
            tower.config.vocab_size = rows
        self.train_function = self.test_function = self.predict_function = None  # they hold the old table

    def _text_tower(self, what: str) -> Any:
        if not hasattr(self, "text_model"):
            raise ValueError(f"{type(self).__name__}.{what}: this model has no token embedding")
        return self.text_model

    def _towers(self) -> list[Any]:
        return [getattr(self, name) for name in ("text_model", "vision_model") if hasattr(self, name)]


def fill(variable: keras.Variable, tensor: LazyTensor) -> None:
    """Assign a tensor of the variable's dtype; a large one in pieces, in place: TensorFlow copies what it takes."""
    dtype = tf.as_dtype(variable.dtype).as_numpy_dtype  # bfloat16 comes as bits
    if tensor.nbytes <= PIECE or not isinstance(variable.value, tf.Variable):
        variable.assign(tensor.numpy().view(dtype))
        return
    whole = tensor.numpy() if tensor.part is None else None  # transposed: there is no reading a part of it
    rows = max(PIECE * tensor.shape[0] // tensor.nbytes, 1)
    handle = variable.value.handle
    for start in range(0, tensor.shape[0], rows):
        stop = min(start + rows, tensor.shape[0])
        piece = tensor.rows(start, stop).numpy() if whole is None else whole[start:stop]
        # `variable[start:stop].assign` would begin with reading the variable, which after the first part is a copy.
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=handle, begin=[start], end=[stop], strides=[1], value=piece.view(dtype)
        )
    # Assigning a part makes TensorFlow copy the whole variable at every read from then on, unless told otherwise.
    tf.raw_ops.DisableCopyOnRead(resource=handle)


@unchanged
def match_labels(y: Any, y_pred: Any) -> tuple[Any, Any]:
    """The labels, and of an output what they are for."""
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
