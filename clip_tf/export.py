"""Models as files that run without this package: SavedModel with serving signatures, and LiteRT (.tflite)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf


def endpoints(model: Any) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    """Signature name -> (function of named tensors to named tensors, names of its inputs).

    "serve", also "serving_default" for TensorFlow Serving, returns the model's own output. A full model also has "text"
    (input_ids, attention_mask -> text_features) and "image" (pixel_values -> image_features), the embeddings of
    `get_text_features` and `get_image_features`, not normalised.
    """

    def text(input_ids: tf.Tensor, attention_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text_features": model.get_text_features(input_ids, attention_mask)}

    def image(pixel_values: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image_features": model.get_image_features(pixel_values)}

    def serve_text(input_ids: tf.Tensor, attention_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.serving({"input_ids": input_ids, "attention_mask": attention_mask})

    def serve_image(pixel_values: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.serving({"pixel_values": pixel_values})

    def serve(input_ids: tf.Tensor, attention_mask: tf.Tensor, pixel_values: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}
        return model.serving(inputs)

    ids, pixels = ("input_ids", "attention_mask"), ("pixel_values",)
    if not hasattr(model, "vision_model"):
        return {"serve": (serve_text, ids)}
    if not hasattr(model, "text_model"):
        return {"serve": (serve_image, pixels)}
    return {"serve": (serve, ids + pixels), "text": (text, ids), "image": (image, pixels)}


def export_saved_model(
    model: Any,
    filepath: str | os.PathLike,
    input_signature: Mapping[str, tf.TensorSpec] | None = None,
    signatures: Sequence[str] | None = None,
    verbose: bool = False,
    options: tf.saved_model.SaveOptions | None = None,
) -> None:
    """Write a SavedModel.

    Args:
        input_signature: name -> TensorSpec for inputs that differ from `model.input_signature`.
        signatures: which of `endpoints`; default all.
        verbose: print them.
        options: TensorFlow's.
    """
    specs = {**model.input_signature, **(input_signature or {})}
    archive = keras.export.ExportArchive()  # tracks the endpoints' weights; `track` would write all of them twice
    for name, (function, inputs) in _chosen(model, signatures).items():
        named = [tf.TensorSpec(specs[i].shape, specs[i].dtype, name=i) for i in inputs]
        archive.add_endpoint(name, function, input_signature=named)
    archive.write_out(str(filepath), options=options, verbose=verbose)


def export_litert(
    model: Any,
    filepath: str | os.PathLike,
    input_signature: Mapping[str, tf.TensorSpec] | None = None,
    signatures: Sequence[str] | None = None,
    **converter_options: Any,
) -> None:
    """Write a .tflite file with only LiteRT's built-in operations.

    Args:
        input_signature: as for a SavedModel; default a batch of 1, and texts of the greatest length.
        signatures: which of `endpoints`; default "text" and "image" for a full model, else "serve". They share the
            weights.
        **converter_options: attributes of tf.lite.TFLiteConverter, e.g. `optimizations=[tf.lite.Optimize.DEFAULT]`.
    """
    path = Path(filepath)
    if path.suffix != ".tflite":
        raise ValueError(f"filepath: wanted a name that ends in .tflite for LiteRT, found {str(path)!r}")
    if signatures is None and hasattr(model, "text_model") and hasattr(model, "vision_model"):
        signatures = ("text", "image")
    names = list(_chosen(model, signatures))
    specs = {name: fixed(model, spec) for name, spec in model.input_signature.items()}
    with tempfile.TemporaryDirectory() as folder:
        export_saved_model(model, folder, {**specs, **(input_signature or {})}, names)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=names)
        for option, value in converter_options.items():
            if not hasattr(converter, option):
                raise TypeError(f"export: tf.lite.TFLiteConverter has no option {option!r}")
            setattr(converter, option, value)
        content = converter.convert()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _chosen(model: Any, signatures: Sequence[str] | None) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    known = endpoints(model)
    for name in signatures or ():
        if name not in known:
            raise ValueError(f"signatures: wanted some of {', '.join(known)}, found {name!r}")
    return {name: known[name] for name in signatures or known}


def fixed(model: Any, spec: tf.TensorSpec) -> tf.TensorSpec:
    """A signature with batch 1 and texts of the greatest length: static sizes make a smaller and faster file."""
    shape = [1, *spec.shape[1:]]
    if spec.shape.rank == 2:
        shape[1] = model.text_model.config.max_position_embeddings
    return tf.TensorSpec(shape, spec.dtype, name=spec.name)
