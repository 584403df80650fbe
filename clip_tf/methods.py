"""Further methods of v4.37's base class: serving, embeddings, names."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clip_core import outputs
from clip_core.files import replace_file

from .dataset import prepare_tf_dataset
from .layers import Embedding


class TFMethods:
    """Mixed into `TFPreTrainedModel`."""

    config: Any
    base_model_prefix: str

    # -- serving ------------------------------------------------------------------------------------------------------

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """Name -> TensorSpec of the inputs for serving, by the parameters of `call`; sizes of texts are free."""
        names = inspect.signature(type(self).call).parameters  # type: ignore[attr-defined]
        out = {}
        for name in ("input_ids", "attention_mask"):
            if name in names:
                out[name] = tf.TensorSpec((None, None), tf.int32, name=name)
        if "pixel_values" in names:
            config = getattr(self.config, "vision_config", self.config)
            shape = (None, config.num_channels, config.image_size, config.image_size)
            out["pixel_values"] = tf.TensorSpec(shape, tf.float32, name="pixel_values")
        return out

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """The smallest inputs for the model."""
        specs = self.input_signature.items()
        return {name: tf.ones([1, *(n or 2 for n in spec.shape[1:])], spec.dtype) for name, spec in specs}

    def serving(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The function for serving: named inputs to named tensors."""
        return self.serving_output(self(inputs, return_dict=True))  # type: ignore[operator]

    def eager_serving(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`serving`, under a name that v4.37 deprecates."""
        warnings.warn("eager_serving is deprecated: use serving", FutureWarning, stacklevel=2)
        return self.serving(inputs)

    def serving_output(self, output: Any) -> dict[str, tf.Tensor]:
        """An output's own tensors by name; hidden states and attentions stacked, towers' outputs left out."""
        if not isinstance(output, outputs.ModelOutput):
            return output
        return {
            name: tf.stack(value) if isinstance(value, tuple) else value
            for name, value in output.items()
            if not isinstance(value, outputs.ModelOutput)
        }

    # -- embeddings ---------------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> keras.layers.Layer:
        """The token embedding; for a vision model its embeddings, as in v4.37."""
        towers = self._towers()
        embeddings = towers[0].embeddings if towers else None
        if embeddings is None:
            raise NotImplementedError(f"{type(self).__name__}.get_input_embeddings: the class has no tower of CLIP's")
        return getattr(embeddings, "token_embedding", embeddings)

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the token embedding by another layer, or its table by an array or variable [V, D]."""
        tower = self._text_tower("set_input_embeddings")
        if not isinstance(value, keras.layers.Layer):
            value = Embedding.of(tf.cast(tf.convert_to_tensor(value), tower.variable_dtype), tower)
        self._replace_embeddings(tower, value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> Embedding:
        """Grow or shrink the vocabulary; kept rows are unchanged, new ones are drawn by the initialisation rule.

        A compiled model must be compiled again, because its optimizer has the old table.

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
        deviation = 0.02 * getattr(self.config, "initializer_factor", 1.0)
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
        self.train_function = self.test_function = self.predict_function = None  # they have the old table

    def _text_tower(self, what: str) -> Any:
        for tower in self._towers():
            if hasattr(tower.embeddings, "token_embedding"):
                return tower
        raise ValueError(f"{type(self).__name__}.{what}: this model has no token embedding")

    def _towers(self) -> list[Any]:
        """The towers, text first: the model's own, or those of the model inside."""
        raise NotImplementedError  # of the base class

    def get_output_embeddings(self) -> None:
        """None: CLIP has no output embeddings."""

    def set_output_embeddings(self, value: Any) -> None:
        """No effect, as in v4.37: CLIP has no output embeddings."""

    def get_lm_head(self) -> None:
        """None: CLIP has no language model's head."""

    def get_output_layer_with_bias(self) -> None:
        """None: CLIP has no language model's head."""

    def get_prefix_bias_name(self) -> None:
        """None: CLIP has no language model's head."""

    def get_bias(self) -> None:
        """None: CLIP has no language model's head."""

    def set_bias(self, value: Any) -> None:
        """No effect, as in v4.37: CLIP has no language model's head."""

    # -- training -----------------------------------------------------------------------------------------------------

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute each layer in the backward pass instead of keeping its activations."""
        for encoder in self._encoders():
            encoder.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        for encoder in self._encoders():
            encoder.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(encoder.gradient_checkpointing for encoder in self._encoders())

    def _encoders(self) -> list[Any]:
        """Those of the towers that have one: a ResNet is computed as a whole."""
        return [tower.encoder for tower in self._towers() if hasattr(tower, "encoder")]

    def prepare_tf_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """Batches of rows for `fit`. Columns other than parameters of `call` are left out; a single one has no name.

        Args:
            dataset: a datasets.Dataset, or a list of rows, each a dict.
            batch_size: rows per batch. Default 8.
            shuffle: a new order in every epoch. Default True.
            tokenizer: pads texts to the longest of the batch.
            collate_fn, collate_fn_args: rows to a dict of arrays, and keywords for it.
            drop_remainder: leave out a smaller last batch. Default: as `shuffle`.
            prefetch: prepare the next batch during the computation. Default True.

        Labels ("labels", "label", "label_ids") come second, for losses given to `compile`.
        """
        return prepare_tf_dataset(type(self).call, dataset, *args, **kwargs)  # type: ignore[attr-defined]

    def get_label_to_output_name_mapping(self) -> dict[str, str]:
        """Labels with another name than their output; CLIP has none."""
        return {}

    # -- names --------------------------------------------------------------------------------------------------------

    @property
    def framework(self) -> str:
        """`"tf"`, by which transformers' tools identify the framework."""
        return "tf"

    @property
    def name_or_path(self) -> str:
        return self.config.name_or_path

    @property
    def generation_config(self) -> None:
        """None: CLIP generates no text."""

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model generates text: no."""
        return False

    def num_parameters(self, only_trainable: bool = False) -> int:
        """The number of parameters; optionally only of trainable ones."""
        weights = self.trainable_weights if only_trainable else self.weights  # type: ignore[attr-defined]
        return sum(int(np.prod(v.shape)) for v in weights)

    def create_model_card(self, output_dir: str | os.PathLike, model_name: str, **facts: Any) -> None:
        """Write README.md with a model card's header, and the last epoch of `fit` if there was one.

        **facts: language, license, tags, finetuned_from, tasks, dataset_tags, dataset, dataset_args: text or lists.
        """
        known = ("language", "license", "tags", "finetuned_from", "tasks", "dataset_tags", "dataset", "dataset_args")
        if unknown := sorted(set(facts) - set(known)):
            raise TypeError(f"create_model_card: unknown argument {unknown[0]!r}: wanted some of {', '.join(known)}")
        fields = {"finetuned_from": "base_model", "tasks": "pipeline_tag", "dataset_tags": "datasets"}
        header = {fields.get(name, name): value for name, value in facts.items() if value and name[:7] != "dataset"}
        header |= {"datasets": facts["dataset_tags"]} if facts.get("dataset_tags") else {}
        lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in header.items()), "---", f"# {model_name}"]
        if facts.get("dataset"):
            lines += ["", f"Trained on {facts['dataset']} {facts.get('dataset_args') or ''}".rstrip() + "."]
        history = getattr(getattr(self, "history", None), "history", None) or {}
        lines += ["", *(f"- {name}: {values[-1]:.4g}" for name, values in history.items())] if history else []
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with replace_file(Path(output_dir) / "README.md") as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")

    def get_head_mask(self, head_mask: Any, num_hidden_layers: int) -> Any:
        """[heads] or [layers, heads] as float32 [layers, 1, heads, 1, 1]; None as a list of None, one a layer."""
        if head_mask is None:
            return [None] * num_hidden_layers
        mask = tf.cast(head_mask, tf.float32)
        if mask.shape.rank == 1:
            mask = tf.repeat(mask[None], num_hidden_layers, axis=0)
        if mask.shape.rank != 2:
            raise ValueError(f"head_mask: wanted [heads] or [layers, heads], found {tuple(mask.shape)}")
        return mask[:, None, :, None, None]
